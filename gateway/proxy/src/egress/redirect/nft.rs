//! Tables of nftables, by way of the system's program `nft`.

use std::{ffi::OsString, io, process::Command, time::Duration};

use causeway_host::program::{self, ProgramOutput};
use ipnet::IpNet;

use super::{
    error::RedirectError,
    plan::{RedirectPlan, TABLE_PREFIX, redirected_ranges},
};

/// Longest time that one run of `nft` may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Most that it may say: every port there is, and room.
const MAX_OUTPUT_BYTES: usize = 2 << 20;
/// Most tables of other gateways on this host that are looked at.
const MAX_OTHERS: usize = 32;

/// The program that changes this host's tables.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    /// Name, and arguments before all others.
    program: Vec<OsString>,
}

/// Content of a table, in whatever order it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableContent(Vec<String>);

impl Nft {
    pub(super) fn new(program: Vec<OsString>) -> Self {
        Self { program }
    }

    /// Carries out rules as one transaction.
    pub(super) async fn apply(&self, rules: &str) -> Result<(), RedirectError> {
        self.run(&["-f", "-"], rules).await.map(drop)
    }

    /// Reads a table; `None`: there is none of that name.
    pub(super) async fn content(&self, table: &str) -> Result<Option<TableContent>, RedirectError> {
        match self.list(table).await? {
            Some(listing) => Ok(Some(TableContent::of(&listing))),
            None => Ok(None),
        }
    }

    /// Removes a table; that there is none is well.
    pub(super) async fn remove(&self, table: &str) -> Result<(), RedirectError> {
        let rules = format!("table inet {table} {{\n}}\ndelete table inet {table}\n");
        self.apply(&rules).await
    }

    /// Finds another gateway's table that redirects what `plan` is to redirect.
    pub(super) async fn overlap(
        &self,
        own: &str,
        plan: &RedirectPlan,
    ) -> Result<Option<(String, IpNet)>, RedirectError> {
        let tables = self.run(&["list", "tables", "inet"], "").await?;
        let names = tables.split_whitespace();
        let others = names.filter(|name| name.starts_with(TABLE_PREFIX) && *name != own);
        for other in others.take(MAX_OTHERS) {
            // One that is gone by now is in nobody's way.
            let listing = self.list(other).await?.unwrap_or_default();
            let mut theirs = redirected_ranges(&listing).into_iter();
            if let Some(range) = theirs.find_map(|range| plan.meets(&range)) {
                return Ok(Some((other.to_owned(), range)));
            }
        }
        Ok(None)
    }

    async fn list(&self, table: &str) -> Result<Option<String>, RedirectError> {
        match self.run(&["list", "table", "inet", table], "").await {
            Ok(listing) => Ok(Some(listing)),
            Err(RedirectError::Refused(text)) if text.contains("No such file") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Result<String, RedirectError> {
        let [name, first @ ..] = self.program.as_slice() else {
            return Err(RedirectError::NoProgram);
        };
        let mut command = Command::new(name);
        command.args(first).args(arguments).env("LC_ALL", "C");
        // Where a user's PATH does not lead to.
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        command.env("PATH", path);
        let output = program::run(command, input, LONGEST, MAX_OUTPUT_BYTES).await;
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RedirectError::NoProgram,
            _ => RedirectError::Run(error),
        })?;
        answer(output)
    }
}

fn answer(output: ProgramOutput) -> Result<String, RedirectError> {
    match output {
        ProgramOutput {
            success: true,
            stdout,
            ..
        } => Ok(stdout),
        ProgramOutput { stderr, .. } if stderr.contains("Operation not permitted") => {
            Err(RedirectError::NotPermitted)
        }
        ProgramOutput { stderr, .. } => Err(RedirectError::refused(&stderr)),
    }
}

impl TableContent {
    fn of(listing: &str) -> Self {
        let words = listing.split(|c: char| c.is_whitespace() || c == ',');
        let mut words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
        words.sort_unstable();
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(stderr: &str) -> RedirectError {
        let stderr = stderr.to_owned();
        answer(ProgramOutput {
            success: false,
            stdout: String::new(),
            stderr,
        })
        .unwrap_err()
    }

    #[test]
    fn a_missing_privilege_is_told_from_rules_that_are_refused() {
        let forbidden = "netlink: Error: cache initialization failed: Operation not permitted\nmore\n";
        assert!(matches!(refusal(forbidden), RedirectError::NotPermitted));
        let refused =
            refusal("/dev/stdin:8:24-38: Error: Could not process rule: Not supported\n\x1b[31m^^^\n");
        let text = refused.to_string();
        assert!(text.ends_with("Could not process rule: Not supported"), "{text}");
    }

    #[test]
    fn the_order_in_which_a_table_is_listed_does_not_matter_and_everything_else_does() {
        let content = TableContent::of("set ports {\n\telements = { 80, 8080 }\n}");
        assert_eq!(
            content,
            TableContent::of("set ports {\n\telements = { 8080,\n\t\t80 }\n}")
        );
        assert_ne!(content, TableContent::of("set ports {\n\telements = { 80 }\n}"));
    }
}
