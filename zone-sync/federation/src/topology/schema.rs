//! The JSON Schema of the topology file, for editors that complete and check while one types.
//!
//! It is written by hand, because its descriptions are what an editor shows. It is looser than [`super::parse`], which
//! has the last word; a test holds its keys to those that `read` knows.

use serde_json::Value;

const TEXT: &str = include_str!("topology.schema.json");

/// The schema (JSON Schema draft 2020-12).
///
/// # Panics
/// Never: the schema is part of the program, and a test reads it.
#[must_use]
pub fn schema() -> Value {
    serde_json::from_str(TEXT).expect("the schema is compiled in and read by a test")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::read::KINDS;
    use super::*;

    #[test]
    fn the_schema_has_the_keys_that_the_reader_knows() {
        let schema = schema();
        for (name, kind) in KINDS {
            let definition = if name.is_empty() {
                &schema
            } else {
                &schema["$defs"][name]
            };
            let properties = definition["properties"].as_object();
            let properties = properties.unwrap_or_else(|| panic!("{name} has no properties in the schema"));
            let described: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
            let read: BTreeSet<&str> = kind.keys.iter().copied().collect();
            assert_eq!(described, read, "keys of {}", kind.what);
            assert_eq!(
                definition["additionalProperties"], false,
                "{name} lets unknown keys pass"
            );
        }
    }
}
