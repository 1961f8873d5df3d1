//! Output of commands: plain tables without borders, colour only where a person sees it.

mod fold;

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use causeway_telemetry::{printable, printable_page};
use comfy_table::{Attribute, Cell, Color, Table};

/// Spaces between columns.
const COLUMN_GAP: u16 = 3;
/// The same in wide tables.
const WIDE_COLUMN_GAP: u16 = 2;
/// Characters that a wide table has in a line.
const WIDE: usize = 160;

/// Form in which `get` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    /// A table with more columns, of at most 160 characters; what does not fit goes on in further lines
    Wide,
    /// Stable and versioned, for programs
    Json,
    Yaml,
}

/// Form of a report that is written for people, or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    #[default]
    #[value(alias = "table")]
    Text,
    /// Stable and versioned, for programs
    Json,
}

/// Tells whether standard output takes colour: a terminal, and NO_COLOR is not set (no-color.org).
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Clears the screen and puts the cursor at its top (ECMA-48 ED and CUP).
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// Writes to standard output and flushes it. Whatever others have said in it, a terminal is not told what to do.
pub(crate) fn print(text: &str) -> io::Result<()> {
    write(&printable_page(text, colour()))
}

/// Writes what a program, or a file, may be given byte by byte; for a terminal it does as [`print`].
pub(crate) fn print_exactly(text: &str) -> io::Result<()> {
    match io::stdout().is_terminal() {
        true => print(text),
        false => write(text),
    }
}

/// Begins a page of a terminal anew.
pub(crate) fn clear_screen() -> io::Result<()> {
    write(CLEAR_SCREEN)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes to standard error. What cannot be written is lost: nowhere is left to say so, and it changes no exit code.
pub(crate) fn tell(text: &str) {
    let _ = anstream::stderr().write_all(printable_page(text, true).as_bytes());
}

/// Tone of the news in a cell, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    /// The tone of a word for a state, as the API uses them.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "up" | "own" | "fresh" | "healthy" => Self::Good,
            "stalled" | "draining" | "suspect" | "unknown" => Self::Doubtful,
            "down" | "withdrawn" | "unhealthy" => Self::Bad,
            _ => Self::Plain,
        }
    }

    fn colour(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::Green),
            Self::Doubtful => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
        }
    }
}

/// Text and its tone.
pub(crate) struct Word(pub String, pub Tone);

impl Word {
    /// A word for a state, in its own tone.
    pub(crate) fn state(word: &str) -> Self {
        Self(word.to_owned(), Tone::of(word))
    }

    /// Words for a state that somebody should look at.
    pub(crate) fn doubtful(words: String) -> Self {
        Self(words, Tone::Doubtful)
    }
}

impl<T: ToString> From<T> for Word {
    fn from(value: T) -> Self {
        Self(value.to_string(), Tone::Plain)
    }
}

/// Most characters of a cell: every row is as wide as the widest, and other zones say what stands in some.
const MAX_CELL_CHARS: usize = 500;
/// Cell in which nothing stands.
const NOTHING: &str = "-";

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_CELL_CHARS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Lays rows out under a header; one line a row, no trailing space.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<Word>>, colour: bool) -> String {
    let titles = header.iter().map(|title| (*title).to_owned()).collect();
    let rows = rows.into_iter().map(|row| row.into_iter().map(shown).collect());
    laid_out(titles, rows.collect(), COLUMN_GAP, colour)
}

/// Lays rows out in at most 160 characters. Where there is no room, columns in which nothing stands are left out, and cells go on in further
/// lines.
pub(crate) fn wide_table(header: &[&str], rows: Vec<Vec<Word>>, colour: bool) -> String {
    let mut rows: Vec<Vec<Word>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(shown).collect())
        .collect();
    let length = |text: &str| text.chars().count();
    let mut header = header.to_vec();
    if room_for(&header) < widest(&header, &rows).iter().sum() {
        let says_something: Vec<_> = (0..header.len())
            .map(|column| {
                rows.iter()
                    .any(|row| row.get(column).is_some_and(|word| word.0 != NOTHING))
            })
            .collect();
        retain_columns(&mut header, &says_something);
        for row in &mut rows {
            retain_columns(row, &says_something);
        }
    }
    let least: Vec<_> = header.iter().map(|title| fold::longest_word(title)).collect();
    let (natural, room) = (widest(&header, &rows), room_for(&header));
    let mut widths = fold::widths(&natural, &least, room);
    // A title goes on in a second line before a cell does.
    let titles: Vec<_> = header.iter().map(|title| length(title)).collect();
    fold::widen(&mut widths, &titles, room);
    let titles = header
        .iter()
        .zip(&widths)
        .map(|(title, width)| fold::fold(title, *width));
    let titles = titles.collect();
    for row in &mut rows {
        for (Word(text, _), width) in row.iter_mut().zip(&widths) {
            *text = fold::fold(text, *width);
        }
    }
    laid_out(titles, rows, WIDE_COLUMN_GAP, colour)
}

/// Width that each column would have by itself, its title folded.
fn widest(header: &[&str], rows: &[Vec<Word>]) -> Vec<usize> {
    let mut widths: Vec<_> = header.iter().map(|title| fold::longest_word(title)).collect();
    for row in rows {
        for (width, Word(text, _)) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    widths
}

/// Characters that the columns of a wide table have together.
fn room_for(header: &[&str]) -> usize {
    WIDE.saturating_sub(header.len().saturating_sub(1) * usize::from(WIDE_COLUMN_GAP))
}

fn retain_columns<T>(row: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    row.retain(|_| kept.next().is_none_or(|kept| *kept));
}

/// A cell as it is printed: no control characters, not too long, never empty.
fn shown(Word(text, tone): Word) -> Word {
    match text.as_str() {
        "" => Word(NOTHING.to_owned(), tone),
        text => Word(shortened(&printable(text)).into_owned(), tone),
    }
}

fn laid_out(header: Vec<String>, rows: Vec<Vec<Word>>, gap: u16, colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(
        header
            .into_iter()
            .map(|title| Cell::new(title).add_attribute(Attribute::Bold)),
    );
    for row in rows {
        table.add_row(row.into_iter().map(|Word(text, tone)| {
            let cell = Cell::new(text);
            match tone.colour() {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, gap));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_too_long_is_cut() {
        let rows = vec![vec![Word::from("é".repeat(10_000))], vec![Word::from("short")]];
        let text = table(&["TEXT"], rows, false);
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= MAX_CELL_CHARS + 1),
            "{}",
            text.len()
        );
        assert!(text.contains("é…\n") && text.contains("short"));
    }
}
