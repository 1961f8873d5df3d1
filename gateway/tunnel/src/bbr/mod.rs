//! Congestion control by a model of the path: how fast it delivers, and how long its round trip is while no queue stands in it
//! (BBR: Cardwell et al., ACM Queue 14(5), 2016; draft-ietf-ccwg-bbr). Loss does not slow it down unless it is heavy, so that a
//! path which loses a percent by itself is filled all the same.
//!
//! quinn's own BBR makes a rate of every two packets and keeps the shortest round trip of a connection's whole life. quinn paces
//! by the window alone, 1.25 windows for each round trip, so that here the window is all there is to set: it follows the
//! bandwidth-delay product, and its gain is smaller than in the original, which bounds the queue by pacing.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

mod model;
mod rate;
#[cfg(test)]
mod simulation;

use model::Model;

/// Makes controllers for new paths.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BbrFactory;

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr(Model::new(now, current_mtu)))
    }
}

/// The model, told what quinn tells a controller.
#[derive(Debug, Clone)]
struct Bbr(Model);

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.0.on_sent(now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.0.on_acknowledged(now, sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.0.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.0.on_lost(lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        model::INITIAL_WINDOW_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Time that the peer may keep acknowledgements back, which a window has to bridge.
const HEADROOM: Duration = super::config::MAX_ACK_DELAY;
