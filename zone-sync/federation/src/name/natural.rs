//! The order in which people expect words with numbers in them: `n=2` before `n=10`.

use std::cmp::Ordering;

/// Compares two words, runs of digits in them by their value. Words that differ are never equal: of `02` and `2` the first comes first.
#[must_use]
pub fn natural_order(one: &str, other: &str) -> Ordering {
    let (mut rest, mut other_rest) = (one.as_bytes(), other.as_bytes());
    loop {
        let (number, other_number) = (digits(rest), digits(other_rest));
        let step = match (rest.split_first(), other_rest.split_first()) {
            (None, None) => return one.cmp(other),
            (Some(_), Some(_)) if !number.is_empty() && !other_number.is_empty() => {
                rest = rest.get(number.len()..).unwrap_or_default();
                other_rest = other_rest.get(other_number.len()..).unwrap_or_default();
                by_value(number, other_number)
            }
            (Some((byte, after)), Some((other_byte, other_after))) => {
                (rest, other_rest) = (after, other_after);
                byte.cmp(other_byte)
            }
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
        };
        if step.is_ne() {
            return step;
        }
    }
}

/// Digits at the front.
fn digits(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

/// Numbers of any length, so without making numbers of them.
fn by_value(one: &[u8], other: &[u8]) -> Ordering {
    let (one, other) = (significant(one), significant(other));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Digits without zeros in front.
fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words_are_compared_by_their_value() {
        let mut words = [
            "n=10", "n=2", "n=02", "n=", "gw10:7", "gw9:7", "n=2a", "v1.10", "v1.9", "é2",
        ];
        words.sort_by(|one, other| natural_order(one, other));
        assert_eq!(
            words,
            [
                "gw9:7", "gw10:7", "n=", "n=02", "n=2", "n=2a", "n=10", "v1.9", "v1.10", "é2"
            ]
        );
        let long = "9".repeat(100);
        assert_eq!(natural_order(&long, &format!("1{long}")), Ordering::Less);
    }
}
