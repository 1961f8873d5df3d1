//! Reasons why the store could not be read or written.

use std::io;

use crate::replica::SyncRefusal;

/// Reason why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogStoreError {
    #[error("cannot use the data folder")]
    Folder(#[source] io::Error),
    #[error("cannot use the catalog file")]
    File(#[source] redb::Error),
    #[error("the catalog file holds a row that is not a record: {0}")]
    Row(&'static str),
    #[error("the catalog file holds a row that is not a record")]
    Value(#[source] SyncRefusal),
    #[error("the catalog file is damaged in a way that cannot be read at all")]
    Panicked,
}

impl CatalogStoreError {
    pub(super) fn folder(error: io::Error) -> Self {
        Self::Folder(error)
    }

    /// Tells whether the file is at fault, rather than the disk or another process.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Row(_) | Self::Value(_) | Self::Panicked => true,
            Self::Folder(_) => false,
            Self::File(error) => match error {
                redb::Error::Io(error) => {
                    matches!(
                        error.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    )
                }
                redb::Error::Corrupted(_)
                | redb::Error::UpgradeRequired(_)
                | redb::Error::RepairAborted
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. } => true,
                _ => false,
            },
        }
    }
}

/// redb has an error type for each kind of call; all of them convert into its general one.
macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for CatalogStoreError {
            fn from(error: $kind) -> Self {
                Self::File(error.into())
            }
        }
    )*};
}

from_redb!(
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);
