//! One replica by itself, and many that exchange documents in any order.

mod history;

use proptest::prelude::*;

use super::{super::ChangeableParts, *};
use crate::signing::keyed::{KeyedSigner, KeyedVerifier};

fn zone(name: &str) -> ZoneName {
    ZoneName::new(name).unwrap()
}

fn gateway(name: &str) -> GatewayId {
    GatewayId::new(zone(name), "gw1".parse().unwrap())
}

/// A topology of zones z0 to z3; `more` are further lines.
fn text(more: &str) -> String {
    let zones: String = (0..4)
        .map(|n| format!("  z{n}: {{ gateways: [gw.z{n}:7800] }}\n"))
        .collect();
    format!("version: 1\ntrust_domain: a.b\nzones:\n{zones}{more}")
}

fn own(name: &str) -> Own {
    Own {
        zone: zone(name),
        trust_domain: "a.b".to_owned(),
    }
}

fn replica(name: &str) -> Applied {
    let initial = parse(&text(""), "initial").unwrap().topology;
    Applied::new(own(name), Some(initial), StoredTopology::default())
}

/// Does what a gateway does with an `apply`, and gives the document.
fn apply(replica: &mut Applied, more: &str) -> Result<Arc<TopologyDocument>, TopologyRefusal> {
    apply_as(&ChangeableParts::Everything, replica, more)
}

/// As [`apply`], by somebody who may change so much.
fn apply_as(
    may: &ChangeableParts,
    replica: &mut Applied,
    more: &str,
) -> Result<Arc<TopologyDocument>, TopologyRefusal> {
    let draft = replica.draft(replica.edition().generation, &text(more))?;
    let by = GatewayId::new(replica.own.zone.clone(), "gw1".parse().unwrap());
    let document = TopologyDocument::because("", may, draft.parent, draft.text, by, 1);
    let document = Arc::new(document);
    replica.offer(&Vouched::by_author(document.clone()))?;
    Ok(document)
}

/// Rights over one service.
fn of_orders() -> ChangeableParts {
    ChangeableParts::Blocks(["orders".parse().unwrap()].into())
}

/// `to` asks `from` for what it lacks, and takes all of it.
fn pull(from: &Applied, to: &mut Applied) {
    // Refusals are looked at by the tests that expect them.
    let _ = to.receive(&vouched(from.newer_than(to.edition())));
}

fn vouched(documents: Vec<Arc<TopologyDocument>>) -> Vec<Vouched> {
    documents.into_iter().map(Vouched::by_author).collect()
}

fn history(replica: &Applied) -> Vec<(u64, &'static str)> {
    let line = |entry: &HistoryEntry| (entry.document.edition().generation, entry.standing.word());
    replica.history().iter().map(line).collect()
}

#[test]
fn an_apply_swaps_only_the_generation_that_it_expects() {
    let mut east = replica("z0");
    apply(&mut east, "# one").unwrap();
    assert_eq!(east.edition().generation, 1);
    assert_eq!(east.topology().unwrap().generation, 1);
    let stale = east.draft(0, &text("# late")).unwrap_err();
    assert_eq!(
        stale.to_string(),
        "generation 1 is in force, not 0: z0/gw1 applied it"
    );
    assert!(east.draft(1, &text("# one")).unwrap().same);
    let draft = east.draft(1, &text("services: { web: { port: 80 } }")).unwrap();
    assert_eq!(draft.changes.changes[0].to_string(), "+ service web");
    assert_eq!(east.edition().generation, 1, "a draft changes nothing");
}

#[test]
fn what_does_not_fit_this_gateway_is_refused() {
    let east = replica("z0");
    let word = |text: &str| east.draft(0, text).unwrap_err().word();
    assert_eq!(word("nonsense"), "invalid");
    assert_eq!(word(&text("").replace("z0", "z9")), "no_own_zone");
    assert_eq!(word(&text("").replace("a.b", "b.c")), "trust_domain");
}

#[test]
fn a_gateway_that_was_away_gets_what_it_lacks_oldest_first() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    for more in ["# 1", "# 2", "# 3"] {
        apply(&mut east, more).unwrap();
    }
    let generations = |documents: Vec<Arc<TopologyDocument>>| -> Vec<u64> {
        documents
            .iter()
            .map(|document| document.edition().generation)
            .collect()
    };
    assert_eq!(generations(east.newer_than(west.edition())), [1, 2, 3]);
    pull(&east, &mut west);
    assert_eq!(west.edition(), east.edition());
    assert!(east.newer_than(west.edition()).is_empty());
    apply(&mut west, "# 4").unwrap();
    assert_eq!(generations(west.newer_than(east.edition())), [4]);
    assert!(east.newer_than(west.edition()).is_empty());
}

