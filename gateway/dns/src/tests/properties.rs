//! Properties of every answer.

use std::{sync::Arc, time::Instant, time::SystemTime};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use hickory_server::net::xfer::Protocol;
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*};

use super::{LOOPBACK, question, snapshot};
use crate::{
    access::QueryAccess,
    forward::Forwarder,
    handler::{DnsReply, Handler},
    rate::QueryRates,
    target_of,
    vips::VipTable,
};

pub(super) fn handler() -> Handler {
    let (snapshot, vips) = (snapshot(LOOPBACK), VipTable::in_memory());
    vips.refresh(&snapshot, SystemTime::now()).unwrap();
    Handler {
        snapshots: Arc::new(ArcSwap::from_pointee(snapshot)),
        vips: Arc::new(vips),
        forwarder: Forwarder::new(Vec::new()),
        access: QueryAccess::new(Vec::new()),
        rates: Mutex::new(QueryRates::default()),
        metrics: Arc::default(),
        servers: Vec::new(),
    }
}

fn reply(handler: &Handler, bytes: &[u8], protocol: Protocol) -> DnsReply {
    handler.reply(bytes, "127.0.0.1:5353".parse().unwrap(), protocol, Instant::now())
}

#[test]
fn a_stranger_is_refused_whatever_it_asks() {
    let handler = handler();
    let ask = |client: &str| {
        let bytes = question("orders.mesh.", RecordType::A).to_vec().unwrap();
        match handler.reply(&bytes, client.parse().unwrap(), Protocol::Udp, Instant::now()) {
            DnsReply::Ready(answer) => Message::from_vec(&answer).unwrap().metadata.response_code,
            DnsReply::None | DnsReply::Later(_) => panic!("not answered"),
        }
    };
    assert_eq!(ask("203.0.113.9:53000"), ResponseCode::Refused);
    assert_eq!(ask("[2001:db8::9]:53000"), ResponseCode::Refused);
    assert_eq!(ask("[::ffff:127.0.0.1]:53000"), ResponseCode::NoError);
    assert_eq!(ask("127.3.4.5:53000"), ResponseCode::NoError);
}

/// Labels as they appear in real names, and bytes that no real name has.
fn label() -> impl Strategy<Value = Vec<u8>> {
    let likely = prop::sample::select(vec![
        "orders",
        "mesh",
        "zone",
        "west",
        "version-v2",
        "_tcp",
        "_orders",
        "arpa",
        "in-addr",
        "127",
        "7",
    ]);
    prop_oneof![
        4 => likely.prop_map(|label| label.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..64),
    ]
}

proptest! {
    #[test]
    fn a_server_name_stands_for_what_its_address_would_or_for_nothing(
        name in "(([a-z0-9*_-]{0,12}|orders|version-v2|west|zone|mesh)\\.){0,5}(mesh\\.?|[a-zA-Z.]{0,8})|.{0,40}",
    ) {
        let (snapshot, vips) = (snapshot(LOOPBACK), VipTable::in_memory());
        vips.refresh(&snapshot, SystemTime::now()).unwrap();
        if let Some(target) = target_of(&snapshot, &vips.names(), &name) {
            prop_assert!(vips.claim(&snapshot, &target, SystemTime::now()).is_ok(), "{target}");
            prop_assert!(name.to_ascii_lowercase().trim_end_matches('.').ends_with(".mesh"));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..600)) {
        reply(&handler(), &bytes, Protocol::Udp);
    }

    #[test]
    fn a_damaged_question_does_not_make_it_panic(
        cut in 0..60usize, at in 0..60usize, byte in any::<u8>()
    ) {
        let mut bytes = question("version-v2.orders.mesh.", RecordType::SRV).to_vec().unwrap();
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Some(damaged) = bytes.get_mut(at) {
            *damaged = byte;
        }
        reply(&handler(), &bytes, Protocol::Tcp);
    }

    #[test]
    fn every_mesh_name_is_answered_with_its_own_question(
        labels in vec(label(), 0..8),
        kind in prop::sample::select(vec![
            RecordType::A, RecordType::SRV, RecordType::TXT, RecordType::PTR, RecordType::ANY,
        ]),
    ) {
        let handler = handler();
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels.iter().map(Vec::as_slice).chain([b"MeSh".as_slice()]) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label);
        }
        bytes.push(0);
        bytes.extend(u16::from(kind).to_be_bytes());
        bytes.extend([0, 1]);
        if bytes.len() <= 255 {
            match reply(&handler, &bytes, Protocol::Udp) {
                DnsReply::Ready(answer) => {
                    prop_assert!(answer.len() <= 512);
                    prop_assert_eq!(&answer[..2], &bytes[..2]);
                    prop_assert_eq!(&answer[12..bytes.len()], &bytes[12..], "case is kept (0x20)");
                    Message::from_vec(&answer).unwrap();
                }
                // A name by tag or by zone that gets its address first.
                DnsReply::Later(_) => {}
                DnsReply::None => prop_assert!(false, "not answered"),
            }
        }
    }
}
