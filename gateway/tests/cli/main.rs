//! The admin API and the commands that use it, over real sockets and the real program, on a hand-made state.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

mod access;
mod api;
mod authority;
mod choice;
mod commands;
mod federation;
mod hand_over;
mod hostile;
mod lists;
mod metrics;
mod metrics_page;
mod signals;
mod simulate;
mod tasks;
mod topology;
mod verdicts;
