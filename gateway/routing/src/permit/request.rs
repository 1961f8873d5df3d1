//! The part of a request that permissions look at: its method and its path, as it would be forwarded.

use causeway_federation::{
    request_path::{ComparedPath, PathFault},
    topology::{JudgedRequests, RouteMatch, Service},
};

use crate::requests::is_path;

/// Method and path of one request, as permissions compare them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine<'a> {
    method: &'a str,
    /// `None`: no permission of its service looks at paths.
    path: Option<ComparedPath<'a>>,
}

impl<'a> RequestLine<'a> {
    /// Reads what the permissions of `service` look at; `None`: they look at no request. `path` is as it is written, without the query.
    ///
    /// # Errors
    /// A path on whose meaning programs may disagree, where permissions look at paths.
    pub fn read(service: &Service, method: &'a str, path: &'a str) -> Result<Option<Self>, PathFault> {
        let path = match service.judges() {
            JudgedRequests::Unseen => return Ok(None),
            JudgedRequests::Methods => None,
            JudgedRequests::Paths => Some(ComparedPath::read(path)?),
        };
        Ok(Some(Self { method, path }))
    }

    /// Tells whether an entry with these conditions is about it.
    pub(super) fn meets(&self, wanted: &RouteMatch) -> bool {
        let method = wanted.methods.is_empty() || wanted.methods.contains(self.method);
        method
            && wanted
                .path
                .as_ref()
                .is_none_or(|wanted| self.path.as_ref().is_some_and(|path| is_path(wanted, path)))
    }
}
