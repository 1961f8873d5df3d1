//! Number of gateways that one connection may come through. An instance whose address leads to another gateway's clients would
//! otherwise send a connection round for ever.

/// Most gateways that a connection may come through. Two are those of an ordinary one between zones; another two let one service
/// be reached through an address of another gateway.
pub const MAX_HOPS: u8 = 4;

/// Counts this gateway in: `before` is the number of those that the connection has come through. `None`: that are too many.
#[must_use]
pub fn with_this_one(before: u8) -> Option<u8> {
    before.checked_add(1).filter(|hops| *hops <= MAX_HOPS)
}

/// Number of gateways that a stream has come through: what its header says, and what this gateway knows of the client's
/// connection if it has opened that itself. A header that says nothing is of a gateway that counts as one.
#[must_use]
pub fn of_stream(told: u32, opened_here: Option<u8>) -> u8 {
    let told = u8::try_from(told.max(1)).unwrap_or(u8::MAX);
    let counted = opened_here.map_or(0, |hops| hops.saturating_add(1));
    told.max(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_through_so_many_gateways_and_no_further() {
        let mut hops = 0;
        while let Some(more) = with_this_one(hops) {
            hops = more;
        }
        assert_eq!(hops, MAX_HOPS);
        assert_eq!(with_this_one(u8::MAX), None);
    }

    #[test]
    fn what_is_known_here_counts_where_a_header_says_less() {
        assert_eq!(of_stream(0, None), 1);
        assert_eq!(of_stream(1, None), 1);
        assert_eq!(of_stream(1, Some(2)), 3);
        assert_eq!(of_stream(4, Some(2)), 4);
        assert_eq!(of_stream(u32::MAX, Some(u8::MAX)), u8::MAX);
    }
}
