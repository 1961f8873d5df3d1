//! Generations that are kept, and those that make room.

use super::*;

#[test]
fn the_history_is_bounded_and_never_loses_what_is_in_force() {
    let mut east = replica("z0");
    for n in 0..2 * MAX_HISTORY {
        apply(&mut east, &format!("# {n}")).unwrap();
    }
    assert_eq!(east.history().len(), MAX_HISTORY);
    let long = "x".repeat(MAX_HISTORY_BYTES / 5);
    for n in 0..6 {
        apply(&mut east, &format!("# {n}{long}")).unwrap();
    }
    let bytes: usize = east
        .history()
        .iter()
        .map(|entry| entry.document.text().len())
        .sum();
    assert!(bytes <= MAX_HISTORY_BYTES, "{bytes}");
    assert_eq!(history(&east)[0], (26, "in force"));
}

#[test]
fn the_steps_of_a_long_shift_do_not_push_all_else_out_of_the_history() {
    let mut east = replica("z0");
    for n in 0..4 {
        apply(&mut east, &format!("# {n}")).unwrap();
    }
    let step = |step: u32| {
        format!(
            "services:\n  orders:\n    shift: {{ to: {{ version: v2 }}, steps: [{}], every: 1m, state: running, step: {step}, begun: '2026-12-01T00:00:00Z', \
             since: '2026-12-01T00:{step:02}:00Z', by: z0/gw1 }}\n    port: 80\n    split: [{{ tags: {{ version: v1 }} }}]\n",
            (1..=20).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
        )
    };
    for n in 1..=20 {
        apply(&mut east, &step(n)).unwrap();
    }
    let kept: Vec<u64> = history(&east).iter().map(|(generation, _)| *generation).collect();
    assert_eq!(
        kept,
        [24, 23, 22, 21, 20, 5, 4, 3, 2, 1],
        "the beginning stays, and the last steps"
    );
    // Whoever was away gets there over the gap.
    let mut west = replica("z1");
    pull(&east, &mut west);
    assert_eq!(west.edition(), east.edition());
    assert!(west.conflict().is_none());
}

#[test]
fn who_may_change_one_service_pushes_no_generation_of_operators_out_nor_the_reverse() {
    let mut east = replica("z0");
    let kept = |east: &Applied| -> Vec<u64> { history(east).iter().map(|(kept, _)| *kept).collect() };
    for n in 1..=7 {
        apply(&mut east, &format!("# {n}")).unwrap();
    }
    for n in 8..=60 {
        apply_as(&of_orders(), &mut east, &format!("# {n}")).unwrap();
    }
    assert_eq!(kept(&east), [60, 59, 58, 57, 56, 7, 6, 5, 4, 3]);
    for n in 61..=80 {
        apply(&mut east, &format!("# {n}")).unwrap();
    }
    assert_eq!(kept(&east), [80, 79, 78, 77, 76, 60, 59, 58, 57, 56]);
    // Nor by length: what came before the one in force stays in any case.
    let long = "x".repeat(MAX_HISTORY_BYTES / 5);
    for n in 81..=90 {
        apply_as(&of_orders(), &mut east, &format!("# {n}{long}")).unwrap();
    }
    assert_eq!(kept(&east), [90, 89, 88, 87, 80, 79, 78, 77, 76]);
    // Whoever was away gets there over the gaps.
    let mut west = replica("z1");
    pull(&east, &mut west);
    assert_eq!(west.edition(), east.edition());
    assert!(west.conflict().is_none());
}
