//! Becoming and staying a gateway: the join token, and asking a CA for a certificate with it, or for the next one.
//!
//! The CA's side is [`crate::authority`]; when to renew, and over which way, is [`crate::renewal`]'s.

mod address;
mod client;
mod refusal;
mod server_check;
mod token;
mod watched;

pub use address::{CaAddress, CaAddressError};
pub use client::{AskError, connect, join, renew};
pub use refusal::Refusal;
pub use server_check::NotTheCa;
pub use token::{JoinToken, TokenError};
