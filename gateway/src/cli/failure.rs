//! End of a command: its exit code, and an error as `error:` and `hint:` lines.

use std::{error::Error, io, process::ExitCode};

use anstyle::{AnsiColor, Style};

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// `diff` could not compare; 1 says there that the files differ, as with diff(1).
    NotCompared,
    /// The command line is wrong (EX_USAGE of sysexits.h).
    Usage,
    /// An input file is wrong (EX_DATAERR).
    BadInput,
    /// The command worked and found something that somebody should look at.
    IssuesFound,
    /// A signal ended it where the system would not have (128 and its number, as shells have it).
    Signalled(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::NotCompared => 2,
            Self::Usage => 64,
            Self::BadInput => 65,
            Self::IssuesFound => 79,
            Self::Signalled(number) => 128 + number,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Reason why a command could not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// Many lines, shown before the error itself.
    details: Option<String>,
    silent: bool,
    passing: bool,
    not_found: bool,
    refused: bool,
}

impl Failure {
    /// A failure with exit code 1; say what was to be done, with what.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            details: None,
            silent: false,
            passing: false,
            not_found: false,
            refused: false,
        }
    }

    /// A value on the command line that cannot be used.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::Usage)
    }

    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what a gateway said beside the error itself; `details` are many lines, shown before it.
    #[must_use]
    pub fn told(mut self, hint: Option<String>, details: Option<String>) -> Self {
        (self.hint, self.details) = (hint, details);
        self
    }

    /// It may be gone by itself after a while: nobody answered, or could not for now.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// Says that a gateway was asked and does not do it: nothing was done.
    #[must_use]
    pub fn refused(mut self) -> Self {
        self.refused = true;
        self
    }

    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Says that what was asked for is not there.
    #[must_use]
    pub fn not_found(mut self) -> Self {
        self.not_found = true;
        self
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.not_found
    }

    /// Gives what failed, with its causes, and the advice, for one finding among others.
    #[must_use]
    pub fn into_words(self) -> (String, Option<String>) {
        let message = [vec![self.message], self.causes].concat().join(": ");
        (message, self.hint)
    }

    /// Adds `error` and the chain of its sources.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |&error| error.source());
        self.causes.extend(chain.map(ToString::to_string));
        // Some errors print their source themselves; said once is enough.
        self.causes
            .dedup_by(|later, earlier| earlier.ends_with(later.as_str()));
        self
    }

    /// Prints `error:` and `hint:` to standard error and gives the exit code.
    #[must_use]
    pub fn report(&self) -> Exit {
        if self.silent {
            return self.exit;
        }
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let cyan = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        let mut text = self.details.clone().unwrap_or_default();
        text.push_str(&format!("{red}error:{red:#} {}", self.message));
        for cause in &self.causes {
            text.push_str(": ");
            text.push_str(cause);
        }
        text.push('\n');
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint:{cyan:#} {hint}\n"));
        }
        // Nowhere is left to report that standard error is gone.
        crate::output::tell(&text);
        self.exit
    }
}

/// Writing to standard output. A reader that has seen enough (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        let failure = Self::new("cannot write the output").because(&error);
        let exit = if closed { Exit::Done } else { Exit::Failed };
        Self {
            silent: closed,
            ..failure.exit(exit)
        }
    }
}
