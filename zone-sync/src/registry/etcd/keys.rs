//! Keys of etcd: which stands for what, and what their values are. Pure; the layout is also in docs/several-gateways.md, because an
//! operator may look at it with `etcdctl get --prefix /causeway/v1/`.
//!
//! | below `/causeway/v1/<zone>/` | value | lease |
//! | --- | --- | --- |
//! | `instances/<service>/<id>/<source>` | `causeway.registry.v1.Registration` | of whoever heard its last heartbeat; none without a time to live |
//! | `health/<service>/<id>` | `causeway.registry.v1.HealthReport` | of the zone-sync that the checking gateway is attached to |
//! | `gateways/<gateway>` | empty | of the attachment |
//! | `sessions/<gateway>` | the gateway's last session, 32 digits of hex | none: it outlives its gateway, so that nothing older comes after it |
//! | `writers/<process>/<lane>` | empty | of one lane of a zone-sync, which changes it so that a write that it gave up is not carried out late |
//!
//! An id may hold slashes, a service and a source may not, so every key reads one way only.

use causeway_federation::name::{GatewayName, ZoneName};
use causeway_federation::registry::{
    GatewaySession, InstanceKey, InstanceSource, Registration, SessionError, wire,
};
use causeway_proto::registry as proto;
use prost::Message as _;

/// Key of what one source says of one instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    pub instance: InstanceKey,
    pub source: InstanceSource,
}

/// Meaning of a key of etcd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Slot(SlotKey),
    Health(InstanceKey),
    Gateway(GatewayName),
    Session(GatewayName),
    Writer(WriterKey),
}

/// Key of one lane of writes of one zone-sync process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterKey {
    /// Random for each process.
    pub process: u128,
    pub lane: u8,
}

/// Reason why what etcd holds under the zone's prefix could not be read. Somebody else wrote it, or a later version did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdKeyError {
    #[error("the key `{0}` is not one of this layout")]
    Unknown(String),
    #[error("the value of the key `{key}` cannot be read: {problem}")]
    Value { key: String, problem: String },
}

/// The keys of one zone.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    #[must_use]
    pub fn new(zone: &ZoneName) -> Self {
        Self {
            prefix: format!("/causeway/v1/{zone}/"),
        }
    }

    /// The first key of the zone.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        self.prefix.clone().into_bytes()
    }

    /// The first key after those of the zone: the prefix with its last byte, a slash, one higher.
    #[must_use]
    pub fn end(&self) -> Vec<u8> {
        let mut end = self.first();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    #[must_use]
    pub fn encode(&self, key: &Key) -> Vec<u8> {
        let prefix = &self.prefix;
        match key {
            Key::Slot(SlotKey { instance, source }) => {
                format!("{prefix}instances/{}/{}/{source}", instance.service, instance.id)
            }
            Key::Health(instance) => format!("{prefix}health/{}/{}", instance.service, instance.id),
            Key::Gateway(name) => format!("{prefix}gateways/{name}"),
            Key::Session(name) => format!("{prefix}sessions/{name}"),
            Key::Writer(WriterKey { process, lane }) => format!("{prefix}writers/{process:032x}/{lane}"),
        }
        .into_bytes()
    }

    /// # Errors
    /// When it is no key of this zone and layout.
    pub fn decode(&self, bytes: &[u8]) -> Result<Key, EtcdKeyError> {
        let unknown = || EtcdKeyError::Unknown(shown(bytes));
        let text = std::str::from_utf8(bytes).map_err(|_| unknown())?;
        let rest = text.strip_prefix(self.prefix.as_str()).ok_or_else(unknown)?;
        let (kind, rest) = rest.split_once('/').ok_or_else(unknown)?;
        match kind {
            "instances" => {
                let (instance, source) = rest.rsplit_once('/').ok_or_else(unknown)?;
                Ok(Key::Slot(SlotKey {
                    instance: instance_key(instance).ok_or_else(unknown)?,
                    source: source.parse().map_err(|_| unknown())?,
                }))
            }
            "health" => Ok(Key::Health(instance_key(rest).ok_or_else(unknown)?)),
            "gateways" => Ok(Key::Gateway(rest.parse().map_err(|_| unknown())?)),
            "sessions" => Ok(Key::Session(rest.parse().map_err(|_| unknown())?)),
            "writers" => Ok(Key::Writer(writer_key(rest).ok_or_else(unknown)?)),
            _ => Err(unknown()),
        }
    }
}

fn instance_key(text: &str) -> Option<InstanceKey> {
    let (service, id) = text.split_once('/')?;
    wire::key(proto::InstanceKey {
        service: service.to_owned(),
        id: id.to_owned(),
    })
    .ok()
}

fn writer_key(text: &str) -> Option<WriterKey> {
    let (process, lane) = text.split_once('/')?;
    Some(WriterKey {
        process: u128::from_str_radix(process, 16).ok()?,
        lane: lane.parse().ok()?,
    })
}

