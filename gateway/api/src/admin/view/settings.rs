//! Settings that a gateway was started with. It takes up no other ones while it runs.

use serde::{Deserialize, Serialize};

/// One flag of `causeway gateway`, as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingView {
    /// Such as `--drain`.
    pub flag: String,
    /// Such as `CAUSEWAY_DRAIN`.
    pub variable: String,
    /// As it was written; several are separated by commas, and empty is none.
    pub value: String,
    pub source: SettingSource,
}

/// Origin of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingSource {
    CommandLine,
    Environment,
    Default,
}
