//! Tags: one allocation for a whole set, however many keys it has, because a catalog holds a set for every export.
//!
//! What a key or a value may be is not decided here: whoever takes tags in checks them against its own limits.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::natural_order;

/// Bits of a length in each of its characters; the next bit says that more follow.
const LENGTH_BITS: u32 = 6;
const LENGTH_MASK: usize = (1 << LENGTH_BITS) - 1;
const MORE: u8 = 1 << LENGTH_BITS;

/// Key-value pairs on an instance or a zone, or a selector over them. Ordered, so that equal sets print and hash alike.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tags(
    /// The pairs in order of keys: length of the key, key, length of the value, value. A length is written in ASCII
    /// characters, the lowest six bits first.
    Arc<str>,
);

impl Tags {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The pairs in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest: &str = &self.0;
        std::iter::from_fn(move || {
            let key = take_text(&mut rest)?;
            Some((key, take_text(&mut rest)?))
        })
    }

    /// Tells whether everything that `selector` asks for is here. The empty selector matches all.
    #[must_use]
    pub fn matches(&self, selector: &Tags) -> bool {
        selector.iter().all(|(key, value)| self.value(key) == Some(value))
    }

    /// Both sets together; `other` wins where both have a key.
    #[must_use]
    pub fn merged(&self, other: &Tags) -> Tags {
        self.iter().chain(other.iter()).collect()
    }

    /// Compares for lists that people read: `n=2` comes before `n=10`, as [`natural_order`] has it.
    #[must_use]
    pub fn natural_cmp(&self, other: &Tags) -> Ordering {
        let (mut one, mut two) = (self.iter(), other.iter());
        loop {
            let step = match (one.next(), two.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some((key, value)), Some((other_key, other_value))) => {
                    natural_order(key, other_key).then_with(|| natural_order(value, other_value))
                }
            };
            if step.is_ne() {
                return step;
            }
        }
    }
}

/// Takes one length and as much text from the front of `rest`; `None` at its end.
fn take_text<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = *rest.as_bytes().first()?;
        *rest = rest.get(1..)?;
        length |= (usize::from(byte) & LENGTH_MASK) << shift;
        shift += LENGTH_BITS;
        if byte & MORE == 0 {
            break;
        }
    }
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

fn put_text(packed: &mut String, text: &str) {
    let mut length = text.len();
    while length > LENGTH_MASK {
        packed.push(char::from(low_bits(length) | MORE));
        length >>= LENGTH_BITS;
    }
    packed.push(char::from(low_bits(length)));
    packed.push_str(text);
}

fn low_bits(length: usize) -> u8 {
    // The mask leaves six bits.
    u8::try_from(length & LENGTH_MASK).unwrap_or_default()
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Tags {
    /// Of two pairs with the same key, the later stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut sorted: Vec<(String, String)> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        // Stable, so that pairs with the same key stay in the order they came in.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut packed = String::new();
        let mut rest = sorted.iter().peekable();
        while let Some((key, value)) = rest.next() {
            if rest.peek().is_none_or(|next| next.0 != *key) {
                put_text(&mut packed, key);
                put_text(&mut packed, value);
            }
        }
        Self(packed.into())
    }
}

impl Ord for Tags {
    /// By the first pair that differs, its key before its value.
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.iter().cmp(other.iter())
    }
}

impl PartialOrd for Tags {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs: BTreeMap<String, String> = Deserialize::deserialize(deserializer)?;
        Ok(pairs.into_iter().collect())
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: BTreeMap<_, _> = self.iter().collect();
        f.debug_tuple("Tags").field(&pairs).finish()
    }
}

/// `{version=v2,runtime=k8s}`; `{}` when empty.
impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = Vec<(String, String)>;

    fn pairs() -> impl Strategy<Value = Pairs> {
        // Short keys, so that some are equal; values over the borders of one and two characters of length.
        prop::collection::vec(("[a-cä]{0,2}", ".{0,5}|x{60,70}|é{2040,2060}"), 0..6)
    }

    #[test]
    fn sets_are_listed_with_numbers_in_their_order() {
        let set = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Tags>();
        let mut sets = [
            set(&[("n", "10")]),
            set(&[("n", "2"), ("z", "1")]),
            set(&[("n", "2")]),
            set(&[]),
        ];
        sets.sort_by(Tags::natural_cmp);
        let listed: Vec<_> = sets.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["{}", "{n=2}", "{n=2,z=1}", "{n=10}"]);
    }

    #[test]
    fn a_selector_matches_a_superset_only() {
        let tags: Tags = [("version", "v2"), ("runtime", "k8s")].into_iter().collect();
        assert!(tags.matches(&Tags::default()));
        assert!(tags.matches(&[("version", "v2")].into_iter().collect()));
        assert!(!tags.matches(&[("version", "v1")].into_iter().collect()));
        assert!(!Tags::default().matches(&tags));
    }

    proptest! {
        #[test]
        fn tags_behave_like_a_map(a in pairs(), b in pairs()) {
            let (tags, map) = (a.iter().cloned().collect::<Tags>(), a.into_iter().collect::<BTreeMap<_, _>>());
            let (other, other_map) =
                (b.iter().cloned().collect::<Tags>(), b.into_iter().collect::<BTreeMap<_, _>>());
            prop_assert!(tags.iter().eq(map.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            prop_assert_eq!(tags.len(), map.len());
            prop_assert_eq!(tags.is_empty(), map.is_empty());
            for (key, value) in &map {
                prop_assert_eq!(tags.value(key), Some(value.as_str()));
            }
            prop_assert_eq!(tags.cmp(&other), map.cmp(&other_map));
            prop_assert_eq!(tags == other, map == other_map);
            let both: BTreeMap<_, _> = map.clone().into_iter().chain(other_map).collect();
            prop_assert_eq!(tags.merged(&other), both.into_iter().collect::<Tags>());
            let written = serde_json::to_string(&tags).unwrap();
            prop_assert_eq!(&written, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<Tags>(&written).unwrap(), tags);
        }
    }
}
