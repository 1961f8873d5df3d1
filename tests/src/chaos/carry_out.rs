//! Carries out the steps of a schedule.

use rustix::process::Signal;

use super::{
    exhaust,
    schedule::{Fault, Step},
    zones::Zones,
};
use crate::link::Conditions;

/// Share of datagrams that a lossy link loses.
const LOSS: f64 = 0.2;
/// Clients that hang at once; four were once enough to stop a pair of zones.
const CLIENTS: usize = 8;
/// Service whose instance sends more than anybody reads, and the one whose instance reads nothing.
const UNREAD: &str = "unread.mesh:9200";
const SINK: &str = "sink.mesh:9300";

/// Lets a fault begin or heal.
///
/// # Errors
/// When that cannot be done, or a gateway that was told to end did not end in order.
pub async fn step(zones: &mut Zones, step: &Step) -> anyhow::Result<()> {
    match (&step.fault, step.begins) {
        (Fault::Kill { zone }, true) => zones.kill(zone)?,
        (Fault::End { zone }, true) => zones.terminate(zone)?,
        (Fault::End { zone }, false) => {
            zones.ended(zone).await?;
            zones.start(zone)?;
        }
        (Fault::Kill { zone }, false) => zones.start(zone)?,
        (Fault::Stop { zone }, true) => zones.signal(zone, Signal::STOP)?,
        (Fault::Stop { zone }, false) => zones.signal(zone, Signal::CONT)?,
        (Fault::Unplug { zone }, begins) => zones.set_plugged(zone, !begins)?,
        (Fault::Down { zone }, begins) => zones.set_up(zone, !begins)?,
        (Fault::Cut { one, other }, begins) => {
            zones.set_link(one, other, begins.then(Conditions::cut));
        }
        (Fault::CutOneWay { from, to }, begins) => {
            zones.set_direction(from, to, begins.then(Conditions::cut));
        }
        (Fault::Lossy { one, other }, true) => zones.set_loss(one, other, LOSS),
        (Fault::Lossy { one, other }, false) => zones.set_link(one, other, None),
        (Fault::Unread { zone }, true) => zones.start_clients(zone, "unread", UNREAD, CLIENTS)?,
        (Fault::Flood { zone }, true) => zones.start_clients(zone, "flood", SINK, CLIENTS)?,
        (Fault::Unread { zone } | Fault::Flood { zone }, false) => zones.end_clients(zone),
        // One that is only starting may end for want of descriptors: its supervisor would start it again.
        (Fault::Descriptors { zone }, true) if !zones.is_alive(zone).await => {}
        (Fault::Descriptors { zone }, begins) => exhaust::set_descriptors(zones, zone, begins)?,
        (Fault::Disk { zone }, begins) => exhaust::set_disk_full(zones, zone, begins)?,
        (Fault::Ports { zone }, begins) => exhaust::set_ports(zones, zone, begins)?,
    }
    Ok(())
}
