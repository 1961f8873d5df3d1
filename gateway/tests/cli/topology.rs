//! Applying topologies: over the API and with the program, against a gateway that is ruled by them and one that a file
//! rules.

use std::{path::PathBuf, process::Output, sync::Arc};

use causeway_api::admin::Admin;
use causeway_control::{
    TopologySource,
    reload::{TopologyFile, Trigger},
    topology::{AppliedTopology, Keys},
};
use causeway_federation::{
    name::GatewayId,
    signing::keyed::{KeyedSigner, KeyedVerifier},
    topology,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    commands::{err, out, run, run_with_input},
    federation::{TOPOLOGY, ask, serve, state},
};

/// A gateway of zone east that began with the usual topology.
async fn ruled_by_applied() -> Admin {
    let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
    let initial = topology::parse(TOPOLOGY, "topology.yaml").unwrap();
    let keys = Keys {
        signer: Arc::new(KeyedSigner::new([7; 32], &id)),
        verifier: Arc::new(KeyedVerifier::new([7; 32])),
    };
    let mut state = state();
    let applied = AppliedTopology::in_memory(id, keys, initial, Arc::default()).unwrap();
    state.topology = TopologySource::Applied(applied);
    serve(state).await
}

fn json(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn put(admin: &Admin, query: &str, text: &str) -> (u16, Value) {
    let (status, answer) = ask(admin, &format!("PUT /v1/topology{query}"), text).await;
    (status, json(&answer))
}

async fn in_force(admin: &Admin) -> Value {
    let (status, answer) = ask(admin, "GET /v1/topology?text=true", "").await;
    assert_eq!(status, 200, "{answer}");
    json(&answer)["items"][0].clone()
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn ended(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), out(output), err(output))
}

#[tokio::test]
async fn tags_that_registered_instances_carry_are_not_warned_about_and_others_are() {
    let (admin, files) = (ruled_by_applied().await, Files::new());
    // Of orders v2 and of billing there are instances in other zones alone.
    let changed = TOPOLOGY.replace("port: 9000", "port: 9001");
    let good = files.write("good.yaml", &changed);
    let bad = files.write("bad.yaml", &changed.replace("version: v2", "version: v3"));
    for command in [&["diff", "-f"][..], &["apply", "--dry-run", "-f"]] {
        let told = async |file: &str| err(&run(Some(&admin), &[command, &[file]].concat()).await);
        let text = told(&good).await;
        assert!(
            !text.contains("no-instances") && !text.contains("tags-nowhere"),
            "{text}"
        );
        let text = told(&bad).await;
        let nowhere = "no instance carries {version=v3}, in this file or registered";
        assert!(text.contains(nowhere) && text.contains("bad.yaml:"), "{text}");
    }
    // By itself nobody can know.
    let alone = out(&run(None, &["validate", &good]).await);
    assert!(alone.contains("no instance in this file carries"), "{alone}");
}

