//! libFuzzer's way into the target `topology`; what it does is in `src/topology.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::topology::run(data));
