//! Target `stored`: what is read back from disk and from etcd: heads of records, applied topologies, keys and registrations.
//! What is accepted says the same when it is written and read again.

use causeway_federation::{
    edition::Edition,
    name::{GatewayId, ZoneName},
    signing::keyed::{KeyedSigner, KeyedVerifier},
    topology::applied::TopologyDocument,
};
use causeway_proto::{registry, sync, topology as proto};
use causeway_zone_sync::{
    registry::etcd::keys::{
        Key, Layout, decode_registration, decode_report, decode_session, encode_registration, encode_session,
    },
    store::{head_row, read_head},
};
use prost::Message as _;

/// Byte that divides a key of etcd from its value.
const BETWEEN: u8 = b'\n';

/// The first byte says what the others are.
pub fn run(data: &[u8]) {
    let Some((kind, row)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => record(row),
        1 => document(row),
        _ => of_etcd(row),
    }
}

fn record(row: &[u8]) {
    let Ok(record) = read_head(row) else {
        return;
    };
    let again = read_head(&head_row(&record)).expect("an own row is accepted");
    assert_eq!(again, record);
    assert_eq!(again.signed, record.signed);
}

fn document(bytes: &[u8]) {
    let Ok(document) = TopologyDocument::decode(bytes) else {
        return;
    };
    assert!(document.edition() > document.parent());
    assert_eq!(
        TopologyDocument::decode(&document.encode()).as_ref(),
        Ok(&document)
    );
    // The key is not known to whoever makes the bytes up, but for the seeds.
    let is_seed = document.by() == &gateway() && document.text().as_ref() == TEXT;
    assert!(document.vouchers(&KeyedVerifier::new(SECRET)).is_err() || is_seed);
}

fn of_etcd(row: &[u8]) {
    let at = row.iter().position(|byte| *byte == BETWEEN).unwrap_or(row.len());
    let (key, value) = row.split_at(at);
    let value = value.get(1..).unwrap_or_default();
    let layout = layout();
    let Ok(key) = layout.decode(key) else {
        return;
    };
    assert_eq!(layout.decode(&layout.encode(&key)).as_ref(), Ok(&key));
    match key {
        Key::Slot(slot) => {
            if let Ok(registration) = decode_registration(&slot, value) {
                assert_eq!(registration.key(), slot.instance);
                let again = decode_registration(&slot, &encode_registration(&registration));
                assert_eq!(again, Ok(registration));
            }
        }
        Key::Health(instance) => drop(decode_report(&instance, value)),
        Key::Gateway(_) | Key::Writer(_) => {}
        Key::Session(gateway) => {
            if let Ok(session) = decode_session(&gateway, value) {
                let again = decode_session(&gateway, &encode_session(session));
                assert_eq!(again, Ok(session));
            }
        }
    }
}

const SECRET: [u8; 32] = [7; 32];
const TEXT: &str = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [gw:1] } }\n";

fn gateway() -> GatewayId {
    GatewayId::new("east".parse().expect("a zone"), "gw1".parse().expect("a gateway"))
}

fn layout() -> Layout {
    Layout::new(&"east".parse::<ZoneName>().expect("a zone"))
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let origin = sync::Origin {
        zone: "east".to_owned(),
        gateway: "gw1".to_owned(),
    };
    let flat = sync::Snapshot {
        origin: Some(origin),
        incarnation: 3,
        version: 9,
        parts: 1,
        topology: vec![1; 32],
        ..Default::default()
    };
    let statement = sync::Statement {
        incarnation: 3,
        version: 9,
        exports_digest: vec![2; 16],
        topology: vec![1; 16],
        topology_generation: 4,
        trust_generation: 6,
        trust: vec![3; 16],
        trust_ended: 7,
        shifts: vec![sync::ShiftWord {
            step: 8,
            requests: 9,
            against: vec![1, 0],
            taken_back: true,
        }],
        ..Default::default()
    };
    let signed = sync::Snapshot {
        head: Some(sync::Signed {
            statement: statement.encode_to_vec(),
            signature: vec![5; 64],
            credential: vec![vec![1, 2], vec![3]],
        }),
        ..flat.clone()
    };
    let bare = TopologyDocument::new(Edition::default(), TEXT.into(), gateway(), 1_700_000_000_000);
    let whole = bare.clone().sign(&KeyedSigner::new(SECRET, &gateway()));
    let edge = proto::Document::default();
    let registration = registry::Registration {
        service: "orders".to_owned(),
        id: "pod/7".to_owned(),
        address: "10.1.0.11:8080".to_owned(),
        ..Default::default()
    };
    let slot = [
        b"/causeway/v1/east/instances/orders/pod/7/consul\n".as_slice(),
        &registration.encode_to_vec(),
    ]
    .concat();
    vec![
        ("record".to_owned(), seed(0, &flat.encode_to_vec())),
        ("record-signed".to_owned(), seed(0, &signed.encode_to_vec())),
        ("document".to_owned(), seed(1, &bare.encode())),
        (
            "document-signed".to_owned(),
            seed(1, &whole.expect("a key that signs").encode()),
        ),
        ("document-empty".to_owned(), seed(1, &edge.encode_to_vec())),
        ("instance".to_owned(), seed(2, &slot)),
        (
            "health".to_owned(),
            seed(2, b"/causeway/v1/east/health/orders/pod/7\n\x10\x01"),
        ),
        ("gateway".to_owned(), seed(2, b"/causeway/v1/east/gateways/gw1")),
    ]
}

fn seed(kind: u8, row: &[u8]) -> Vec<u8> {
    [&[kind], row].concat()
}