#[tokio::test]
async fn a_put_swaps_the_topology_in_only_on_top_of_the_generation_that_it_names() {
    let admin = ruled_by_applied().await;
    let before = in_force(&admin).await;
    assert_eq!(before["generation"], 0);
    assert_eq!(before["source"], "initial");
    assert_eq!(before["text"], TOPOLOGY);

    let changed = TOPOLOGY.replace("port: 9000", "port: 9001");
    let (status, dry) = put(&admin, "?generation=0&dry_run=true", &changed).await;
    assert_eq!(status, 200, "{dry}");
    assert_eq!(dry["items"][0]["applied"], false);
    let line = "~ service billing: port: 9000 -> 9001";
    assert_eq!(dry["items"][0]["changes"][0]["line"], line);
    assert_eq!(in_force(&admin).await["generation"], 0, "nothing was applied");

    let (status, done) = put(&admin, "?generation=0", &changed).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(done["items"][0]["applied"], true);
    assert_eq!(done["items"][0]["generation"], 1);
    let after = in_force(&admin).await;
    assert_eq!(
        (&after["generation"], &after["source"]),
        (&1.into(), &"applied".into())
    );
    assert_eq!(after["applied_by"], "east/gw1");
    assert_eq!(after["text"], changed);
    assert_ne!(after["fingerprint"], before["fingerprint"]);

    let (status, stale) = put(&admin, "?generation=0", TOPOLOGY).await;
    assert_eq!(status, 409);
    assert_eq!(
        stale["error"],
        "generation 1 is in force, not 0: east/gw1 applied it"
    );
    assert_eq!(in_force(&admin).await["generation"], 1);

    let (status, same) = put(&admin, "?generation=1", &changed).await;
    assert_eq!(status, 200);
    assert_eq!(same["items"][0]["same"], true);
    assert_eq!(
        in_force(&admin).await["generation"],
        1,
        "the same text is no new generation"
    );
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused_with_the_reason() {
    let admin = ruled_by_applied().await;
    let (status, bad) = put(
        &admin,
        "?generation=0",
        &TOPOLOGY.replace("protocol: http", "protocol: htp"),
    )
    .await;
    assert_eq!(status, 422);
    let details = bad["details"].as_str().unwrap();
    assert!(
        details.contains("topology:22:15") && details.contains("http"),
        "{details}"
    );
    for (text, word) in [
        (TOPOLOGY.replace("east:", "north:"), "zone `east`"),
        (
            TOPOLOGY.replace("acme.internal\ndns", "other.internal\ndns"),
            "other.internal",
        ),
    ] {
        let (status, refusal) = put(&admin, "?generation=0", &text).await;
        assert_eq!(status, 422);
        assert!(refusal["error"].as_str().unwrap().contains(word), "{refusal}");
        assert!(refusal["hint"].is_string());
    }
    let (status, refusal) = put(&admin, "?generation=0", &"#".repeat(topology::MAX_FILE_BYTES + 1)).await;
    assert_eq!((status, refusal["error"].is_string()), (413, true));
    let (status, refusal) = put(&admin, "?generations=0", TOPOLOGY).await;
    assert_eq!((status, refusal["hint"].is_string()), (400, true));
    let (status, _) = put(&admin, "", &format!("apply_from: [west]\n{TOPOLOGY}")).await;
    assert_eq!(
        status, 200,
        "without a generation it follows whatever is in force"
    );
    let (status, refusal) = put(&admin, "", TOPOLOGY).await;
    assert_eq!(status, 403);
    assert_eq!(
        refusal["error"],
        "zone `east` may not apply topologies: generation 1 does not let it (`apply_from`)"
    );
}

#[tokio::test]
async fn where_a_file_rules_nothing_is_applied_and_the_difference_is_told_all_the_same() {
    let admin = serve(state()).await;
    let (status, refusal) = put(&admin, "", TOPOLOGY).await;
    assert_eq!(status, 403);
    assert!(
        refusal["hint"].as_str().unwrap().contains("--initial-topology"),
        "{refusal}"
    );
    assert_eq!(in_force(&admin).await["source"], "file");
    let (status, answer) = ask(
        &admin,
        "POST /v1/topology/diff",
        &TOPOLOGY.replace("port: 9000", "port: 9001"),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(json(&answer)["items"][0]["changes"][0]["kind"], "changed");

    let files = Files::new();
    let file = files.write("new.yaml", TOPOLOGY);
    let (code, _, said) = ended(&run(Some(&admin), &["apply", "-f", &file]).await);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("a file rules the topology of this gateway"),
        "{said}"
    );
}

#[tokio::test]
async fn apply_shows_the_changes_and_swaps_them_in() {
    let admin = ruled_by_applied().await;
    let files = Files::new();
    let file = files.write("new.yaml", &TOPOLOGY.replace("port: 9000", "port: 9001"));

    let (code, said, _) = ended(&run(Some(&admin), &["diff", "-f", &file]).await);
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "~ service billing: port: 9000 -> 9001\n")
    );
    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &file, "--dry-run"]).await);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("~ service billing: port: 9000 -> 9001\nnothing was applied"),
        "{said}"
    );
    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &file]).await);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("~ service billing: port: 9000 -> 9001\napplied: generation 1 ("),
        "{said}"
    );
    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &file]).await);
    assert_eq!(code, Some(0));
    assert!(said.contains("nothing to apply"), "{said}");
    let (code, said, _) = ended(&run(Some(&admin), &["diff", "-f", &file]).await);
    assert_eq!((code, said.as_str()), (Some(0), "no difference\n"));

    let older = files.write("older.yaml", TOPOLOGY);
    let (code, _, said) = ended(&run(Some(&admin), &["apply", "-f", &older, "--generation", "0"]).await);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("error: generation 1 is in force, not 0") && said.contains("hint:"),
        "{said}"
    );
    let bad = files.write("bad.yaml", &TOPOLOGY.replace("port: 9000", "prot: 9000"));
    let (code, _, said) = ended(&run(Some(&admin), &["apply", "-f", &bad]).await);
    assert_eq!(code, Some(65));
    assert!(
        said.contains("bad.yaml:18") && said.contains("did you mean `port`"),
        "{said}"
    );
    assert_eq!(in_force(&admin).await["generation"], 1);
}

