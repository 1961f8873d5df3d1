//! Target `registration`: a row of the registry's file, which is also what the admin API takes as JSON. What passes the
//! checks must be written and read again as the same, and the registry's core must take it.

use std::time::{Duration, Instant};

use causeway_federation::{
    name::ServiceName,
    registry::{Provenance, Registration, Registry, check},
};

pub fn run(data: &[u8]) {
    let Ok(registration) = serde_json::from_slice::<Registration>(data) else {
        return;
    };
    let written = serde_json::to_vec(&registration).expect("a registration can be written");
    let again: Registration = serde_json::from_slice(&written).expect("an own row can be read");
    assert_eq!(again, registration);
    let sound = check(&registration).is_ok();
    let mut registry = Registry::new();
    let now = Instant::now();
    let key = registration.key();
    let taken = registry.register(now, registration).is_ok();
    assert_eq!(taken, sound, "the registry and the check disagree");
    assert_eq!(registry.len(), usize::from(taken));
    if taken {
        registry
            .renew(now, &key.service, &key.id)
            .expect("what is there can be renewed");
        let expired = registry.expire(now + Duration::from_secs(25 * 60 * 60));
        assert_eq!(registry.len(), 1 - expired.len());
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let whole = Registration {
        service: ServiceName::new("orders").expect("a name"),
        id: "pod-7@node-3".to_owned(),
        address: "[fd00::7]:8080".parse().expect("an address"),
        tags: [("version", "v2"), ("runtime", "k8s")].into_iter().collect(),
        weight: 100,
        capacity_per_second: Some(250),
        time_to_live: Some(Duration::from_millis(30_500)),
        provenance: Provenance::Elsewhere,
    };
    let bare = Registration {
        tags: Default::default(),
        address: "10.1.0.11:8080".parse().expect("an address"),
        capacity_per_second: None,
        time_to_live: None,
        ..whole.clone()
    };
    let json = |registration: &Registration| serde_json::to_vec(registration).expect("a seed");
    vec![
        ("whole".to_owned(), json(&whole)),
        ("bare".to_owned(), json(&bare)),
    ]
}
