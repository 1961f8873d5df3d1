//! The first line of a topology that `causeway get topology` printed: the generation that the text was taken from, so that
//! an apply of what became of it does not undo, without a word, what somebody else applied meanwhile.

use std::fmt;

/// Generation that a text was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub generation: u64,
}

const START: &str = "# generation ";
const FINGERPRINT: &str = ", fingerprint ";

/// The first line itself, without what is said behind it for people.
#[derive(Debug, Clone, Copy)]
pub struct BaseLine<'a> {
    pub generation: u64,
    pub fingerprint: &'a str,
}

impl fmt::Display for BaseLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{START}{}{FINGERPRINT}{}", self.generation, self.fingerprint)
    }
}

/// Takes the first line off where it names a generation, so that such lines do not pile up in the text. Of several, as
/// older programs have left them, all go and the first counts.
#[must_use]
pub fn split(text: &str) -> (Option<Base>, &str) {
    let (mut base, mut rest) = (None, text);
    while let Some((found, after)) = first_line(rest) {
        base = base.or(Some(found));
        rest = after;
    }
    (base, rest)
}

fn first_line(text: &str) -> Option<(Base, &str)> {
    let after = text.strip_prefix(START)?;
    let (generation, after) = after.split_once(FINGERPRINT)?;
    // Only what stands on the first line counts: the digits of another one have a line break before them.
    let generation = generation.parse().ok()?;
    let rest = after.split_once('\n').map_or("", |(_, rest)| rest);
    Some((Base { generation }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_base_and_is_taken_off_however_often_it_is_there() {
        let line = BaseLine {
            generation: 20,
            fingerprint: "0123456789ab",
        };
        let text = format!("{line}, applied by east/gw1 at noon (its clock)\nversion: 1\n");
        let base = Some(Base { generation: 20 });
        assert_eq!(split(&text), (base, "version: 1\n"));
        let twice = format!("{line}\n# generation 7, fingerprint 00\nversion: 1\n");
        assert_eq!(split(&twice), (base, "version: 1\n"));
        assert_eq!(split(&line.to_string()), (base, ""));
        for other in [
            "version: 1\n# generation 20, fingerprint 00\n",
            "# generation x, fingerprint 00\n",
            "# generation 20\nversion: 1, fingerprint 2\n",
            "",
        ] {
            assert_eq!(split(other), (None, other));
        }
    }
}