#[test]
fn of_two_applied_at_once_that_of_the_lower_gateway_name_rules_everywhere_and_the_other_is_kept() {
    // Whatever the fingerprints are: whoever applies can choose those.
    for more in ["# a", "# b", "# c", "# d", "# e", "# f"] {
        of_two_applied_at_once_the_lower_name_rules(more);
    }
}

fn of_two_applied_at_once_the_lower_name_rules(more: &str) {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    let winner = apply(&mut east, "# one").unwrap().edition();
    let loser = apply(&mut west, more).unwrap().edition();
    let (east_before, west_before) = (east.clone(), west.clone());
    pull(&west_before, &mut east);
    pull(&east_before, &mut west);
    for replica in [&east, &west] {
        assert_eq!(replica.edition(), winner);
        assert_eq!(replica.conflict(), Some(TopologyConflict { winner, loser }));
        assert_eq!(history(replica), [(1, "in force"), (1, "overruled")]);
    }
    apply(&mut west, "# settled").unwrap();
    pull(&west.clone(), &mut east);
    for replica in [&east, &west] {
        assert_eq!(replica.conflict(), None, "the next generation settles it");
        assert_eq!(
            history(replica),
            [(2, "in force"), (1, "former"), (1, "overruled")]
        );
    }
}

#[test]
fn an_apply_that_a_later_generation_never_knew_of_is_told_as_overruled() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    apply(&mut east, "# one").unwrap();
    let parent = apply(&mut east, "# one, again").unwrap().parent();
    // Of these, one has a higher and one a lower fingerprint than generation 1 of the east.
    for more in ["# a", "# b", "# c", "# d", "# e", "# f"] {
        let mut west = west.clone();
        let lost = apply(&mut west, more).unwrap().edition();
        assert_ne!(lost, parent);
        pull(&east, &mut west);
        let conflict = west.conflict().expect("a word about what was lost");
        assert_eq!(conflict.winner, east.edition());
        let kept = west
            .history()
            .into_iter()
            .find(|entry| entry.document.edition() == lost);
        assert_eq!(conflict.loser, lost);
        assert_eq!(kept.unwrap().standing, HistoryStanding::Overruled);
    }
    pull(&east, &mut west);
    assert_eq!(west.conflict(), None, "nothing was lost here");
}

#[test]
fn a_zone_that_may_not_apply_is_refused_here_and_elsewhere() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    let mut rogue = replica("z1");
    apply(&mut east, "apply_from: [z0, z2]").unwrap();
    pull(&east, &mut west);
    assert_eq!(apply(&mut west, "# mine").unwrap_err().word(), "not_allowed");
    // A gateway that ignores the rule.
    apply(&mut rogue, "# 1").unwrap();
    let forged = apply(&mut rogue, "# 2").unwrap();
    assert_eq!(
        east.offer(&Vouched::by_author(forged)).unwrap_err().word(),
        "not_allowed"
    );
    assert_eq!(east.refused().count(), 1);
    assert_eq!(east.edition().generation, 1);
    assert!(
        east.draft(1, &text("# fine")).is_ok(),
        "a rogue cannot keep others from applying"
    );
}

#[test]
fn rivals_are_judged_by_what_was_before_both() {
    let shut_out = "apply_from: [z0]";
    for more in ["# a", "# b", "# c", "# d", "# e"] {
        let (mut east, mut west) = (replica("z0"), replica("z1"));
        apply(&mut east, shut_out).unwrap();
        apply(&mut west, more).unwrap();
        let (east_before, west_before) = (east.clone(), west.clone());
        pull(&west_before, &mut east);
        pull(&east_before, &mut west);
        assert_eq!(east.edition(), west.edition());
    }
}

#[test]
fn what_this_gateway_cannot_read_is_refused_and_bars_applying_on_the_past() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    let unreadable = TopologyDocument::new(
        east.edition(),
        text("key_of_the_future: 1").into(),
        gateway("z1"),
        1,
    );
    let unreadable = Arc::new(unreadable);
    assert_eq!(
        east.offer(&Vouched::by_author(unreadable)).unwrap_err().word(),
        "invalid"
    );
    assert_eq!(east.edition().generation, 0);
    assert_eq!(apply(&mut east, "# old").unwrap_err().word(), "behind");
    // Something newer that can be read ends that.
    apply(&mut west, "# 1").unwrap();
    apply(&mut west, "# 2").unwrap();
    pull(&west, &mut east);
    assert_eq!(east.edition().generation, 2);
    assert_eq!(east.refused().count(), 0);
}

