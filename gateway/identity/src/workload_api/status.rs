//! The state of the agent, for everybody who only looks.

use std::time::SystemTime;

use super::EndpointAddress;

/// The agent that an identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStatus {
    pub endpoint: EndpointAddress,
    /// Reason why it cannot be asked; `None`: it can.
    pub trouble: Option<Trouble>,
}

/// Obstacle that keeps an agent from saying who this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In one line.
    pub why: String,
    pub hint: &'static str,
    pub since: SystemTime,
    /// Tries in vain, one after the other.
    pub tries: u32,
}
