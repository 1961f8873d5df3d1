//! One finding of `causeway check`: what was looked at, how it stands, and what can be done.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Works, but somebody should look.
    Warn,
    Fail,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Checks with the same group are shown together.
    pub group: String,
    /// Name of what was looked at.
    pub name: String,
    pub status: Status,
    /// Findings in words; may be empty when all is well.
    pub message: String,
    /// Advice on what can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    #[must_use]
    pub fn ok(group: &str, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Status::Ok, group, name.into(), message.into(), None)
    }

    #[must_use]
    pub fn warn(
        group: &str,
        name: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(
            Status::Warn,
            group,
            name.into(),
            message.into(),
            Some(hint.into()),
        )
    }

    #[must_use]
    pub fn fail(
        group: &str,
        name: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(
            Status::Fail,
            group,
            name.into(),
            message.into(),
            Some(hint.into()),
        )
    }

    fn new(status: Status, group: &str, name: String, message: String, hint: Option<String>) -> Self {
        let group = group.to_owned();
        Self {
            group,
            name,
            status,
            message,
            hint,
        }
    }
}
