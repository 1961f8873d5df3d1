//! Codes: why one side ends a half of a stream before its end.

use quinn::VarInt;

/// Reason that one side ends a half of a stream before its end: the code of `RESET_STREAM` and `STOP_SENDING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCode {
    /// The TCP connection at the other end was reset.
    Reset,
    /// Another candidate was `ready` first.
    LostRace,
    /// The gateway is shutting down, or an operator cut the connection.
    Cut,
    /// The request was refused; the reply says why.
    Refused,
    /// All that was asked for was answered, and what the stream leads to can be lent to no other. A gateway that does not know it takes it
    /// for a reset.
    Spent,
    /// A half that was dropped before its end (0), or a code of a later version.
    Other(u64),
}

impl StreamCode {
    pub(super) fn from_wire(code: VarInt) -> Self {
        match code.into_inner() {
            1 => Self::Reset,
            2 => Self::LostRace,
            3 => Self::Cut,
            4 => Self::Refused,
            5 => Self::Spent,
            other => Self::Other(other),
        }
    }

    pub(super) fn to_wire(self) -> VarInt {
        match self {
            Self::Reset => VarInt::from_u32(1),
            Self::LostRace => VarInt::from_u32(2),
            Self::Cut => VarInt::from_u32(3),
            Self::Refused => VarInt::from_u32(4),
            Self::Spent => VarInt::from_u32(5),
            Self::Other(other) => VarInt::from_u64(other).unwrap_or(VarInt::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_code_means_the_same_on_both_sides(code in 0u64..1 << 62) {
            let read = StreamCode::from_wire(VarInt::from_u64(code).unwrap());
            prop_assert_eq!(read.to_wire().into_inner(), code);
            prop_assert_eq!(StreamCode::from_wire(read.to_wire()), read);
        }
    }
}
