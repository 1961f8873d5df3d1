//! HTTP as a gateway between two programs has to know it: what is a request and where it ends, which fields end with a
//! connection, what a gateway answers itself, and limits. All pure; carrying requests is for the egress (`egress/http`).

pub(crate) mod answer;
pub(crate) mod answer_fault;
pub(crate) mod early;
pub(crate) mod forwarded;
pub(crate) mod grpc;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod routed;
pub(crate) mod scan;
#[cfg(test)]
pub(crate) mod scan_tests;
pub(crate) mod sticky;
pub(crate) mod trailers;
pub(crate) mod upgrade;
pub(crate) mod verdict;
pub(crate) mod version2;
