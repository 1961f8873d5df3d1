//! The admin API and the commands that use it, over real sockets and the real program, on a hand-made state.

mod api;
mod commands;
mod federation;