#[test]
fn a_stored_topology_of_a_newer_program_is_kept_and_the_one_before_it_rules() {
    let mut east = replica("z0");
    let first = apply(&mut east, "# 1").unwrap();
    let newer = TopologyDocument::new(
        first.edition(),
        text("key_of_the_future: 1").into(),
        gateway("z0"),
        1,
    );
    let mut stored = east.stored();
    stored.documents.push(Arc::new(newer));
    let older_program = Applied::new(own("z0"), None, stored.clone());
    assert_eq!(older_program.edition(), first.edition());
    assert_eq!(older_program.stored(), stored);
    assert_eq!(history(&older_program), [(2, "unusable"), (1, "in force")]);
    assert_eq!(older_program.draft(1, &text("# x")).unwrap_err().word(), "behind");
}

#[test]
fn what_was_overruled_goes_with_what_overruled_it() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    apply_as(&of_orders(), &mut east, "# one").unwrap();
    apply(&mut west, "# two").unwrap();
    pull(&west, &mut east);
    pull(&east, &mut west);
    for replica in [&mut east, &mut west] {
        for n in 0..2 * MAX_HISTORY {
            apply_as(&of_orders(), replica, &format!("# {n}")).unwrap();
        }
        let oldest = history(replica).last().copied();
        assert!(oldest.is_some_and(|(generation, _)| generation > 1), "{oldest:?}");
    }
}

#[test]
fn a_document_counts_only_while_somebody_who_may_apply_stands_for_it() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    apply(&mut east, "apply_from: [z0]").unwrap();
    pull(&east, &mut west);
    let next = apply(&mut east, "apply_from: [z0]\n# next").unwrap();
    let vouched = |by: &[&str], author_is_proven| Vouched {
        document: next.clone(),
        by: by.iter().map(|name| gateway(name)).collect(),
        author_is_proven,
    };
    let word = |offered: Result<OfferedTopology, TopologyRefusal>| offered.unwrap_err().word();
    assert_eq!(word(west.clone().offer(&vouched(&[], true))), "lapsed");
    assert_eq!(word(west.clone().offer(&vouched(&["z1", "z3"], true))), "lapsed");
    // Somebody else of a zone that may: whoever applied it may have been revoked since.
    assert!(matches!(
        west.offer(&vouched(&["z1", "z0"], false)),
        Ok(OfferedTopology::Taken { .. })
    ));
}

#[test]
fn a_tie_is_decided_by_a_name_only_where_it_is_proven() {
    let (mut east, mut west) = (replica("z0"), replica("z1"));
    let rival = apply(&mut east, "# one").unwrap();
    apply(&mut west, "# two").unwrap();
    let mut rival = Vouched {
        document: rival,
        by: vec![gateway("z2")],
        author_is_proven: false,
    };
    assert_eq!(west.offer(&rival).unwrap_err().word(), "unproven");
    rival.author_is_proven = true;
    assert!(matches!(
        west.offer(&rival),
        Ok(OfferedTopology::Taken {
            conflict: Some(_),
            ..
        })
    ));
}

#[test]
fn rivals_of_one_author_without_end_do_not_pile_up() {
    let mut east = replica("z0");
    for n in 0..3 * MAX_HISTORY {
        let rival = TopologyDocument::new(
            Edition::default(),
            text(&format!("# {n}")).into(),
            gateway("z1"),
            1,
        );
        east.offer(&Vouched::by_author(Arc::new(rival))).unwrap();
        assert!(east.history().len() <= MAX_HISTORY && east.document().is_some());
    }
}

