//! The start of every stream: a length-prefixed header and its reply, and the messages of the control stream.
//!
//! A frame is a big-endian `u16` length followed by that many bytes of protobuf. Framing is the whole job here; reading
//! and writing are the gateway's.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod generated {
    include!("generated/causeway.tunnel.v1.rs");
}

pub use generated::*;

/// Version of the tunnel protocol that this program speaks.
pub const PROTOCOL: u32 = 1;
/// ALPN protocol id of a tunnel (RFC 7301).
pub const ALPN: &[u8] = b"causeway/1";
/// Longest frame body in bytes that is written or accepted: more than the longest legal header has, in which a service and
/// its caller carry 32 tags of 63 bytes and 63 bytes each.
pub const MAX_FRAME_BYTES: usize = 16 * 1024;
/// Bytes of the length prefix.
pub const FRAME_PREFIX_BYTES: usize = 2;

/// Reason why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame is {bytes} bytes long; the limit is {MAX_FRAME_BYTES}")]
    TooLong { bytes: usize },
    #[error("the frame is not a valid message")]
    Malformed(#[source] prost::DecodeError),
}

/// Encodes one message as a frame.
///
/// # Errors
/// When the message is longer than [`MAX_FRAME_BYTES`].
pub fn encode_frame(message: &impl Message) -> Result<Bytes, FrameError> {
    let length = message.encoded_len();
    let prefix = u16::try_from(length).ok().filter(|_| length <= MAX_FRAME_BYTES);
    let Some(prefix) = prefix else {
        return Err(FrameError::TooLong { bytes: length });
    };
    let mut frame = BytesMut::with_capacity(FRAME_PREFIX_BYTES + length);
    frame.put_u16(prefix);
    frame.put_slice(&message.encode_to_vec());
    Ok(frame.freeze())
}

/// The body length that a prefix announces.
///
/// # Errors
/// When it is more than [`MAX_FRAME_BYTES`].
pub fn frame_length(prefix: [u8; FRAME_PREFIX_BYTES]) -> Result<usize, FrameError> {
    let bytes = usize::from(u16::from_be_bytes(prefix));
    if bytes > MAX_FRAME_BYTES {
        Err(FrameError::TooLong { bytes })
    } else {
        Ok(bytes)
    }
}

/// Decodes the body of a frame.
///
/// # Errors
/// When the bytes are not a message of this type.
pub fn decode_frame<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    M::decode(body).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_legal_header_fits_a_frame() {
        let tags = || -> std::collections::BTreeMap<_, _> {
            let tag = |at: usize| (format!("{at:063}"), "x".repeat(63));
            (0..32).map(tag).collect()
        };
        let connect = Connect {
            service: "x".repeat(63),
            tags: tags(),
            caller: "x".repeat(63),
            trace_parent: "x".repeat(55),
            attempt: u32::MAX,
            early: true,
            caller_tags: tags(),
            caller_identity: "x".repeat(1024),
            connection: u64::MAX,
            topology: vec![0; 32],
            hops: u32::MAX,
            client_sockets: u64::MAX,
            besides: vec![u64::MAX; 16],
            avoid: vec![u64::MAX; 16],
            gives_back: true,
            takes_warm: true,
            sticky: u64::MAX,
            port: "x".repeat(15),
            primary_port: true,
            trace_state: "x".repeat(512),
        };
        let kind = Some(stream_header::Kind::Connect(connect));
        assert!(encode_frame(&StreamHeader { kind }).is_ok());
    }

    #[test]
    fn a_frame_over_the_limit_is_neither_written_nor_read() {
        let long = Connect {
            service: "x".repeat(MAX_FRAME_BYTES + 1),
            ..Connect::default()
        };
        assert!(matches!(encode_frame(&long), Err(FrameError::TooLong { .. })));
        assert!(matches!(
            frame_length([0xff, 0xff]),
            Err(FrameError::TooLong { bytes: 65535 })
        ));
    }

    proptest! {
        #[test]
        fn a_frame_survives_the_round_trip(service in "[a-z]{1,63}", caller in ".{0,99}", attempt in any::<u32>()) {
            let connect = Connect { service, caller, attempt, ..Connect::default() };
            let frame = encode_frame(&connect).unwrap();
            let (prefix, body) = frame.split_at(FRAME_PREFIX_BYTES);
            prop_assert_eq!(frame_length(prefix.try_into().unwrap()).unwrap(), body.len());
            prop_assert_eq!(decode_frame::<Connect>(body).unwrap(), connect);
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_frame::<StreamHeader>(&body);
            let _ = decode_frame::<StreamReply>(&body);
            let _ = decode_frame::<ControlMessage>(&body);
        }
    }
}
