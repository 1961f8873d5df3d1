//! HTTP as a gateway between two programs has to know it: which fields end with a connection, what a gateway answers itself,
//! and limits. All pure; carrying requests is for the egress (`egress/http`).

pub(crate) mod answer;
pub(crate) mod headers;
pub(crate) mod limits;