/// # Errors
/// When it is no registration, or one of another instance than its key says.
pub fn decode_registration(key: &SlotKey, value: &[u8]) -> Result<Registration, EtcdKeyError> {
    let wrong = |problem: String| EtcdKeyError::Value {
        key: format!("{}/{}", key.instance, key.source),
        problem,
    };
    let message = proto::Registration::decode(value).map_err(|error| wrong(error.to_string()))?;
    let registration = wire::registration(message).map_err(|error| wrong(error.to_string()))?;
    if registration.key() != key.instance {
        return Err(wrong(format!("it is about {}", registration.key())));
    }
    Ok(registration)
}

#[must_use]
pub fn encode_registration(registration: &Registration) -> Vec<u8> {
    wire::registration_message(registration).encode_to_vec()
}

/// # Errors
/// When it is no report of health.
pub fn decode_report(key: &InstanceKey, value: &[u8]) -> Result<proto::HealthReport, EtcdKeyError> {
    proto::HealthReport::decode(value).map_err(|error| EtcdKeyError::Value {
        key: format!("health/{key}"),
        problem: error.to_string(),
    })
}

/// # Errors
/// When it names no session.
pub fn decode_session(gateway: &GatewayName, value: &[u8]) -> Result<GatewaySession, EtcdKeyError> {
    let wrong = |problem: String| EtcdKeyError::Value {
        key: format!("sessions/{gateway}"),
        problem,
    };
    let text = std::str::from_utf8(value).map_err(|error| wrong(error.to_string()))?;
    text.parse()
        .map_err(|error: SessionError| wrong(error.to_string()))
}

#[must_use]
pub fn encode_session(session: GatewaySession) -> Vec<u8> {
    session.to_string().into_bytes()
}

/// Longest part of a strange key that a message repeats, in bytes.
const SHOWN_BYTES: usize = 200;

fn shown(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(SHOWN_BYTES)
        .copied()
        .flat_map(std::ascii::escape_default)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use causeway_federation::name::ServiceName;

    fn layout() -> Layout {
        Layout::new(&"east".parse().unwrap())
    }

    fn key(service: &str, id: &str) -> InstanceKey {
        InstanceKey {
            service: ServiceName::new(service).unwrap(),
            id: id.to_owned(),
        }
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(service in "[a-z]{1,9}", id in "[a-z0-9:./@_-]{1,40}", kind in 0..5, process: u128, lane: u8) {
            let instance = key(&service, &id);
            let written = match kind {
                0 => Key::Slot(SlotKey { instance, source: InstanceSource::named(&service).unwrap_or(InstanceSource::Registered) }),
                1 => Key::Health(instance),
                2 => Key::Gateway(service.parse().unwrap()),
                3 => Key::Session(service.parse().unwrap()),
                _ => Key::Writer(WriterKey { process, lane }),
            };
            let bytes = layout().encode(&written);
            prop_assert!(layout().first() <= bytes && bytes < layout().end());
            prop_assert_eq!(layout().decode(&bytes), Ok(written));
        }

        #[test]
        fn no_bytes_make_the_decoder_fall(bytes: Vec<u8>, tail in "\\PC{0,40}") {
            let _ = layout().decode(&bytes);
            let _ = layout().decode(format!("/causeway/v1/east/instances/{tail}").as_bytes());
            let slot = SlotKey { instance: key("a", "b"), source: InstanceSource::Registered };
            let _ = decode_registration(&slot, &bytes);
        }
    }

    #[test]
    fn an_id_with_slashes_stays_one_id() {
        let slot = SlotKey {
            instance: key("orders", "shop/pod-7/8080"),
            source: InstanceSource::Registered,
        };
        let bytes = layout().encode(&Key::Slot(slot.clone()));
        assert_eq!(
            bytes,
            b"/causeway/v1/east/instances/orders/shop/pod-7/8080/registered"
        );
        assert_eq!(layout().decode(&bytes), Ok(Key::Slot(slot)));
    }

    #[test]
    fn keys_of_another_zone_or_layout_are_refused() {
        for bad in [
            "/causeway/v1/eastern/gateways/a",
            "/causeway/v2/east/gateways/a",
            "/causeway/v1/east/gateways/A",
            "/causeway/v1/east/instances/orders",
            "/causeway/v1/east/instances/orders/a/No-Source!",
            "/causeway/v1/east/other/a",
            "",
        ] {
            assert!(
                matches!(layout().decode(bad.as_bytes()), Err(EtcdKeyError::Unknown(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_value_that_tells_of_another_instance_than_its_key_is_refused() {
        let registration = Registration {
            service: ServiceName::new("orders").unwrap(),
            id: "a".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            tags: causeway_federation::name::Tags::default(),
            weight: 1,
            capacity_per_second: None,
            time_to_live: Some(Duration::from_secs(10)),
            provenance: causeway_federation::registry::Provenance::Elsewhere,
        };
        let slot = |id: &str| SlotKey {
            instance: key("orders", id),
            source: InstanceSource::Registered,
        };
        let value = encode_registration(&registration);
        assert_eq!(decode_registration(&slot("a"), &value), Ok(registration));
        assert!(matches!(
            decode_registration(&slot("b"), &value),
            Err(EtcdKeyError::Value { .. })
        ));
    }
}
