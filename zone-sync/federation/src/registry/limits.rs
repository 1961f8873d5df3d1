//! Limits of a registration, and the refusals of what is beyond them.

use std::{net::SocketAddr, time::Duration};

use crate::{
    address::is_of_one_host,
    name::{MAX_TAGS, NameError, ServiceName},
};

use super::{InstanceKey, InstanceSource, Registration};

/// Most instances of one zone. Twice what the zone must publish smoothly (100,000), and about 100 MB of memory.
pub const MAX_INSTANCES_PER_ZONE: usize = 200_000;
/// Most instances of one service: one runaway registrant cannot fill the zone.
pub const MAX_INSTANCES_PER_SERVICE: usize = 100_000;
/// Most sources that programs name: one for each system that instances are kept in, and some to spare.
pub const MAX_NAMED_SOURCES: usize = 16;
/// Longest instance id, in bytes: room for an orchestrator's pod name with its namespace.
pub const MAX_ID_BYTES: usize = 128;
/// Longest tag key, in bytes.
pub const MAX_TAG_KEY_BYTES: usize = 63;
/// Longest tag value, in bytes.
pub const MAX_TAG_VALUE_BYTES: usize = 255;
/// Largest weight: 200,000 of them still sum far below what a `u64` holds.
pub(crate) const MAX_WEIGHT: u32 = 1_000_000;
/// Shortest time to live: below a second, one lost packet would end a lease.
pub(crate) const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(1);
/// Longest time to live: what is meant to stay longer is registered without one.
pub(crate) const MAX_TIME_TO_LIVE: Duration = Duration::from_secs(24 * 60 * 60);

/// Reason why the registry said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("an instance id cannot be empty")]
    EmptyId,
    #[error("an instance id of {0} bytes is longer than {MAX_ID_BYTES}")]
    LongId(usize),
    #[error("instance id `{0}` may hold only letters, digits and `-_.:/@[]`")]
    BadId(String),
    #[error("this is not the name of a service: {0}")]
    BadService(NameError),
    #[error("`{0}` is not an address of the form IP:PORT")]
    NoAddress(String),
    #[error("{0} is not an address that can be dialled")]
    BadAddress(SocketAddr),
    /// Something else than an instance is there.
    #[error("no instance can be at this address: {reason}")]
    ForbiddenAddress { reason: String },
    #[error("{0} tags are more than {MAX_TAGS}")]
    TooManyTags(usize),
    #[error("tag key `{0}` must have 1 to {MAX_TAG_KEY_BYTES} bytes of letters, digits and `-_./`")]
    BadTagKey(String),
    #[error(
        "the value of tag `{key}` must have at most {MAX_TAG_VALUE_BYTES} bytes and no control characters"
    )]
    BadTagValue { key: String },
    #[error("weight {0} is more than {MAX_WEIGHT}")]
    TooHeavy(u32),
    #[error("a time to live of {0:?} is not between 1 s and 24 h")]
    BadTimeToLive(Duration),
    #[error("`{0}` is not a time to live")]
    NoTime(String),
    #[error("service `{0}` already has {MAX_INSTANCES_PER_SERVICE} instances")]
    ServiceFull(ServiceName),
    #[error("the zone already has {MAX_INSTANCES_PER_ZONE} instances")]
    ZoneFull,
    #[error("no instance `{0}` is registered")]
    NotFound(InstanceKey),
    #[error("instance `{key}` was put in by the source `{holder}` and can only be changed there")]
    HeldBy {
        key: InstanceKey,
        holder: InstanceSource,
    },
    #[error("instance `{0}` is in the list twice")]
    Twice(InstanceKey),
    #[error(
        "what a source hands over stays until the source drops it: instance `{0}` can have no time to live"
    )]
    NeedlessTimeToLive(InstanceKey),
    #[error("this is not the name of a source: {0}")]
    BadSource(NameError),
    #[error("the source `{0}` is built in; choose another name")]
    ReservedSource(String),
    #[error("there are {MAX_NAMED_SOURCES} named sources already")]
    TooManySources,
    #[error("the registry has stopped: the gateway is shutting down")]
    Stopped,
    #[error(
        "instances of `{0}` are registered, drained and deregistered by who has the right `register:{0}`"
    )]
    NoRight(ServiceName),
    #[error(
        "`{0}` is the last instance of its service in this zone that takes traffic: others are ill, drained, or of an arm with weight 0"
    )]
    LastHealthy(InstanceKey),
    #[error("the gateways of this zone share a registry, in which single instances cannot be drained")]
    SharedDrain,
    #[error("too many instances of this zone are drained")]
    TooManyDrains,
    /// The registry is elsewhere, and whether it was done is not known.
    #[error("no zone-sync has said that it was done{}", because(.0))]
    Away(String),
    /// The registry is elsewhere, and for certain nothing was done there.
    #[error("no zone-sync could take it, so nothing was registered or changed{}", because(.0))]
    NothingDone(String),
    /// The registry is elsewhere and said no.
    #[error("{message}")]
    Refused { word: String, message: String },
}

