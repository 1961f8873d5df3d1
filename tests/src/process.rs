//! One real process: started, watched, signalled and, whatever happens, ended by its own id.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 40;

/// The `causeway` program that was built with this one: in the same folder, or for a test, in the one above.
///
/// # Errors
/// When it is not there.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this test's executable")?;
    let beside = own.parent().context("find the folder of this program")?;
    let above = beside.parent().context("find the folder of the profile")?;
    let places = [beside.join("causeway"), above.join("causeway")];
    let [first, last] = places;
    let program = if first.exists() { first } else { last };
    ensure!(
        program.exists(),
        "{} is missing: run `cargo build` first",
        program.display()
    );
    Ok(program)
}

/// Runs `causeway` to its end and returns its standard output, however it ends.
///
/// # Errors
/// When it cannot be run.
pub fn said<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    let output = Command::new(program()?).args(arguments).output();
    let output = output.context("run causeway")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `causeway` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be run or fails; the error holds what it wrote to standard error.
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    let mut command = Command::new(program()?);
    command.args(arguments);
    let output = command.output().context("run causeway")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running process whose output goes to a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both of its outputs are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open the log {}", log.display()))?;
        let err = out.try_clone().context("share the log")?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Ok(Self {
            name: name.to_owned(),
            child: child.with_context(|| format!("start {name}: {command:?}"))?,
            log: log.to_owned(),
        })
    }

    /// Starts `command` with both outputs into a pipe whose reader has gone.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_unheard(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        drop(reader);
        let err = writer.try_clone().context("share the pipe")?;
        let child = command.stdin(Stdio::null()).stdout(writer).stderr(err).spawn();
        Ok(Self {
            name: name.to_owned(),
            child: child.with_context(|| format!("start {name}: {command:?}"))?,
            log: PathBuf::new(),
        })
    }

    /// Number of open descriptors and of threads.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors_and_threads(&self) -> anyhow::Result<(usize, usize)> {
        let count = |folder: &str| {
            let entries = fs::read_dir(format!("/proc/{}/{folder}", self.pid()));
            anyhow::Ok(entries.with_context(|| format!("read its {folder}"))?.count())
        };
        Ok((count("fd")?, count("task")?))
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id")?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Ends the process at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// `Some` once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0)))
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(&what, deadline, async || self.ended()).await
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory_bytes("VmRSS:")
    }

    /// Reads its resident memory without what is mapped from files, such as the program itself.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn anonymous_bytes(&self) -> anyhow::Result<u64> {
        self.memory_bytes("RssAnon:")
    }

    fn memory_bytes(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("read its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .with_context(|| format!("find {name}"))?;
        let kilobytes: u64 = kilobytes.trim().parse().with_context(|| format!("read {name}"))?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            eprintln!("---- the end of the log of {} ----\n{tail}\n----", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_gone_once_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let sleeper = Process::start("sleeper", Command::new("sleep").arg("1000"), &log).unwrap();
        let entry = PathBuf::from(format!("/proc/{}", sleeper.pid()));
        assert!(entry.exists() && sleeper.resident_bytes().unwrap() > 0);
        drop(sleeper);
        assert!(!entry.exists());
    }

    #[tokio::test]
    async fn what_a_process_writes_is_kept_and_its_end_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        let mut shell =
            Process::start("sh", command.args(["-c", "echo out; echo err >&2; exit 3"]), &log).unwrap();
        assert_eq!(shell.wait(Duration::from_secs(5)).await.code(), Some(3));
        assert_eq!(shell.log(), "out\nerr\n");
    }
}
