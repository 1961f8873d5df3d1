//! Variables of the commands: those that serve and those that ask may run with one environment.

use std::collections::BTreeMap;

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Commands that serve something.
const SERVERS: [&str; 3] = ["gateway", "zone-sync", "ca serve"];
/// Variables that two commands have under flags of different names and one meaning: a file that a gateway reads, and the command that makes it.
const ONE_MEANING: [&str; 1] = ["CAUSEWAY_ADMIN_TOKENS"];

/// The flag of each variable, command by command.
fn variables(command: &Command, path: &str, found: &mut BTreeMap<String, BTreeMap<String, String>>) {
    let flags = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, argument.get_long()?.to_owned()))
    });
    found.insert(path.to_owned(), flags.collect());
    for below in command.get_subcommands() {
        let path = format!("{path} {}", below.get_name());
        variables(below, path.trim(), found);
    }
}

#[test]
fn no_variable_says_one_thing_to_who_serves_and_another_to_who_asks() {
    let mut found = BTreeMap::new();
    variables(&Cli::command(), "", &mut found);
    let mut collisions = Vec::new();
    for server in SERVERS {
        for (other, flags) in found.iter().filter(|(path, _)| *path != server) {
            for (variable, flag) in &found[server] {
                let shared = flags.get(variable);
                let own_place = ["listen", "admin"].contains(&flag.as_str());
                let differs = shared.is_some_and(|theirs| theirs != flag || own_place);
                if differs && !ONE_MEANING.contains(&variable.as_str()) {
                    collisions.push(format!("{variable} of {server} and {other}"));
                }
            }
        }
        assert!(found[server].len() > 2, "{server}: {:?}", found[server]);
    }
    assert_eq!(collisions, Vec::<String>::new());
}