#[tokio::test]
async fn what_get_topology_prints_can_be_applied_again() {
    let admin = ruled_by_applied().await;
    let (code, said, _) = ended(&run(Some(&admin), &["get", "topology"]).await);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("# generation 0, fingerprint "), "{said}");
    let files = Files::new();
    let file = files.write("again.yaml", &said);
    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &file]).await);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("no difference\ngeneration 0 has this very text"),
        "the line that names the base is not part of the text: {said}"
    );
    let (status, _) = put(&admin, "", &TOPOLOGY.replace("port: 9000", "port: 9001")).await;
    assert_eq!(status, 200);
    let (_, said, _) = ended(&run(Some(&admin), &["get", "topology", "-o", "yaml"]).await);
    assert!(
        said.contains("applied_by: east/gw1") && said.contains("text: "),
        "{said}"
    );
}

#[tokio::test]
async fn the_history_is_listed_and_an_older_topology_can_be_rolled_back_to() {
    let admin = ruled_by_applied().await;
    let (code, _, said) = ended(&run(Some(&admin), &["rollback"]).await);
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing was applied yet"), "{said}");
    let port = |port: u16| TOPOLOGY.replace("port: 9000", &format!("port: {port}"));
    for (generation, text) in [port(9001), port(9002), port(9003)].iter().enumerate() {
        let (status, _) = put(&admin, &format!("?generation={generation}"), text).await;
        assert_eq!(status, 200);
    }
    let (_, said, _) = ended(&run(Some(&admin), &["get", "topology", "--history"]).await);
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..2], ["GENERATION", "STANDING"]);
    assert_eq!(lines[1][..4], ["3", "in", "force", "east/gw1"]);
    assert_eq!(lines[3][..3], ["1", "former", "east/gw1"]);
    let (_, said, _) = ended(&run(Some(&admin), &["get", "topology", "--generation", "2"]).await);
    assert_eq!(said, port(9002));
    let (code, _, said) = ended(&run(Some(&admin), &["get", "zones", "--history"]).await);
    assert_eq!(code, Some(64), "{said}");

    let (code, said, _) = ended(&run(Some(&admin), &["rollback"]).await);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("port: 9003 -> 9002") && said.contains("applied: generation 4"),
        "{said}"
    );
    let (code, said, _) = ended(&run(Some(&admin), &["rollback", "--to", "1"]).await);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("port: 9002 -> 9001") && said.contains("applied: generation 5"),
        "{said}"
    );
    assert_eq!(in_force(&admin).await["text"], port(9001));
    for command in [["drain", "west"], ["undrain", "west"]] {
        let (code, said, complaint) = ended(&run(Some(&admin), &command).await);
        assert_eq!(code, Some(0), "{said}{complaint}");
    }
    let (_, said, _) = ended(&run(Some(&admin), &["get", "topology", "--history"]).await);
    let why: Vec<&str> = said.lines().map(str::trim_end).skip(1).take(4).collect();
    for (line, why) in why
        .iter()
        .zip(["undrain west", "drain west", "rollback to 1", "rollback to 2"])
    {
        assert!(line.ends_with(&format!("  {why}")), "{said}");
    }
    let (code, _, said) = ended(&run(Some(&admin), &["rollback", "--to", "77"]).await);
    assert_eq!(code, Some(1));
    assert!(said.contains("does not keep generation 77"), "{said}");
}

#[tokio::test]
async fn the_status_of_a_shift_tells_a_service_that_is_not_there_from_one_without_a_shift() {
    let admin = ruled_by_applied().await;
    for (service, told) in [
        ("nope", "the topology has no service `nope`"),
        ("billing", "billing is and was under no shift"),
    ] {
        let (code, _, said) = ended(&run(Some(&admin), &["shift", "status", service]).await);
        assert!(code == Some(1) && said.contains(told), "{said}");
    }
}

#[tokio::test]
async fn an_apply_never_undoes_what_was_applied_since_its_text_was_taken() {
    let admin = ruled_by_applied().await;
    let files = Files::new();
    let (_, taken, _) = ended(&run(Some(&admin), &["get", "topology"]).await);
    let first = files.write("first.yaml", &taken.replace("port: 9000", "port: 9001"));
    let second = files.write("second.yaml", &taken.replace("port: 8080", "port: 8081"));
    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &first]).await);
    assert_eq!(code, Some(0), "{said}");
    for dry_run in [&["--dry-run"][..], &[]] {
        let arguments = [&["apply", "-f", &second], dry_run].concat();
        let (code, said, why) = ended(&run(Some(&admin), &arguments).await);
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(
            why.contains("generation 1 is in force, not 0") && why.contains("`--force`"),
            "{why}"
        );
    }
    let (status, refusal) = put(&admin, "", &std::fs::read_to_string(&second).unwrap()).await;
    assert_eq!(status, 409, "over the API as well: {refusal}");
    assert!(
        in_force(&admin).await["text"]
            .as_str()
            .unwrap()
            .contains("port: 9001")
    );

    let (code, said, _) = ended(&run(Some(&admin), &["apply", "-f", &second, "--force"]).await);
    assert_eq!(code, Some(0));
    assert!(said.contains("applied: generation 2"), "{said}");
    let (_, again, _) = ended(&run(Some(&admin), &["get", "topology"]).await);
    assert!(again.starts_with("# generation 2, fingerprint "), "{again}");
    assert_eq!(again.matches("# generation ").count(), 1, "{again}");
}

