//! Trailers of a request on their way to an instance. Pure.

use http::HeaderMap;

use super::{scan::trailers::may_trail, version2::has_outer_blank};

/// Takes out what may not be there.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let fields = trailers.iter();
    let never = fields.filter(|(name, value)| !may_trail(name.as_str().as_bytes()) || has_outer_blank(value));
    let never: Vec<_> = never.map(|(name, _)| name.clone()).collect();
    for name in never {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_may_be_there_is_left() {
        let value = HeaderValue::from_static("1");
        let mut trailers = HeaderMap::new();
        for name in ["x-forwarded-client-cert", "x-checksum", "cookie"] {
            trailers.append(name, value.clone());
            trailers.append(name, value.clone());
        }
        trailers.append("x-tenant", HeaderValue::from_static("1 "));
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-checksum"]);
        assert_eq!(trailers.len(), 2);
    }
}
