//! The program from outside. Having a test of this kind is also what makes `cargo test` build the program itself, which
//! the end-to-end tests then start as real gateways.

use std::process::Command;

#[test]
fn the_program_prints_its_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway")).arg("--help").output();
    let output = output.expect("run causeway");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
