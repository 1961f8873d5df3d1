//! Capacity, as a service goes by it.

/// Bound of what a zone is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityRule {
    /// Nothing.
    Ignore,
    /// Declared capacity.
    Respect,
    /// Declared capacity, and what its instances are found to take where that is less.
    Measured,
}

impl CapacityRule {
    pub const ALL: [Self; 3] = [Self::Ignore, Self::Respect, Self::Measured];

    /// Word in the topology file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Respect => "respect",
            Self::Measured => "measured",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}
