//! The picture of docs/topology.md: a zone that loses its instances at 60 % of all capacity, and gets them back. Worked out by the cores of the
//! gateways, second by second, and no clock. `BLESS=1` writes it anew.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, sync::Arc, time::Duration};

use causeway_federation::{
    catalog::Export,
    topology::{Criticality, Topology},
};
use rand::{SeedableRng, rngs::SmallRng};

use super::{super::*, ZONES, seen, three};
use crate::{
    failback::{Ceilings, FailbackTable},
    route::{Request, route},
    simulate::{Load, ZoneExports, simulate},
    target::Target,
    testbed::{gateway, service, tags, zone},
};

/// Requests a second that each zone can take, and that the clients of each ask for.
const CAPACITY: u64 = 300;
const ASKED: u64 = 180;
/// Seconds: the instances of west are lost, are back, take more than nothing again after the hold, and all after the ramp.
const LOST: u64 = 20;
const BACK: u64 = 50;
const HOLD: u64 = 10;
const RAMP: u64 = 30;
const END: u64 = 110;
const PICTURE: &str = "../../docs/pictures/failback.svg";

/// One gateway of each zone.
struct Gateways {
    topology: Arc<Topology>,
    demands: [DemandTable; 3],
    failbacks: [FailbackTable; 3],
    ceilings: [Ceilings; 3],
    boards: [Arc<CapacityBoard>; 3],
    rng: SmallRng,
}

/// Requests of one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    /// Served by each zone.
    served: [usize; 3],
    /// Those of west's own clients that west serves.
    own_of_west: usize,
    shed: usize,
}

impl Gateways {
    fn new() -> Self {
        Self {
            topology: three(&format!("failback: {{ hold: {HOLD}s, ramp: {RAMP}s }}")),
            demands: Default::default(),
            failbacks: Default::default(),
            ceilings: Default::default(),
            boards: Default::default(),
            rng: SmallRng::seed_from_u64(1),
        }
    }

    /// Clients ask; then gateways measure, tell each other, and plan.
    fn second(&mut self, second: u64) -> Second {
        let lost = (LOST..BACK).contains(&second);
        let capacities = [CAPACITY, CAPACITY, if lost { 0 } else { CAPACITY }];
        let now = Duration::from_secs(second);
        let mut counted = Second::default();
        let mut snapshots = Vec::new();
        for (own, name) in ZONES.iter().enumerate() {
            let mut snapshot = seen(&self.topology, name, capacities);
            snapshot.capacity = self.boards[own].clone();
            snapshot.ceilings = self.ceilings[own].clone();
            let (ceilings, _) = self.failbacks[own].step(now, &snapshot);
            self.ceilings[own].store(Arc::new(ceilings));
            let request = Request::new(Target::service(service("orders")));
            for _ in 0..ASKED {
                match route(&snapshot, &request, &mut self.rng).next() {
                    Some(first) => {
                        let at = first.zone(&snapshot.zone);
                        let to = ZONES.iter().position(|name| zone(name) == *at).unwrap();
                        counted.served[to] += 1;
                        counted.own_of_west += usize::from((own, to) == (2, 2));
                    }
                    None => counted.shed += 1,
                }
            }
            let counts = (
                service("orders"),
                tags(&[]),
                Criticality::Normal,
                ASKED * (second + 1),
            );
            self.demands[own].measure(now, vec![counts]);
            snapshots.push(snapshot);
        }
        for (own, name) in ZONES.iter().enumerate() {
            for (other, teller) in ZONES.iter().enumerate().filter(|(other, _)| *other != own) {
                let told = self.demands[other].told_to(&gateway(name), now);
                self.demands[own].hear(gateway(teller), now, told[0].rates.clone(), vec![]);
            }
        }
        for (own, name) in ZONES.iter().enumerate() {
            let known = self.demands[own].known(&zone(name), &self.topology);
            self.boards[own].publish(plan(&snapshots[own], &known));
        }
        counted
    }
}

/// Requests a second that `causeway simulate` says each zone gets, while west has instances or none.
fn predicted(topology: &Arc<Topology>, lost: bool) -> [f64; 3] {
    let export = |capacity| Export {
        service: service("orders"),
        tags: tags(&[]),
        instances: 1,
        healthy: 1,
        weight: 1,
        capacity_per_second: Some(capacity),
    };
    let exports: ZoneExports = ZONES
        .iter()
        .filter(|name| !(lost && **name == "west"))
        .map(|name| (zone(name), vec![export(CAPACITY)]))
        .collect();
    let load = |name: &&str| Load {
        from: zone(name),
        service: service("orders"),
        tags: tags(&[]),
        criticality: Criticality::Normal,
        per_second: ASKED as f64,
    };
    let loads: Vec<Load> = ZONES.iter().map(load).collect();
    let simulated = simulate(
        topology,
        &exports,
        &MeasuredCapacities::default(),
        &loads,
        &BTreeSet::new(),
        1,
    );
    assert_eq!(simulated.findings, []);
    ZONES.map(|name| {
        let served = simulated.served.iter().find(|served| served.zone == zone(name));
        served.map_or(0.0, |served| served.per_second)
    })
}

