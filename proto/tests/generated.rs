//! The generated Rust is checked in, so that building needs no code generator; this test keeps it current.
//! `UPDATE_GENERATED=1 cargo test --workspace --test generated` writes it anew.

use std::{fs, path::Path};

const NAMES: [&str; 9] = [
    // The SPIFFE Workload API has no package.
    "_.rs",
    "causeway.ca.v1.rs",
    "causeway.registry.v1.rs",
    "causeway.sync.v1.rs",
    "causeway.topology.v1.rs",
    "causeway.trust.v1.rs",
    "causeway.tunnel.v1.rs",
    "etcdserverpb.rs",
    "mvccpb.rs",
];
const FILES: [&str; 9] = [
    "tunnel.proto",
    "sync.proto",
    "registry.proto",
    "topology.proto",
    "ca.proto",
    "trust.proto",
    "etcd/mvcc.proto",
    "etcd/rpc.proto",
    "spiffe/workload.proto",
];

/// Stands above every generated client and server.
const GRPC: &str = "#[cfg(feature = \"grpc\")]";

#[test]
fn generated_code_matches_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("create a folder for generated code");
    let files = protox::compile(FILES, [root.join("proto")]).expect("compile the .proto files");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .btree_map(".")
        // Messages are of use without tonic.
        .client_mod_attribute(".", GRPC)
        .server_mod_attribute(".", GRPC)
        // They hold private keys.
        .skip_debug(["X509SVID", "X509SVIDResponse"])
        .compile_fds(files)
        .expect("generate Rust");
    for name in NAMES {
        let fresh = fs::read_to_string(out.path().join(name)).expect("read generated code");
        let kept = root.join("src/generated").join(name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&kept, &fresh).expect("write generated code");
        }
        let current = fs::read_to_string(&kept).unwrap_or_default();
        assert!(
            current == fresh,
            "{name} is not what the .proto files say; run with UPDATE_GENERATED=1"
        );
    }
}
