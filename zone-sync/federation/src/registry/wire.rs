//! Between the messages of `registry.proto` and the registry's own types, both ways.
//!
//! Whoever serves that contract, from memory or from a shared store, and whoever speaks to it, converts here. What comes
//! in is checked whole: what these functions return keeps every limit that concerns one registration alone. How long a
//! list may be is for the server to look at, with the limits below.

use std::{net::SocketAddr, time::Duration};

use causeway_proto::registry as proto;

use crate::name::ServiceName;

use super::{InstanceKey, InstanceSource, Provenance, Registration, RegistryError, check};

/// Metadata of a status: nothing of the call was done, for certain.
pub const UNTOUCHED: &str = "causeway-untouched";
/// Metadata of a call: the session of the gateway that makes it, a [`super::CallSession`].
pub const SESSION: &str = "causeway-session";
/// Most elements of one list, as the contract says.
pub const MAX_LIST: usize = 1_000;
/// Largest message in bytes: a full list of registrations of 4 KiB each, twenty times what one usually takes. Whoever
/// has larger ones sends fewer at a time.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Longest part of a bad value that a message repeats, in characters.
const SHOWN: usize = 80;

/// # Errors
/// When it is no registration that the registry would take.
pub fn registration(message: proto::Registration) -> Result<Registration, RegistryError> {
    let service = service(&message.service)?;
    let address: SocketAddr = match message.address.parse() {
        Ok(address) => address,
        Err(_) => return Err(RegistryError::NoAddress(shown(&message.address))),
    };
    let registration = Registration {
        service,
        id: id_or_address(message.id, address),
        address,
        tags: message.tags.into_iter().collect(),
        weight: message.weight.unwrap_or(1),
        capacity_per_second: Some(message.capacity_per_second).filter(|&capacity| capacity > 0),
        time_to_live: Some(message.time_to_live_milliseconds)
            .filter(|&milliseconds| milliseconds > 0)
            .map(Duration::from_millis),
        provenance: Provenance::Elsewhere,
    };
    check(&registration)?;
    Ok(registration)
}

#[must_use]
pub fn registration_message(registration: &Registration) -> proto::Registration {
    let tags = registration.tags.iter();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    proto::Registration {
        service: registration.service.to_string(),
        id: registration.id.clone(),
        address: registration.address.to_string(),
        tags: tags
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        weight: Some(registration.weight),
        capacity_per_second: registration.capacity_per_second.unwrap_or(0),
        time_to_live_milliseconds: registration.time_to_live.map_or(0, milliseconds),
    }
}

/// # Errors
/// When it cannot name an instance.
pub fn key(message: proto::InstanceKey) -> Result<InstanceKey, RegistryError> {
    let service = service(&message.service)?;
    super::limits::check_id(&message.id)?;
    Ok(InstanceKey {
        service,
        id: message.id,
    })
}

#[must_use]
pub fn key_message(key: &InstanceKey) -> proto::InstanceKey {
    proto::InstanceKey {
        service: key.service.to_string(),
        id: key.id.clone(),
    }
}

/// An instance as it is told to watchers, with its source and the revision of its value.
///
/// # Errors
/// When a part is missing or is not what the registry would take.
pub fn instance(message: proto::Instance) -> Result<(Registration, InstanceSource, u64), RegistryError> {
    let registration = registration(message.registration.unwrap_or_default())?;
    let source = message.source.parse().map_err(RegistryError::BadSource)?;
    Ok((registration, source, message.revision))
}

#[must_use]
pub fn instance_message(
    registration: &Registration,
    source: &InstanceSource,
    revision: u64,
) -> proto::Instance {
    proto::Instance {
        registration: Some(registration_message(registration)),
        source: source.to_string(),
        revision,
    }
}

/// Outcome of one element of a list.
#[must_use]
pub fn outcome<T>(done: &Result<T, RegistryError>) -> proto::Outcome {
    match done {
        Ok(_) => proto::Outcome::default(),
        Err(error) => proto::Outcome {
            refusal: error.word().to_owned(),
            message: error.to_string(),
        },
    }
}

/// # Errors
/// When it is no name that a service can have.
pub fn service(text: &str) -> Result<ServiceName, RegistryError> {
    ServiceName::new(text).map_err(RegistryError::BadService)
}

/// The address stands in for an id that was not given.
fn id_or_address(id: String, address: SocketAddr) -> String {
    if id.is_empty() { address.to_string() } else { id }
}

fn shown(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::Tags;

    fn arbitrary() -> impl Strategy<Value = Registration> {
        let times = proptest::option::of((1_000u64..86_400_000).prop_map(Duration::from_millis));
        let capacity = proptest::option::of(1u64..);
        let tags = proptest::collection::btree_map("[a-z]{1,9}", "[ -~]{0,20}", 0..4);
        (
            "[a-z]{1,9}",
            "[a-z0-9:.]{1,20}",
            1u16..,
            tags,
            0u32..1_000_000,
            capacity,
            times,
        )
            .prop_map(
                |(service, id, port, tags, weight, capacity_per_second, time_to_live)| Registration {
                    service: ServiceName::new(&service).unwrap(),
                    id,
                    address: SocketAddr::from(([10, 0, 0, 1], port)),
                    tags: tags.into_iter().collect::<Tags>(),
                    weight,
                    capacity_per_second,
                    time_to_live,
                    provenance: Provenance::Elsewhere,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_understood(told in arbitrary()) {
            prop_assert_eq!(registration(registration_message(&told)), Ok(told.clone()));
            prop_assert_eq!(key(key_message(&told.key())), Ok(told.key()));
            let message = instance_message(&told, &InstanceSource::Folder, 7);
            prop_assert_eq!(instance(message), Ok((told, InstanceSource::Folder, 7)));
        }

        #[test]
        fn nothing_that_comes_in_passes_the_limits(
            service in "\\PC{0,70}", id in "\\PC{0,140}", address in "[0-9a-f.:\\[\\]]{0,20}", weight: Option<u32>, time: u64
        ) {
            let message = proto::Registration {
                service, id, address, weight, time_to_live_milliseconds: time, ..Default::default()
            };
            if let Ok(registration) = registration(message) {
                prop_assert_eq!(check(&registration), Ok(()));
            }
        }
    }

    fn message(address: &str) -> proto::Registration {
        proto::Registration {
            service: "orders".to_owned(),
            address: address.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let read = registration(message("10.0.0.1:80")).unwrap();
        assert_eq!((read.id.as_str(), read.weight), ("10.0.0.1:80", 1));
        assert_eq!((read.capacity_per_second, read.time_to_live), (None, None));
    }

    #[test]
    fn a_refusal_has_a_word_and_says_what_was_wrong() {
        let refused = outcome(&registration(message("ten:eighty\n")));
        assert_eq!(refused.refusal, "bad_address");
        assert_eq!(
            refused.message,
            "`ten:eighty\\n` is not an address of the form IP:PORT"
        );
        let mut nameless = message("10.0.0.1:80");
        nameless.service = "No".to_owned();
        assert_eq!(outcome(&registration(nameless)).refusal, "bad_service");
        assert_eq!(outcome(&Ok(())), proto::Outcome::default());
    }
}
