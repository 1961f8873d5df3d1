//! Reading a topology from disk, within its limit.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use causeway_federation::topology::{self, Diagnostics, MAX_FILE_BYTES, Parsed, Style, Surroundings};
use causeway_host::privileged_ports::lowest_port;

/// Reason why there is no topology.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the topology {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Everything that is wrong with it.
    #[error("the topology cannot be used: {0}")]
    Invalid(Box<Diagnostics>),
}

impl LoadError {
    /// All there is to say, for people: each finding with its line, or why the file cannot be read.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        match self {
            Self::Read { path, source } => {
                format!(
                    "error: cannot read {}: {source}\nhint: name a file that exists and that you may read\n",
                    path.display()
                )
            }
            Self::Invalid(findings) => findings.render(style),
        }
    }

    /// Each finding in one line; none where the file cannot be read.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Read { .. } => Vec::new(),
            Self::Invalid(findings) => findings.lines().collect(),
        }
    }

    /// One line without a line break: `topology.yaml: 2 errors`.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Read { path, source } => format!("cannot read {}: {source}", path.display()),
            Self::Invalid(findings) => findings.to_string(),
        }
    }
}

/// Reads and checks a topology file.
///
/// # Errors
/// When it cannot be read, or with everything that is wrong with it.
pub fn load(path: &Path) -> Result<Parsed, LoadError> {
    load_for(path, lowest_port())
}

/// As [`load`], for gateways that may listen on `lowest_port` and above.
///
/// # Errors
/// As [`load`].
pub fn load_for(path: &Path, lowest_port: u16) -> Result<Parsed, LoadError> {
    let text = read_file(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    check(&text, &path.display().to_string(), lowest_port)
}

/// Checks the text of a topology; findings call it `name`.
///
/// # Errors
/// With everything that is wrong with it.
pub fn check_text(text: &str, name: &str) -> Result<Parsed, LoadError> {
    check(text, name, lowest_port())
}

fn check(text: &str, name: &str, lowest_port: u16) -> Result<Parsed, LoadError> {
    let around = Surroundings {
        lowest_port,
        ..Surroundings::default()
    };
    topology::parse_among(text, name, around).map_err(|findings| LoadError::Invalid(Box::new(findings)))
}

/// Reads the text of a file as [`read_from`] does.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_file(path: &Path) -> io::Result<String> {
    read_from(File::open(path)?)
}

/// Reads a little more than the limit, so that whoever checks the text can say that it is exceeded; never a whole disk.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_from(source: impl Read) -> io::Result<String> {
    read_with_limit(source, MAX_FILE_BYTES)
}

/// Reads a little more than that limit, as [`read_from`] does.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_with_limit(source: impl Read, most_bytes: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most_bytes).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Cut in the middle of a character: too long, which is the finding to report.
        Err(error) if error.as_bytes().len() > most_bytes => {
            Ok(String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")),
    }
}
