//! Becoming and staying a gateway: the join token, and asking a CA for a certificate with it, or for the next one.
//!
//! The CA's side is [`crate`]; when to renew, and over which way, is `causeway_control::renewal`'s.

mod address;
mod client;
mod server_check;
mod token;
mod watched;

pub use address::{CaAddress, CaAddressError};
pub use client::{CertificateRequestError, connect, join, rejoin, renew, show};
pub use server_check::NotTheCa;
pub use token::{JoinToken, JoinTokenError};
