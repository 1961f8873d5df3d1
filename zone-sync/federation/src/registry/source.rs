//! Sources of instances, and which goes before which.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{NameError, SourceName};

use super::RegistryError;

/// Source that put an instance into the registry, in order of precedence: where two sources hold the same key, the earlier one
/// is in force, and the later one takes over when the earlier one lets go. What an operator wrote goes before what an
/// instance says of itself, that before what another system says of it, and DNS, which knows least, comes last.
///
/// A new word is taken from programs that use it as a name, and what they stored under it is skipped: say so. Adding a variant:
/// its word in `as_str` and in `from_str`, where the compiler does not ask for it and a program could go on using it; the word in
/// both tests below, of which only the second notices; `source` and `SOURCES` in `replacement_tests.rs`; what the zone's
/// registry calls it (`shared_source` in gateway/instances/src/shared.rs, docs/several-gateways.md); the list in
/// `registry.proto`, from which Rust is written anew (`proto/tests/generated.rs`); docs/registering.md, at its place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum InstanceSource {
    /// Fixed in the topology file.
    Topology,
    /// Read from the files of a watched folder.
    Folder,
    /// Registered over an API, by the instance or for it.
    Registered,
    /// Handed over as a whole under this name; several go in the order of their names.
    Named(SourceName),
    /// Found by asking DNS.
    Dns,
}

impl InstanceSource {
    /// The source that a program names when it hands over all that it knows.
    ///
    /// # Errors
    /// When `name` is no DNS label, or means one of the sources that are built in.
    pub fn named(name: &str) -> Result<Self, RegistryError> {
        match name.parse() {
            Ok(Self::Named(name)) => Ok(Self::Named(name)),
            Ok(_) => Err(RegistryError::ReservedSource(name.to_owned())),
            Err(error) => Err(RegistryError::BadSource(error)),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Topology => "topology",
            Self::Folder => "folder",
            Self::Registered => "registered",
            Self::Named(name) => name.as_str(),
            Self::Dns => "dns",
        }
    }

    /// Tells whether what it put in must be kept over a restart, because it does not come again by itself.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Registered | Self::Named(_))
    }
}

impl fmt::Display for InstanceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for InstanceSource {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text {
            "topology" => Self::Topology,
            "folder" => Self::Folder,
            "registered" => Self::Registered,
            "dns" => Self::Dns,
            name => Self::Named(SourceName::new(name)?),
        })
    }
}

impl TryFrom<String> for InstanceSource {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<InstanceSource> for String {
    fn from(source: InstanceSource) -> Self {
        source.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_it_is_written() {
        for word in ["topology", "folder", "registered", "dns", "consul", "k8s-east"] {
            assert_eq!(word.parse::<InstanceSource>().unwrap().to_string(), word);
        }
        assert!("Consul".parse::<InstanceSource>().is_err());
    }

    #[test]
    fn a_program_cannot_pass_itself_off_as_a_source_that_is_built_in() {
        assert_eq!(InstanceSource::named("consul").unwrap().as_str(), "consul");
        for word in ["topology", "folder", "registered", "dns"] {
            let refused = RegistryError::ReservedSource(word.to_owned());
            assert_eq!(InstanceSource::named(word), Err(refused));
        }
        assert!(matches!(
            InstanceSource::named("a b"),
            Err(RegistryError::BadSource(_))
        ));
    }
}
