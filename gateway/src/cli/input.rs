//! Topologies that commands are given: files, and `-`, which is standard input.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::Path,
};

use causeway_control::reload::{LoadError, check_text, read_file, read_from, read_with_limit};
use causeway_federation::topology::Parsed;

use super::{Exit, Failure};

/// Text that a command is given, not looked at yet.
#[derive(Debug)]
pub(super) struct GivenText {
    /// As findings name it.
    pub(super) name: String,
    pub(super) text: String,
}

impl GivenText {
    pub(super) fn read(path: &Path) -> Result<Self, LoadError> {
        let (name, text) = match is_standard_input(path) {
            true => ("standard input".to_owned(), read_from(io::stdin().lock())),
            false => (path.display().to_string(), read_file(path)),
        };
        match text {
            Ok(text) => Ok(Self { name, text }),
            Err(source) => Err(LoadError::Read {
                path: name.into(),
                source,
            }),
        }
    }

    /// Checks it as a whole topology.
    pub(super) fn check(&self) -> Result<Parsed, LoadError> {
        check_text(&self.text, &self.name)
    }
}

/// Reads and checks a whole topology.
pub(super) fn load(path: &Path) -> Result<Parsed, LoadError> {
    GivenText::read(path)?.check()
}

/// Reads a text of at most so many bytes from a file, or from standard input.
///
/// # Errors
/// Names the file and what is wrong, with the exit code of bad input.
pub(super) fn read_text(file: &Path, most_bytes: usize) -> Result<String, Failure> {
    let shown = file.display();
    let read = match is_standard_input(file) {
        true => read_with_limit(io::stdin().lock(), most_bytes),
        false => File::open(file).and_then(|open| read_with_limit(open, most_bytes)),
    };
    let text = read.map_err(|error| {
        Failure::new(format!("cannot read {shown}"))
            .because(&error)
            .exit(Exit::BadInput)
    })?;
    if text.len() > most_bytes {
        return Err(Failure::new(format!("{shown} is longer than {most_bytes} bytes"))
            .exit(Exit::BadInput)
            .hint("split it into several files"));
    }
    Ok(text)
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses `-` for more than one file, as standard input can be read once.
pub(super) fn once<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    match files.into_iter().filter(|file| is_standard_input(file)).count() {
        0 | 1 => Ok(()),
        _ => Err(Failure::usage("standard input, `-`, can be read once")
            .hint("name files for all others; a file that is called - is ./-")),
    }
}

/// Asks somebody at a terminal whether to go on; where standard input is none nobody is asked.
pub(super) fn agreed(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(true);
    }
    crate::output::tell(&format!("{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_read_once() {
        let files = |names: &[&'static str]| once(names.iter().map(|name| Path::new(*name)));
        assert!(files(&["-", "a.yaml"]).is_ok());
        assert!(files(&["-", "-"]).is_err());
        assert!(files(&["./-", "-"]).is_ok());
    }

    #[test]
    fn only_a_yes_is_one() {
        let said = |answer| is_yes(answer);
        assert!(said("y\n") && said(" Yes\n"));
        assert!(!said("\n") && !said("") && !said("yep\n") && !said("n\n"));
    }
}
