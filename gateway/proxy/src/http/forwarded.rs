//! Fields that tell an instance where a request came from. Pure.
//!
//! An instance can believe only what its own gateway says, so the caller's certificate is told by nobody else.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::headers::drop_disguised;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Caller by the certificate that it showed: the field and its form are those of Envoy.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Client of a request, as an instance may be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestOrigin<'a> {
    pub(crate) client: IpAddr,
    /// It came over TLS.
    pub(crate) is_tls: bool,
    /// Identity of its certificate.
    pub(crate) identity: Option<&'a str>,
}

/// Adds the client to those that the request has come through, and puts who it is in the place of whatever it says of that
/// itself. To be called with the name that it has asked for in `Host`.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, origin: RequestOrigin<'_>) {
    let told = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, CLIENT_CERTIFICATE];
    drop_disguised(headers, |name| told.iter().any(|told| told.as_str() == name));
    let client = origin.client.to_canonical().to_string();
    append(headers, FORWARDED_FOR, &client);
    let protocol = match origin.is_tls {
        true => "https",
        false => "http",
    };
    // Those before it know what the first client asked for.
    insert_new(headers, FORWARDED_PROTO, HeaderValue::from_str(protocol).ok());
    let host = headers.get(header::HOST).cloned();
    insert_new(headers, FORWARDED_HOST, host);
    headers.remove(CLIENT_CERTIFICATE);
    let told = origin
        .identity
        .and_then(|identity| HeaderValue::from_str(&format!("URI={identity}")).ok());
    if let Some(told) = told {
        headers.insert(CLIENT_CERTIFICATE, told);
    }
}

/// Adds a member to a list that may be spread over several lines.
fn append(headers: &mut HeaderMap, name: HeaderName, member: &str) {
    let lines = headers.get_all(&name).iter();
    let mut list: Vec<u8> = Vec::new();
    for line in lines {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member.as_bytes());
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

fn insert_new(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value
        && !headers.contains_key(&name)
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RequestOrigin<'_> = RequestOrigin {
        client: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)),
        is_tls: false,
        identity: None,
    };

    fn told(fields: &[(&'static str, &'static str)], origin: RequestOrigin<'_>) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        add_forwarded(&mut headers, origin);
        let fields = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let mut fields: Vec<_> = fields.filter(|(name, _)| name != "host").collect();
        fields.sort();
        fields
    }

    fn fields(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn an_instance_is_told_of_the_client() {
        assert_eq!(
            told(&[("host", "orders.mesh")], PLAIN),
            fields(&[
                ("x-forwarded-for", "10.0.0.7"),
                ("x-forwarded-host", "orders.mesh"),
                ("x-forwarded-proto", "http"),
            ])
        );
    }

    #[test]
    fn those_before_it_keep_their_place() {
        let before = [
            ("host", "orders.mesh"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2, 192.0.2.3"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(
            told(&before, PLAIN),
            fields(&[
                ("x-forwarded-for", "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.7"),
                ("x-forwarded-host", "shop.example"),
                ("x-forwarded-proto", "https"),
            ])
        );
    }

    #[test]
    fn a_client_says_nothing_in_a_name_that_is_read_as_another() {
        let disguised = [
            ("x_forwarded_for", "192.0.2.9"),
            ("x-forwarded_proto", "https"),
            ("x_forwarded-host", "shop.example"),
            ("x_forwarded_client_cert", "URI=spiffe://a/b"),
            ("x_other", "1"),
        ];
        assert_eq!(
            told(&disguised, PLAIN),
            fields(&[
                ("x-forwarded-for", "10.0.0.7"),
                ("x-forwarded-proto", "http"),
                ("x_other", "1"),
            ])
        );
    }

    #[test]
    fn a_client_says_nothing_of_its_own_certificate() {
        let lies = [
            ("x-forwarded-client-cert", "URI=spiffe://a/b"),
            ("x-forwarded-client-cert", "URI=c"),
        ];
        let certificate = |origin| {
            let mut told = told(&lies, origin);
            told.retain(|(name, _)| name == "x-forwarded-client-cert");
            told
        };
        assert_eq!(certificate(PLAIN), []);
        let shown = RequestOrigin {
            is_tls: true,
            identity: Some("spiffe://acme.internal/app/web"),
            ..PLAIN
        };
        assert_eq!(
            certificate(shown),
            fields(&[("x-forwarded-client-cert", "URI=spiffe://acme.internal/app/web")])
        );
    }
}