/// One thing that happens to a federation of replicas.
#[derive(Debug, Clone)]
enum Happening {
    /// A replica takes an `apply` of this text.
    Apply {
        at: usize,
        text: u8,
    },
    /// A replica answers what another lacks; it arrives later, if at all.
    Answer {
        from: usize,
        to: usize,
    },
    /// Documents that were answered some time ago arrive, perhaps not for the first time, perhaps only their end.
    Arrive {
        which: usize,
        skip: usize,
        keep: bool,
    },
    Restart {
        at: usize,
    },
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        (0..4usize, 0..6u8).prop_map(|(at, text)| Happening::Apply { at, text }),
        (0..4usize, 0..4usize).prop_map(|(from, to)| Happening::Answer { from, to }),
        (0..9usize, 0..3usize, any::<bool>()).prop_map(|(which, skip, keep)| Happening::Arrive {
            which,
            skip,
            keep
        }),
        (0..4usize).prop_map(|at| Happening::Restart { at }),
    ];
    prop::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_in_the_end_and_the_generation_in_force_never_goes_back(happenings in happenings()) {
        let mut replicas: Vec<Applied> = (0..4).map(|n| replica(&format!("z{n}"))).collect();
        let mut under_way: Vec<(usize, Vec<Arc<TopologyDocument>>)> = Vec::new();
        for happening in happenings {
            let before: Vec<TopologyRank> = replicas.iter().map(Applied::rank).collect();
            match happening {
                Happening::Apply { at, text } => drop(apply(&mut replicas[at], &format!("# {text}")).unwrap()),
                Happening::Answer { from, to } => {
                    let documents = replicas[from].newer_than(replicas[to].edition());
                    under_way.push((to, documents));
                }
                Happening::Arrive { which, skip, keep } if !under_way.is_empty() => {
                    let which = which % under_way.len();
                    let (to, documents) = under_way[which].clone();
                    let arrived = documents.iter().skip(skip).cloned().collect::<Vec<_>>();
                    prop_assert!(replicas[to].receive(&vouched(arrived)).iter().all(Result::is_ok));
                    if !keep {
                        under_way.remove(which);
                    }
                }
                Happening::Arrive { .. } => {}
                Happening::Restart { at } => {
                    let stored = replicas[at].stored();
                    let initial = replicas[at].initial.as_deref().cloned();
                    replicas[at] = Applied::new(replicas[at].own.clone(), initial, stored);
                }
            }
            for (replica, before) in replicas.iter().zip(before) {
                prop_assert!(replica.rank() >= before, "{:?} after {before:?}", replica.rank());
                prop_assert!(replica.history().len() <= MAX_HISTORY);
            }
        }
        let newest = replicas.iter().max_by_key(|replica| replica.rank()).unwrap().edition();
        // Each has heard of each other, and once more. Two may hold one text by different authors, and only one of these come first.
        for (n, to) in (0..2).flat_map(|_| (0..4).flat_map(|n| (0..4).map(move |to| (n, to)))) {
            let from = replicas[n].clone();
            if !replicas[to].is_settled(from.edition()) {
                pull(&from, &mut replicas[to]);
            }
        }
        for replica in &replicas {
            prop_assert_eq!(replica.edition(), newest);
        }
    }

    #[test]
    fn a_document_survives_the_round_trip(text in ".{0,200}", at in any::<u64>(), why in "é{0,200}|.{0,9}", all in any::<bool>()) {
        let may = if all { ChangeableParts::Everything } else { of_orders() };
        let parent = Edition { generation: 3, fingerprint: Fingerprint::of("before") };
        let document = TopologyDocument::because(&why, &may, parent, text.into(), gateway("z1"), at);
        let reason = document.reason().unwrap_or_default();
        prop_assert!(reason.len() <= MAX_REASON_BYTES && why.starts_with(reason));
        prop_assert!(reason == why || why.len() > MAX_REASON_BYTES);
        let document = document.sign(&KeyedSigner::new([7; 32], &gateway("z1"))).unwrap();
        let (signer, verifier) = (KeyedSigner::new([7; 32], &gateway("z2")), KeyedVerifier::new([7; 32]));
        let document = document.endorse(&gateway("z2"), &signer, &verifier).unwrap().unwrap();
        prop_assert_eq!(document.vouchers(&verifier), Ok(vec![gateway("z1"), gateway("z2")]));
        prop_assert_eq!(document.endorse(&gateway("z2"), &signer, &verifier).unwrap(), None);
        prop_assert_eq!(TopologyDocument::decode(&document.encode()), Ok(document));
    }

    #[test]
    fn arbitrary_bytes_are_no_document_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(TopologyDocument::decode(&bytes).is_err());
    }

    #[test]
    fn a_document_that_was_changed_on_the_way_is_no_document(at in 0usize..400, bit in 0u8..8) {
        let document = TopologyDocument::new(Edition::default(), text("").into(), gateway("z1"), 7);
        let mut bytes = document.encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // Either it is refused, or what was signed differs; the text itself cannot differ.
        if let Ok(read) = TopologyDocument::decode(&bytes) {
            prop_assert!(read.statement() != document.statement() || read.text() == document.text());
        }
    }
}
