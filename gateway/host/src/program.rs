//! Programs of the system that are run as children of this process: bounded in the time that they take and in what they say.

use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    time::{sleep, timeout},
};

/// Pause between two looks at a child that has said its last word and has not ended yet.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Words of a child that has ended, and whether it ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutput {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end: gives it `input`, and reads at most `most_bytes` of what it says on each of its outputs.
///
/// # Errors
/// A program that cannot be started (`NotFound`: there is none), takes longer than `longest` (`TimedOut`), or says more (`InvalidData`). It
/// is ended then.
pub async fn run(
    mut command: Command,
    input: &str,
    longest: Duration,
    most_bytes: usize,
) -> io::Result<ProgramOutput> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = RunningChild(command.spawn()?);
    let child = &mut running.0;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talking = async {
        let writing = async {
            if let Some(stdin) = stdin {
                let mut to = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
                // One that has heard enough closes it; how it ended says whether that was well.
                let _ = to.write_all(input.as_bytes()).await;
            }
            io::Result::Ok(())
        };
        let ((), stdout, stderr) = tokio::try_join!(
            writing,
            read(stdout.map(OwnedFd::from), most_bytes),
            read(stderr.map(OwnedFd::from), most_bytes),
        )?;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None => sleep(LOOK_EVERY).await,
            }
        };
        Ok(ProgramOutput {
            success: status.success(),
            stdout,
            stderr,
        })
    };
    let late = |_| {
        let text = format!("it took more than {longest:?} and was ended");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(longest, talking).await.map_err(late)?
}

/// Reads to the end. What is no UTF-8 is shown as such.
async fn read(from: Option<OwnedFd>, most_bytes: usize) -> io::Result<String> {
    let Some(from) = from else {
        return Ok(String::new());
    };
    let from = pipe::Receiver::from_owned_fd(from)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most_bytes).unwrap_or(u64::MAX);
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes).await?;
    if bytes.len() > most_bytes {
        let text = format!("it said more than {most_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Child that does not outlive whoever waits for it.
#[derive(Debug)]
struct RunningChild(Child);

impl Drop for RunningChild {
    fn drop(&mut self) {
        // Both fail only for one that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of these takes when all is well.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_hears_its_input_and_what_it_says_and_how_it_ends_is_told() {
        // More than a pipe holds, both ways.
        let input = "x".repeat(300_000);
        let heard = run(shell("cat"), &input, PATIENCE, 1 << 20).await.unwrap();
        assert!(heard.success && heard.stdout == input && heard.stderr.is_empty());
        let failed = run(shell("echo no >&2; exit 3"), &input, PATIENCE, 100).await;
        let failed = failed.unwrap();
        assert!(!failed.success && failed.stderr == "no\n", "{failed:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_hangs_or_talks_without_end_is_an_error() {
        let missing = Command::new("/nowhere/at/all");
        let error = run(missing, "", PATIENCE, 100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let endless = run(shell("while :; do echo talk; done"), "", PATIENCE, 100);
        assert_eq!(endless.await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        // One that has closed its outputs, and one that has not.
        for script in ["exec >&- 2>&-; exec sleep 1000", "exec sleep 1000"] {
            let hanging = run(shell(script), "", Duration::from_millis(50), 100);
            assert_eq!(hanging.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }
}
