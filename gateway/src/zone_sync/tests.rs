//! What needs no etcd: addresses, and what is answered before etcd was reached.