fn because(failure: &str) -> String {
    match failure {
        "" => String::new(),
        failure => format!(": {failure}"),
    }
}

impl RegistryError {
    /// The refusal in one word, for programs; it stays the same over versions.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::EmptyId | Self::LongId(_) | Self::BadId(_) => "bad_id",
            Self::BadService(_) => "bad_service",
            Self::NoAddress(_) | Self::BadAddress(_) => "bad_address",
            Self::ForbiddenAddress { .. } => "forbidden_address",
            Self::TooManyTags(_) | Self::BadTagKey(_) | Self::BadTagValue { .. } => "bad_tags",
            Self::TooHeavy(_) => "bad_weight",
            Self::BadTimeToLive(_) | Self::NoTime(_) | Self::NeedlessTimeToLive(_) => "bad_time_to_live",
            Self::ServiceFull(_) => "service_full",
            Self::ZoneFull => "zone_full",
            Self::NotFound(_) => "not_found",
            Self::HeldBy { .. } => "held_by_another_source",
            Self::Twice(_) => "twice",
            Self::BadSource(_) | Self::ReservedSource(_) => "bad_source",
            Self::TooManySources => "too_many_sources",
            Self::LastHealthy(_) => "last_healthy",
            Self::SharedDrain => "shared_registry",
            Self::TooManyDrains => "too_many_drains",
            Self::NoRight(_) => "scope",
            Self::Stopped => "stopped",
            Self::Away(_) | Self::NothingDone(_) => "away",
            Self::Refused { word, .. } => word,
        }
    }
}

