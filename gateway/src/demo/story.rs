//! Output of the demo: chapters, sentences, tables, bars and timelines of at most 100 columns, in colour on a terminal.

use std::{
    io::{self, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use causeway_federation::name::Tags;

use crate::output::{Word, colour, table};

/// Columns that a line may take.
const WIDTH: usize = 100;
/// Blanks before everything but the titles.
const INDENT: &str = "   ";

/// Writes the story to standard output.
#[derive(Debug, Default)]
pub(super) struct Story {
    chapter: u32,
}

impl Story {
    pub(super) fn title(&self, text: &str) -> io::Result<()> {
        let bold = Style::new().bold();
        let lines = wrap(text, WIDTH).join("\n");
        write(&format!("{bold}{lines}{bold:#}\n"))
    }

    /// Begins a chapter with what is about to happen.
    pub(super) fn chapter(&mut self, title: &str, about: &str) -> io::Result<()> {
        self.chapter += 1;
        let bold = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        write(&format!("\n{bold}{}. {title}{bold:#}\n", self.chapter))?;
        self.say(about)?;
        write("\n")
    }

    /// A paragraph, wrapped.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        let mut lines = String::new();
        for line in wrap(text, WIDTH - INDENT.len()) {
            lines.push_str(&format!("{INDENT}{line}\n"));
        }
        write(&lines)
    }

    /// Something that happened as it should.
    pub(super) fn done(&self, text: &str) -> io::Result<()> {
        self.marked('√', AnsiColor::Green, text)
    }

    /// A promise that was broken, or something else that is bad.
    pub(super) fn bad(&self, text: &str) -> io::Result<()> {
        self.marked('×', AnsiColor::Red, text)
    }

    /// Something done to the federation.
    pub(super) fn act(&self, text: &str) -> io::Result<()> {
        self.marked('>', AnsiColor::Yellow, text)
    }

    fn marked(&self, mark: char, colour: AnsiColor, text: &str) -> io::Result<()> {
        let style = Style::new().bold().fg_color(Some(colour.into()));
        for (index, line) in wrap(text, WIDTH - INDENT.len() - 2).iter().enumerate() {
            let mark = if index == 0 { mark } else { ' ' };
            write(&format!("{INDENT}{style}{mark}{style:#} {line}\n"))?;
        }
        Ok(())
    }

    pub(super) fn table(&self, header: &[&str], rows: Vec<Vec<Word>>) -> io::Result<()> {
        self.block(&table(header, rows, colour()))
    }

    /// Lines that are laid out already.
    pub(super) fn block(&self, text: &str) -> io::Result<()> {
        let lines: String = text.lines().map(|line| format!("{INDENT}{line}\n")).collect();
        write(&lines)
    }

    pub(super) fn blank(&self) -> io::Result<()> {
        write("\n")
    }
}

/// Colour is taken away where nobody sees it.
fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut();
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A bar of `width` columns of which `share` (0 to 1) is filled.
pub(super) fn bar(share: f64, width: usize) -> String {
    let filled = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    "█".repeat(filled) + &"░".repeat(width - filled)
}

/// `14 ms`, `3.1 s`: as exact as a reader cares for.
pub(super) fn time(duration: Duration) -> String {
    match duration.as_micros() {
        0..1_000 => "less than 1 ms".to_owned(),
        1_000..1_000_000 => format!("{} ms", duration.as_millis()),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// `version=v2`; `any` for no tags.
pub(super) fn tags(tags: &Tags) -> String {
    let pairs: Vec<_> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() {
        "any".to_owned()
    } else {
        pairs.join(",")
    }
}

/// `1 request`, `2 requests`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Lays out a cell of a fixed width, in a colour of its own by `index`.
pub(super) fn coloured(text: &str, index: usize) -> String {
    const COLOURS: [AnsiColor; 5] = [
        AnsiColor::Blue,
        AnsiColor::Magenta,
        AnsiColor::Green,
        AnsiColor::Yellow,
        AnsiColor::Cyan,
    ];
    let style = Style::new().fg_color(Some(COLOURS[index % COLOURS.len()].into()));
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("unbreakable", 4), ["", "unbreakable"][1..]);
    }

    #[test]
    fn bars_are_filled_by_share() {
        assert_eq!(bar(0.5, 4), "██░░");
        assert_eq!(bar(2.0, 2), "██");
    }

    #[test]
    fn times_are_as_exact_as_a_reader_cares_for() {
        assert_eq!(time(Duration::from_micros(400)), "less than 1 ms");
        assert_eq!(time(Duration::from_micros(41_900)), "41 ms");
        assert_eq!(time(Duration::from_millis(3_120)), "3.1 s");
    }
}
