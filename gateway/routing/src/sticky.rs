//! Sticky choice: a number that the requests of one user have in common, and draws that come out the same for one number.
//!
//! Arms, zones, gateways and instances are ordered by weighted rendezvous hashing (Thaler and Ravishankar 1998): each has a draw of its
//! own for each number, and the least by weight wins. So what leaves moves only its own users, what comes takes only as many as its share,
//! and a greater weight only draws users and sends none away, which no table of slots (Maglev) gives exactly. Pure; which number it is
//! travels to the zone that serves.

use std::net::IpAddr;

use causeway_federation::topology::Sticky;
use http::{HeaderMap, header};

use crate::permit::Caller;

/// Number that the requests of one user have in common; never 0, which stands for none on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StickyKey(u64);

/// Offset basis and prime of the 64-bit FNV-1a hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl StickyKey {
    /// The key of a mark, such as the value of a cookie.
    #[must_use]
    pub fn of_mark(mark: &[u8]) -> Self {
        Self(scattered(fnv(mark)).max(1))
    }

    /// As it came over the wire; `None`: there is none.
    #[must_use]
    pub fn told(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The draw of whatever has this name, of this weight: the least wins.
    pub(crate) fn draw(self, name: u64, weight: f64) -> f64 {
        let bits = scattered(self.0 ^ scattered(name));
        // 53 bits are what a number from 0 to 1 holds.
        #[expect(clippy::cast_precision_loss, reason = "53 bits lose nothing")]
        let point = (bits >> 11) as f64 / (1u64 << 53) as f64;
        -(1.0 - point).ln() / weight
    }

    pub(crate) fn draw_named(self, name: &str, weight: f64) -> f64 {
        self.draw(number_of(name), weight)
    }
}

/// The number by which [`StickyKey::draw_named`] draws a name.
pub(crate) fn number_of(name: &str) -> u64 {
    fnv(name.as_bytes())
}

/// Finds what a request, or a connection, has to be kept with others by; `None`: it has no such mark.
#[must_use]
pub fn key_of(sticky: &Sticky, headers: &HeaderMap, caller: &Caller, client: IpAddr) -> Option<StickyKey> {
    match sticky {
        Sticky::Cookie { .. } | Sticky::Header(_) => key_of_request(sticky, headers),
        Sticky::Caller if caller.is_anonymous() => Some(StickyKey::of_mark(client.to_string().as_bytes())),
        Sticky::Caller => Some(StickyKey::of_mark(caller.to_string().as_bytes())),
    }
}

/// As [`key_of`], of what a request itself carries.
#[must_use]
pub fn key_of_request(sticky: &Sticky, headers: &HeaderMap) -> Option<StickyKey> {
    match sticky {
        Sticky::Cookie { name, .. } => cookie(headers, name).map(StickyKey::of_mark),
        Sticky::Header(name) => headers
            .get(name)
            .map(|value| StickyKey::of_mark(value.as_bytes())),
        Sticky::Caller => None,
    }
}

/// The value of a cookie, as the client sent it; empty is none.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=").filter(|value| !value.is_empty())
    })
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

/// Spreads what differs in few bits over all (the last step of SplitMix64).
fn scattered(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::testbed::{service, tags, zone};

    fn cookie_named(name: &str) -> Sticky {
        Sticky::Cookie {
            name: name.to_owned(),
            ttl: None,
            path: "/".to_owned(),
        }
    }

    #[test]
    fn the_mark_is_what_the_client_sent() {
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        let anonymous = Caller::anonymous(zone("east"));
        let mark = |sticky: &Sticky, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            key_of(sticky, &headers, &anonymous, client)
        };
        let of = |text: &str| Some(StickyKey::of_mark(text.as_bytes()));
        let cookie = cookie_named("id");
        for (fields, expected) in [
            (&[("cookie", "id=a")][..], of("a")),
            (&[("cookie", "x=1; id=a b;y")], of("a b")),
            (&[("cookie", "x=1"), ("cookie", "id=c")], of("c")),
            (&[("cookie", "xid=a; id2=b; id=")], None),
            (&[("cookie", "ID=a")], None),
            (&[], None),
        ] {
            assert_eq!(mark(&cookie, fields), expected, "{fields:?}");
        }
        let header = Sticky::Header("x-user".to_owned());
        assert_eq!(mark(&header, &[("x-user", "a")]), of("a"));
        assert_eq!(mark(&header, &[("x-users", "a")]), None);
        assert_eq!(mark(&Sticky::Caller, &[]), of("10.0.0.1"));
        let web = Caller::service(zone("east"), service("web"), tags(&[("env", "prod")]));
        assert_eq!(
            key_of(&Sticky::Caller, &HeaderMap::new(), &web, client),
            of("web@east")
        );
    }

    #[test]
    fn draws_of_one_mark_are_spread_and_differ_by_name() {
        let keys = (0..20_000u32).map(|number| StickyKey::of_mark(&number.to_be_bytes()));
        let first = keys
            .filter(|key| key.draw_named("one", 1.0) < key.draw_named("two", 3.0))
            .count();
        // A quarter, give or take four deviations.
        assert!((4_750..5_250).contains(&first), "{first}");
    }
}
