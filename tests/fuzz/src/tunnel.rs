//! Target `tunnel`: the frames of a tunnel's streams: stream headers, their replies, and control messages. What was
//! understood must survive being written and read again.

use causeway_proto::tunnel::{
    Connect, Consumed, ConsumedStream, ControlMessage, Draining, FRAME_PREFIX_BYTES, Hello, MAX_FRAME_BYTES,
    PROTOCOL, Ready, Refusal, RefusalReason, StreamHeader, StreamReply, Sync, control_message, decode_frame,
    encode_frame, frame_length, stream_header, stream_reply,
};
use prost::Message;

pub fn run(data: &[u8]) {
    let Some((prefix, rest)) = data.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
        return;
    };
    let Ok(length) = frame_length(*prefix) else {
        return;
    };
    assert!(length <= MAX_FRAME_BYTES);
    let body = &rest[..length.min(rest.len())];
    round_trip::<StreamHeader>(body);
    round_trip::<StreamReply>(body);
    round_trip::<ControlMessage>(body);
}

fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = decode_frame::<M>(body) else {
        return;
    };
    // A message may be longer written than it was read, for example with an absent key of a map spelled out.
    let Ok(frame) = encode_frame(&message) else {
        assert!(
            message.encoded_len() > MAX_FRAME_BYTES,
            "a short frame was not written"
        );
        return;
    };
    let (prefix, again) = frame
        .split_first_chunk::<FRAME_PREFIX_BYTES>()
        .expect("a frame has a prefix");
    assert_eq!(
        frame_length(*prefix).expect("an own frame is not too long"),
        again.len()
    );
    assert_eq!(
        decode_frame::<M>(again).expect("an own frame can be read"),
        message
    );
}

fn consumed(told: ConsumedStream) -> Consumed {
    Consumed {
        streams: vec![told],
        window_bytes: Some(0),
        untaken_bytes: Some(u64::MAX),
    }
}

fn connect() -> Connect {
    let tags = [
        ("version".to_owned(), "v2".to_owned()),
        ("runtime".to_owned(), "k8s".to_owned()),
    ];
    Connect {
        service: "orders".to_owned(),
        tags: tags.into(),
        caller_tags: [("env".to_owned(), "prod".to_owned())].into(),
        caller_identity: "spiffe://acme.internal/app/web".to_owned(),
        caller: "web".to_owned(),
        trace_parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        attempt: 2,
        early: true,
        connection: 0x0123_4567_89ab_cdef,
        topology: vec![7; 16],
        hops: 2,
        client_sockets: 7,
        besides: vec![1, 2],
        avoid: vec![3],
        gives_back: true,
        takes_warm: true,
        sticky: 9,
        port: "admin".to_owned(),
        primary_port: true,
        trace_state: "vendor=x".to_owned(),
    }
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let connect = connect();
    let refusal = Refusal {
        reason: RefusalReason::NoInstance.into(),
        retryable: true,
        message: "no healthy instance carries the tags".to_owned(),
    };
    let hello = Hello {
        protocol: PROTOCOL,
        program: "causeway 0.1.0".to_owned(),
        start_id: u64::MAX,
        capabilities: vec!["connect".to_owned(), "unheard-of".to_owned()],
        succeeds: 7,
        clock_milliseconds: 1 << 41,
    };
    let told = ConsumedStream {
        stream: 4,
        bytes: 1 << 40,
        done: true,
    };
    let consumed = consumed(told);
    let draining = Draining {
        deadline_milliseconds: 30_000,
    };
    let header = |kind| frame(&StreamHeader { kind: Some(kind) });
    let reply = |outcome| {
        frame(&StreamReply {
            outcome: Some(outcome),
        })
    };
    let control = |body| frame(&ControlMessage { body: Some(body) });
    vec![
        (
            "connect".to_owned(),
            header(stream_header::Kind::Connect(connect)),
        ),
        ("sync".to_owned(), header(stream_header::Kind::Sync(Sync {}))),
        (
            "ready".to_owned(),
            reply(stream_reply::Outcome::Ready(Ready::default())),
        ),
        (
            "refusal".to_owned(),
            reply(stream_reply::Outcome::Refusal(refusal)),
        ),
        ("hello".to_owned(), control(control_message::Body::Hello(hello))),
        (
            "consumed".to_owned(),
            control(control_message::Body::Consumed(consumed)),
        ),
        (
            "draining".to_owned(),
            control(control_message::Body::Draining(draining)),
        ),
        ("too-long".to_owned(), vec![0xff; 8]),
    ]
}

fn frame(message: &impl Message) -> Vec<u8> {
    encode_frame(message).expect("a seed fits a frame").to_vec()
}
