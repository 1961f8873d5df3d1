//! Target `registry`: the messages of `registry.proto`, as a gateway, its clients and a shared registry read them. What is
//! accepted keeps the limits and says the same when it is written and read again; what is refused is told in a few words.

use causeway_federation::registry::{
    RegistryError, check,
    wire::{instance, instance_message, key, key_message, outcome, registration, registration_message},
};
use causeway_proto::registry as proto;
use prost::Message;

/// Longest refusal in bytes: it repeats a part of what was wrong, never all of it.
const MAX_REFUSAL_BYTES: usize = 1_024;

/// The first byte says which message the others are.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind % 6 {
        0 => read(body, |m: proto::RegisterRequest| {
            m.registrations.into_iter().for_each(take_registration)
        }),
        1 => read(body, |m: proto::ReplaceRequest| {
            m.registrations.into_iter().for_each(take_registration)
        }),
        2 => read(body, |m: proto::HeartbeatRequest| {
            m.keys.into_iter().for_each(take_key)
        }),
        3 => read(body, |m: proto::WatchEvent| {
            m.event.into_iter().for_each(take_event)
        }),
        4 => read(body, |m: proto::AttachRequest| {
            m.request.into_iter().for_each(take_request)
        }),
        _ => read(body, take_registration),
    }
}

fn read<M: Message + Default>(body: &[u8], take: impl FnOnce(M)) {
    if let Ok(message) = M::decode(body) {
        take(message);
    }
}

fn take_registration(message: proto::Registration) {
    let read = registration(message);
    look_at(&read);
    if let Ok(read) = read {
        check(&read).expect("what was accepted keeps the limits");
        let again = registration(registration_message(&read)).expect("an own message is accepted");
        assert_eq!(again, read);
    }
}

fn take_key(message: proto::InstanceKey) {
    let read = key(message);
    look_at(&read);
    if let Ok(read) = read {
        assert_eq!(key(key_message(&read)).expect("an own message is accepted"), read);
    }
}

fn take_event(event: proto::watch_event::Event) {
    use proto::watch_event::Event;
    match event {
        Event::Put(message) => {
            let read = instance(message);
            look_at(&read);
            if let Ok(read) = read {
                let message = instance_message(&read.0, &read.1, read.2);
                assert_eq!(instance(message).expect("an own message is accepted"), read);
            }
        }
        Event::Removed(message) => take_key(message),
        Event::Health(report) => take_key(report.key.unwrap_or_default()),
        Event::Synced(_) | Event::Gateways(_) => {}
    }
}

fn take_request(request: proto::attach_request::Request) {
    if let proto::attach_request::Request::Health(report) = request {
        take_key(report.key.unwrap_or_default());
    }
}

fn look_at<T>(read: &Result<T, RegistryError>) {
    let told = outcome(read);
    assert_eq!(told.refusal.is_empty(), read.is_ok(), "a refusal without a word");
    assert!(
        told.message.len() <= MAX_REFUSAL_BYTES,
        "a refusal repeats too much of what was wrong"
    );
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let registration = proto::Registration {
        service: "orders".to_owned(),
        id: "pod-7@node-3".to_owned(),
        address: "10.1.0.11:8080".to_owned(),
        tags: [("version".to_owned(), "v2".to_owned())].into(),
        weight: Some(3),
        capacity_per_second: 100,
        time_to_live_milliseconds: 30_000,
    };
    let key = proto::InstanceKey {
        service: "orders".to_owned(),
        id: "pod-7@node-3".to_owned(),
    };
    let two = vec![
        registration.clone(),
        proto::Registration {
            id: String::new(),
            address: "[fd00::1]:1".to_owned(),
            weight: None,
            ..registration.clone()
        },
    ];
    let put = proto::watch_event::Event::Put(proto::Instance {
        registration: Some(registration.clone()),
        source: "consul".to_owned(),
        revision: 77,
    });
    let report = proto::HealthReport {
        key: Some(key.clone()),
        health: proto::Health::Unhealthy.into(),
        failure: "no answer in 1 s".to_owned(),
        gateway: "gw1".to_owned(),
    };
    let register = proto::RegisterRequest {
        registrations: two.clone(),
    };
    let replace = proto::ReplaceRequest {
        source: "consul".to_owned(),
        registrations: two,
    };
    let heartbeat = proto::HeartbeatRequest { keys: vec![key] };
    let attach = proto::AttachRequest {
        request: Some(proto::attach_request::Request::Health(report)),
    };
    vec![
        ("register".to_owned(), seed(0, &register)),
        ("replace".to_owned(), seed(1, &replace)),
        ("heartbeat".to_owned(), seed(2, &heartbeat)),
        ("put".to_owned(), seed(3, &proto::WatchEvent { event: Some(put) })),
        ("attach".to_owned(), seed(4, &attach)),
        ("registration".to_owned(), seed(5, &registration)),
    ]
}

fn seed(kind: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![kind];
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}
