//! Choosing what `causeway get` shows, at a running gateway.

use crate::{
    commands::{err, out, run},
    federation::{serve, state},
};

#[tokio::test]
async fn get_shows_what_is_chosen_and_says_which_names_nothing_has() {
    let admin = serve(state()).await;
    let get = async |args: &[&str]| {
        let output = run(Some(&admin), &[&["get"], args].concat()).await;
        (output.status.code(), out(&output), err(&output))
    };
    let (code, said, complaint) = get(&["zones", "west", "nowhere", "-o", "json"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("\"west\"") && !said.contains("\"plant\""), "{said}");
    assert!(
        complaint.starts_with("error: no zone is called `nowhere` in zone east\n"),
        "{complaint}"
    );
    let (code, said, _) = get(&["zones", "--unhealthy"]).await;
    assert_eq!((code, said.lines().count()), (Some(0), 2), "{said}");
    assert!(said.lines().nth(1).unwrap().starts_with("plant "), "{said}");
    let (_, said, _) = get(&["exports", "--service", "orders", "--sort=-tags"]).await;
    let tags = |line: &str| line.split_whitespace().nth(2).unwrap().to_owned();
    let tags: Vec<_> = said.lines().skip(1).map(tags).collect();
    assert_eq!(tags, ["version=v2", "version=v1", "version=v1"]);
    let (code, said, _) = get(&["exports", "--tag", "version=v9"]).await;
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "None of the 4 exports in zone east is what was asked for.\n"
        )
    );
    for (args, refused) in [
        (
            &["zones", "--service", "orders"][..],
            "zones are not chosen by --service",
        ),
        (
            &["instances", "--zone", "west"],
            "instances are not chosen by --zone",
        ),
        (&["topology", "7"], "topologies are not chosen by a name"),
        (&["events", "--unhealthy"], "events are not chosen by --unhealthy"),
        (
            &["tunnels", "--sort", "speed"],
            "there is no column `speed` to sort by",
        ),
    ] {
        let (code, _, said) = get(args).await;
        assert!(code == Some(64) && said.contains(refused), "{args:?}: {said}");
    }
}