/// Checks that `registration` keeps every limit that concerns it alone.
///
/// # Errors
/// The first limit that it breaks.
pub fn check(registration: &Registration) -> Result<(), RegistryError> {
    check_id(&registration.id)?;
    check_address(registration.address)?;
    check_tags(registration)?;
    if registration.weight > MAX_WEIGHT {
        return Err(RegistryError::TooHeavy(registration.weight));
    }
    match registration.time_to_live {
        Some(time) if !(MIN_TIME_TO_LIVE..=MAX_TIME_TO_LIVE).contains(&time) => {
            Err(RegistryError::BadTimeToLive(time))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_id(id: &str) -> Result<(), RegistryError> {
    if id.is_empty() {
        return Err(RegistryError::EmptyId);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(RegistryError::LongId(id.len()));
    }
    // Brackets, because the default id of an IPv6 instance is its address: `[fd00::1]:8080`.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/@[]".contains(&b);
    if id.bytes().all(allowed) {
        Ok(())
    } else {
        Err(RegistryError::BadId(id.escape_debug().to_string()))
    }
}

fn check_address(address: SocketAddr) -> Result<(), RegistryError> {
    if address.port() == 0 || !is_of_one_host(address.ip()) {
        return Err(RegistryError::BadAddress(address));
    }
    Ok(())
}

fn check_tags(registration: &Registration) -> Result<(), RegistryError> {
    let tags = &registration.tags;
    if tags.len() > MAX_TAGS {
        return Err(RegistryError::TooManyTags(tags.len()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    for (key, value) in tags.iter() {
        if key.is_empty() || key.len() > MAX_TAG_KEY_BYTES || !key.bytes().all(allowed) {
            let shown = key.chars().take(80).collect::<String>();
            return Err(RegistryError::BadTagKey(shown.escape_debug().to_string()));
        }
        if value.len() > MAX_TAG_VALUE_BYTES || value.chars().any(char::is_control) {
            return Err(RegistryError::BadTagValue { key: key.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Tags;

    fn good() -> Registration {
        Registration {
            service: ServiceName::new("orders").unwrap(),
            id: "[fd00::1]:8080".to_owned(),
            address: "[fd00::1]:8080".parse().unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            weight: 1,
            capacity_per_second: None,
            time_to_live: Some(Duration::from_secs(10)),
            provenance: crate::registry::Provenance::ThisHost,
        }
    }

    fn refusal(change: impl FnOnce(&mut Registration)) -> RegistryError {
        let mut registration = good();
        change(&mut registration);
        check(&registration).unwrap_err()
    }

    #[test]
    fn a_registration_at_its_limits_is_accepted() {
        let mut registration = good();
        registration.id = "x".repeat(MAX_ID_BYTES);
        registration.weight = MAX_WEIGHT;
        registration.time_to_live = Some(MAX_TIME_TO_LIVE);
        registration.tags = (0..MAX_TAGS)
            .map(|n| (format!("k{n}"), "v".repeat(MAX_TAG_VALUE_BYTES)))
            .collect();
        assert_eq!(check(&registration), Ok(()));
        assert_eq!(check(&good()), Ok(()));
    }

    #[test]
    fn ids_are_short_and_printable() {
        assert_eq!(refusal(|r| r.id.clear()), RegistryError::EmptyId);
        assert_eq!(
            refusal(|r| r.id = "x".repeat(MAX_ID_BYTES + 1)),
            RegistryError::LongId(MAX_ID_BYTES + 1)
        );
        for bad in ["a b", "a\n", "ö", "a\u{1b}[2J"] {
            let error = refusal(|r| r.id = bad.to_owned());
            assert!(matches!(error, RegistryError::BadId(_)), "{bad:?}");
            assert!(!error.to_string().contains(char::is_control));
        }
    }

    #[test]
    fn addresses_can_be_dialled() {
        for bad in ["0.0.0.0:80", "10.0.0.1:0", "224.0.0.1:80", "[::]:80"] {
            let address = bad.parse().unwrap();
            assert_eq!(
                refusal(|r| r.address = address),
                RegistryError::BadAddress(address)
            );
        }
    }

    #[test]
    fn tags_are_few_and_short() {
        let many: Tags = (0..=MAX_TAGS).map(|n| (format!("k{n}"), "v")).collect();
        assert_eq!(
            refusal(|r| r.tags = many.clone()),
            RegistryError::TooManyTags(MAX_TAGS + 1)
        );
        for key in ["", "a b", &"k".repeat(MAX_TAG_KEY_BYTES + 1)] {
            let error = refusal(|r| r.tags = [(key, "v")].into_iter().collect());
            assert!(matches!(error, RegistryError::BadTagKey(_)), "{key:?}");
        }
        for value in ["a\nb", &"v".repeat(MAX_TAG_VALUE_BYTES + 1)] {
            let error = refusal(|r| r.tags = [("k", value)].into_iter().collect());
            assert!(matches!(error, RegistryError::BadTagValue { .. }));
        }
    }

    #[test]
    fn weights_and_times_to_live_are_bounded() {
        assert_eq!(
            refusal(|r| r.weight = MAX_WEIGHT + 1),
            RegistryError::TooHeavy(MAX_WEIGHT + 1)
        );
        for bad in [Duration::from_millis(999), MAX_TIME_TO_LIVE + MIN_TIME_TO_LIVE] {
            assert_eq!(
                refusal(|r| r.time_to_live = Some(bad)),
                RegistryError::BadTimeToLive(bad)
            );
        }
    }
}