/// The shell empties the file before the command runs, and the gateway follows the file.
#[tokio::test]
async fn writing_the_topology_over_the_file_that_rules_leaves_the_same_topology() {
    let files = Files::new();
    let path = files.write("causeway.yaml", TOPOLOGY);
    let file = Arc::new(TopologyFile::open(path.clone().into()).unwrap());
    let mut state = state();
    state.topology = TopologySource::File(file.clone());
    let admin = serve(state).await;

    std::fs::write(&path, "").unwrap();
    file.reload(Trigger::Change);
    let (code, said, why) = ended(&run(Some(&admin), &["get", "topology"]).await);
    assert_eq!((code, why.as_str()), (Some(0), ""));
    assert!(
        said.starts_with("# generation 0, fingerprint ") && said.ends_with(TOPOLOGY),
        "{said}"
    );
    std::fs::write(&path, &said).unwrap();
    file.reload(Trigger::Change);
    assert!(file.state().borrow().refused.is_none());
    let (_, again, _) = ended(&run(Some(&admin), &["get", "topology"]).await);
    assert_eq!(again.matches("# generation ").count(), 1, "{again}");
}

#[tokio::test]
async fn a_topology_whose_text_is_not_known_is_no_output() {
    let admin = serve(state()).await;
    let (code, said, why) = ended(&run(Some(&admin), &["get", "topology"]).await);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(why.contains("does not tell the text of its topology"), "{why}");
}

#[tokio::test]
async fn why_a_topology_was_applied_is_kept_with_it_and_a_reason_is_one_line() {
    let (admin, files) = (ruled_by_applied().await, Files::new());
    let file = files.write("new.yaml", &TOPOLOGY.replace("port: 9000", "port: 9001"));
    let apply = [
        "apply",
        "-f",
        &file,
        "-m",
        "the new port, OPS-7",
        "--wait",
        "300ms",
    ];
    let (code, said, complaint) = ended(&run(Some(&admin), &apply).await);
    assert!(said.contains("applied: generation 1 "), "{said}");
    // The records of this hand-made state stay as they are.
    assert_eq!(code, Some(79), "{said}{complaint}");
    assert!(
        complaint.contains("error: generation 1 is not in force after 300ms at "),
        "{complaint}"
    );
    let (_, history, _) = ended(&run(Some(&admin), &["get", "topology", "--history"]).await);
    assert!(
        history.contains("WHY") && history.contains("the new port, OPS-7"),
        "{history}"
    );
    assert_eq!(in_force(&admin).await["reason"], "the new port, OPS-7");
    let long = "x".repeat(301);
    for reason in ["two\nlines", &long] {
        let apply = ["apply", "-f", &file, "--dry-run", "-m", reason];
        let (code, _, said) = ended(&run(Some(&admin), &apply).await);
        assert!(
            code == Some(1) && said.contains("a reason is one line of at most 300 bytes"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn topologies_are_taken_from_standard_input() {
    let admin = ruled_by_applied().await;
    let changed = TOPOLOGY.replace("port: 9000", "port: 9001");
    let piped = async |args: &[&str], text: &str| ended(&run_with_input(Some(&admin), args, text).await);
    let (code, said, _) = piped(&["diff", "-f", "-"], &changed).await;
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "~ service billing: port: 9000 -> 9001\n")
    );
    // Nobody is asked where standard input is no terminal, whatever goes.
    let (code, said, _) = piped(&["apply", "-f", "-"], &changed).await;
    assert!(
        code == Some(0) && said.contains("applied: generation 1 "),
        "{said}"
    );
    let bad = changed.replace("port: 9001", "prot: 9001");
    let (code, _, said) = piped(&["apply", "-f", "-"], &bad).await;
    assert!(code == Some(65) && said.contains("standard input:"), "{said}");
    let alone = async |args: &[&str], text: &str| ended(&run_with_input(None, args, text).await);
    let (code, said, _) = alone(&["validate", "-"], &bad).await;
    assert!(code == Some(65) && said.contains("standard input:"), "{said}");
    let (code, _, said) = alone(&["validate", "-", "-"], &changed).await;
    assert!(code == Some(64) && said.contains("can be read once"), "{said}");
    let (code, said, complaint) = alone(&["simulate", "-", "--load", "orders=10"], &changed).await;
    assert!(said.contains("orders"), "{code:?} {said}{complaint}");
}
