//! What the end-to-end tests stand on: real processes, an emulated link, instances that record, and load.