/// Mean of what each zone serves in these seconds.
fn mean(course: &[Second], seconds: std::ops::Range<u64>) -> [f64; 3] {
    let part = &course[seconds.start as usize..seconds.end as usize];
    let mean = |at: usize| part.iter().map(|one| one.served[at] as f64).sum::<f64>() / part.len() as f64;
    [mean(0), mean(1), mean(2)]
}

#[test]
fn the_picture_of_a_zone_that_is_lost_and_returns_is_what_the_cores_work_out() {
    let mut gateways = Gateways::new();
    let course: Vec<Second> = (0..END).map(|second| gateways.second(second)).collect();
    // Every figure was known beforehand, within 5 % of what the zone can take at most.
    for (seconds, lost) in [
        (5..LOST, false),
        (LOST + 5..BACK, true),
        (BACK + HOLD + RAMP + 2..END, false),
    ] {
        let (found, expected) = (
            mean(&course, seconds.clone()),
            predicted(&gateways.topology, lost),
        );
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 0.05 * expected,
                "{found}, not {expected}, in {seconds:?}"
            );
        }
    }
    for (second, counted) in course.iter().enumerate() {
        assert_eq!(counted.shed, 0, "at {second} s");
        // Four standard deviations of chance.
        assert!(
            counted.served.iter().all(|served| *served as f64 <= 300.0 + 40.0),
            "at {second} s: {counted:?}"
        );
        let since = (second as u64).saturating_sub(BACK + HOLD) as f64;
        let most = if (LOST..BACK + HOLD + RAMP).contains(&(second as u64)) {
            since / RAMP as f64
        } else {
            1.0
        };
        let share = counted.own_of_west as f64 / ASKED as f64;
        assert!(
            (share - most).abs() <= 0.15,
            "west takes {share} at {second} s, and may take {most}"
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURE);
    let drawn = svg(&course);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &drawn).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == drawn,
        "docs/pictures/failback.svg is not what is worked out: `BLESS=1 cargo test -p causeway-routing --lib picture` writes it"
    );
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 50.0;
/// Highest value of the vertical axis.
const MOST: f64 = 350.0;
/// Told apart by those who see colours otherwise, too.
const COLOURS: [&str; 3] = ["#0072b2", "#009e73", "#d55e00"];

fn x(second: f64) -> f64 {
    LEFT + second / END as f64 * (WIDTH - LEFT - RIGHT)
}

fn y(per_second: f64) -> f64 {
    HEIGHT - BOTTOM - per_second / MOST * (HEIGHT - TOP - BOTTOM)
}

fn svg(course: &[Second]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <title>Requests a second that each of three zones serves while west loses its instances and gets them back</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    axes(&mut out);
    events(&mut out);
    for (place, colour) in COLOURS.iter().enumerate() {
        let points: Vec<String> = course
            .iter()
            .enumerate()
            .map(|(second, counted)| {
                format!("{:.1},{:.1}", x(second as f64), y(counted.served[place] as f64))
            })
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
            points.join(" ")
        );
    }
    // All three end at the same height: one below the other, in the order in which they stand there.
    for (place, name) in ZONES.iter().enumerate() {
        let (left, top) = (x(END as f64) + 8.0, y(ASKED as f64) - 14.0 + 17.0 * place as f64);
        let _ = writeln!(
            out,
            "<text x=\"{left:.1}\" y=\"{top:.1}\" fill=\"{}\" font-weight=\"bold\">{name}</text>",
            COLOURS[place]
        );
    }
    out.push_str("</svg>\n");
    out
}

fn axes(out: &mut String) {
    for value in (0..=MOST as u64).step_by(50) {
        let at = y(value as f64);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for second in (0..=END).step_by(10) {
        let at = x(second as f64);
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second}</text>",
            HEIGHT - BOTTOM + 18.0
        );
    }
    let (middle, centre) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
    let full = y(CAPACITY as f64);
    let _ = writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">time (s)</text>\n\
         <text transform=\"translate(18 {centre:.1}) rotate(-90)\" text-anchor=\"middle\">served (requests/s)</text>\n\
         <line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{full:.1}\" y2=\"{full:.1}\" stroke=\"#888\" stroke-dasharray=\"6 4\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">capacity</text><text x=\"{:.1}\" y=\"{:.1}\">of each zone</text>",
        HEIGHT - 12.0,
        WIDTH - RIGHT,
        WIDTH - RIGHT + 8.0,
        full - 2.0,
        WIDTH - RIGHT + 8.0,
        full + 12.0,
    );
}

fn events(out: &mut String) {
    let marks = [
        (LOST, "west loses its instances"),
        (BACK, "they are back"),
        (BACK + HOLD, "hold over"),
        (BACK + HOLD + RAMP, "ramp over"),
    ];
    for (place, (second, words)) in marks.into_iter().enumerate() {
        let (at, top) = (x(second as f64), TOP - 8.0 - 16.0 * (place % 2) as f64);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\" stroke-dasharray=\"2 3\"/><text x=\"{:.1}\" y=\"{top:.1}\">{words}</text>",
            top - 8.0,
            HEIGHT - BOTTOM,
            at + 4.0
        );
    }
}
