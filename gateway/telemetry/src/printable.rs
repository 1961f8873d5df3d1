//! Text of others, made fit for a terminal and for logs of one line an event: a peer's words must neither begin a line of their own nor
//! tell a terminal what to do. Pure.

use std::borrow::Cow;

/// Most bytes of one line of the log; the rest is cut off.
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;
/// Mark of a line that was cut.
const CUT: &str = "…";

/// Tells whether a character does something else than stand there: control characters, separators of lines, and what turns the
/// direction of the text around it (Unicode TR 9).
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes every character that acts as its escape, such as `\n` or `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .fold(String::with_capacity(text.len()), push_printable),
    )
}

fn push_printable(mut text: String, c: char) -> String {
    match acts(c) {
        true => text.extend(c.escape_default()),
        false => text.push(c),
    }
    text
}

/// Makes a page of a terminal of what has lines, tabs and, with `coloured`, colours; else every character that acts is written as its escape,
/// in the form that JSON has too: a page that is JSON stays what it was.
#[must_use]
pub fn printable_page(text: &str, coloured: bool) -> Cow<'_, str> {
    let acts_here = |c: char| acts(c) && c != '\n' && c != '\t';
    if !text.contains(acts_here) {
        return Cow::Borrowed(text);
    }
    let (mut page, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let colour = if coloured { foreground_bytes(rest) } else { 0 };
        let taken = if colour > 0 { colour } else { c.len_utf8() };
        match colour {
            0 if acts_here(c) && !rest.starts_with("\r\n") => {
                page.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => page.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    Cow::Owned(page)
}

/// Length of the colour that the text begins with, as far as it hides nothing: weights and colours of letters but black, as commands use
/// them; 0: none.
fn foreground_bytes(text: &str) -> usize {
    let bytes = colour_bytes(text);
    let parameters = text[..bytes].trim_start_matches("\u{1b}[").trim_end_matches('m');
    let numbers: Option<Vec<u8>> = parameters.split(';').map(|one| one.parse().ok()).collect();
    match numbers.is_some_and(|numbers| hides_nothing(&numbers)) {
        true => bytes,
        false => 0,
    }
}

/// Tells whether letters can be read with these parameters (ECMA-48, SGR, and the colours of xterm).
fn hides_nothing(mut parameters: &[u8]) -> bool {
    loop {
        parameters = match parameters {
            [] => return true,
            [38, 5, 1..=15, rest @ ..] | [0..=4 | 22..=24 | 31..=37 | 39 | 90..=97, rest @ ..] => rest,
            [38, 2, red, green, blue, rest @ ..] if *red.max(green).max(blue) >= 100 => rest,
            _ => return false,
        };
    }
}

/// Makes one line of a log event, which ends with a line feed. With `coloured` the formatter's own colours stay.
pub(crate) fn log_line(event: &str, coloured: bool) -> String {
    let event = event.strip_suffix('\n').unwrap_or(event);
    let end = (0..=event.len().min(MAX_LINE_BYTES)).rfind(|end| event.is_char_boundary(*end));
    let kept = &event[..end.unwrap_or(0)];
    let mut line = String::with_capacity(kept.len() + 1);
    let mut rest = kept;
    while let Some(c) = rest.chars().next() {
        let colour = if coloured { colour_bytes(rest) } else { 0 };
        let taken = if colour > 0 { colour } else { c.len_utf8() };
        match colour {
            0 => line = push_printable(line, c),
            bytes => line.push_str(&rest[..bytes]),
        }
        rest = &rest[taken..];
    }
    if kept.len() < event.len() {
        line.push_str(CUT);
    }
    line.push('\n');
    line
}

/// Length of the colour (ECMA-48, SGR) that the text begins with; 0: none.
fn colour_bytes(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    match end {
        Some(end) if parameters[end..].starts_with('m') => "\u{1b}[".len() + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_is_shown_as_its_escape() {
        assert_eq!(printable("causeway 0.1 Ü"), "causeway 0.1 Ü");
        assert_eq!(printable("a\nb\u{1b}[2J\u{202e}c"), "a\\nb\\u{1b}[2J\\u{202e}c");
    }

    #[test]
    fn a_page_keeps_lines_and_colours_that_hide_nothing_and_json_stays_what_it_was() {
        let page = "a\tb\r\n\u{1b}[1m\u{1b}[38;5;9merror:\u{1b}[38;2;255;30;30;1m\u{1b}[39m\u{1b}[0m x\n";
        assert_eq!(printable_page(page, true), page);
        assert!(!printable_page(page, false).contains('\u{1b}'));
        for hostile in [
            "\u{1b}[2J",
            "\u{1b}[8m",
            "\u{1b}[30;40m",
            "\u{1b}[38;5;0m",
            "\u{1b}[38;2;9;9;9m",
            "\u{1b}[1;8m",
            "\u{1b}]0;title\u{7}",
            "\rover",
            "\u{9b}2J",
            "\u{202e}",
        ] {
            for coloured in [true, false] {
                let shown = printable_page(hostile, coloured);
                assert!(!shown.contains(acts) && shown.contains("\\u"), "{shown}");
            }
        }
        assert_eq!(
            printable_page("\"\u{9b}\u{7f}\u{202e}\"", false),
            r#""\u009b\u007f\u202e""#
        );
    }

    #[test]
    fn an_event_is_one_line_however_it_reads() {
        assert_eq!(
            log_line("INFO up program=x\nERROR forged\n", false),
            "INFO up program=x\\nERROR forged\n"
        );
        let coloured = "\u{1b}[32m INFO\u{1b}[0m up \u{1b}]0;title\u{7}\n";
        let kept = "\u{1b}[32m INFO\u{1b}[0m up \\u{1b}]0;title\\u{7}\n";
        assert_eq!(log_line(coloured, true), kept);
        assert!(!log_line(coloured, false).contains('\u{1b}'));
        let long = log_line(&"ä".repeat(MAX_LINE_BYTES), false);
        assert!(long.len() <= MAX_LINE_BYTES + CUT.len() + 1 && long.ends_with("…\n"));
    }

    /// Text of any characters; a string of any kind has none that acts.
    fn text() -> impl Strategy<Value = String> {
        let acting = prop::sample::select(vec![
            '\n', '\r', '\u{7}', '\u{1b}', '\u{9b}', '\u{2028}', '\u{202e}', '\u{2066}',
        ]);
        let piece = prop_oneof![
            any::<char>().prop_map(String::from),
            acting.prop_map(String::from),
            "\u{1b}\\[[0-9;]{0,3}m?",
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// Takes out the colours of a line.
    fn without_colours(line: &str) -> String {
        let (mut rest, mut left) = (line, String::new());
        while let Some(c) = rest.chars().next() {
            let colour = colour_bytes(rest);
            if colour == 0 {
                left.push(c);
            }
            rest = &rest[if colour > 0 { colour } else { c.len_utf8() }..];
        }
        left
    }

    proptest! {
        #[test]
        fn nothing_in_a_line_acts(text in text(), coloured in any::<bool>()) {
            let line = log_line(&text, coloured);
            let line = line.strip_suffix('\n').unwrap();
            let line = if coloured { without_colours(line) } else { line.to_owned() };
            let acting = |c: char| c.is_control() || "\u{2028}\u{202e}\u{2066}".contains(c);
            prop_assert!(!line.contains(acting), "{:?}", line);
            prop_assert!(!printable(&text).contains(acting));
        }
    }
}
