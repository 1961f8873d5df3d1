//! Fields that tell an instance where a request came from. Pure.
//!
//! An instance can believe only what its own gateway says, so the caller's certificate is told by nobody else.

use std::net::IpAddr;

use causeway_federation::topology::ForwardedFields;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::headers::drop_disguised;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Caller by the certificate that it showed: the field and its form are those of Envoy.
pub(crate) const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Client of a request, as an instance may be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestOrigin<'a> {
    pub(crate) client: IpAddr,
    /// It came over TLS.
    pub(crate) is_tls: bool,
    /// Identity of its certificate.
    pub(crate) identity: Option<&'a str>,
}

/// Says where a request comes from, as its service wants it, and puts who the client is in the place of whatever it says of that
/// itself. To be called with the name that it has asked for in `Host`.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, origin: RequestOrigin<'_>, fields: ForwardedFields) {
    let told = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, CLIENT_CERTIFICATE];
    drop_disguised(headers, told.iter().map(HeaderName::as_str));
    match fields {
        ForwardedFields::Append => add_client(headers, origin),
        ForwardedFields::Replace => {
            for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, header::FORWARDED] {
                headers.remove(name);
            }
            add_client(headers, origin);
        }
        ForwardedFields::Off => {}
    }
    set_certificate(headers, origin.identity);
}

/// Value of the field for a caller that showed a certificate with this identity.
pub(crate) fn certificate_of(identity: &str) -> String {
    format!("URI={identity}")
}

/// Tells whose certificate was shown, in the place of whatever is said of that already.
pub(crate) fn set_certificate(headers: &mut HeaderMap, identity: Option<&str>) {
    drop_disguised(headers, [CLIENT_CERTIFICATE.as_str()].into_iter());
    headers.remove(CLIENT_CERTIFICATE);
    let told = identity.and_then(|identity| HeaderValue::from_str(&certificate_of(identity)).ok());
    if let Some(told) = told {
        headers.insert(CLIENT_CERTIFICATE, told);
    }
}

/// Adds the client to those that the request has come through.
fn add_client(headers: &mut HeaderMap, origin: RequestOrigin<'_>) {
    let client = origin.client.to_canonical();
    append(headers, FORWARDED_FOR, &client.to_string());
    let protocol = match origin.is_tls {
        true => "https",
        false => "http",
    };
    let host = headers.get(header::HOST).cloned();
    if headers.contains_key(header::FORWARDED) {
        // Whoever reads this one does not read the others.
        let client = match client {
            IpAddr::V4(ip) => format!("for={ip}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        };
        let named = host.as_ref().and_then(|host| host.to_str().ok());
        let named = named.filter(|host| !host.contains(['"', '\\']));
        let named = named.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
        append(
            headers,
            header::FORWARDED,
            &format!("{client}{named};proto={protocol}"),
        );
    }
    // Those before it know what the first client asked for.
    insert_new(headers, FORWARDED_PROTO, HeaderValue::from_str(protocol).ok());
    insert_new(headers, FORWARDED_HOST, host);
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
        told_as(ForwardedFields::Append, fields, origin)
    }

    fn told_as(
        wanted: ForwardedFields,
        fields: &[(&'static str, &'static str)],
        origin: RequestOrigin<'_>,
    ) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        add_forwarded(&mut headers, origin, wanted);
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
    fn a_service_may_have_the_client_take_the_place_of_those_before_it_or_be_told_of_nobody() {
        let before = [
            ("host", "orders.mesh"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "URI=spiffe://a/b"),
        ];
        let replaced = fields(&[
            ("x-forwarded-for", "10.0.0.7"),
            ("x-forwarded-host", "orders.mesh"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(told_as(ForwardedFields::Replace, &before, PLAIN), replaced);
        let as_it_came = fields(&before[1..5]);
        assert_eq!(told_as(ForwardedFields::Off, &before, PLAIN), as_it_came);
        let none = told_as(ForwardedFields::Off, &[("host", "orders.mesh")], PLAIN);
        assert_eq!(none, []);
    }

    #[test]
    fn the_field_of_the_standard_is_kept_up_where_a_client_has_begun_it() {
        let forwarded = |origin| {
            let mut told = told(&[("host", "orders.mesh"), ("forwarded", "for=192.0.2.1")], origin);
            told.retain(|(name, _)| name == "forwarded");
            told
        };
        let both = "for=192.0.2.1, for=10.0.0.7;host=\"orders.mesh\";proto=http";
        assert_eq!(forwarded(PLAIN), fields(&[("forwarded", both)]));
        let client = RequestOrigin {
            client: "2001:db8::7".parse().unwrap(),
            is_tls: true,
            ..PLAIN
        };
        let both = "for=192.0.2.1, for=\"[2001:db8::7]\";host=\"orders.mesh\";proto=https";
        assert_eq!(forwarded(client), fields(&[("forwarded", both)]));
    }

    #[test]
    fn a_client_says_nothing_in_a_name_that_is_read_as_another() {
        let disguised = [
            ("x_forwarded_for", "192.0.2.9"),
            ("x-forwarded_proto", "https"),
            ("x_forwarded-host", "shop.example"),
            ("x_forwarded_client_cert", "URI=spiffe://a/b"),
            ("x.forwarded.client.cert", "URI=spiffe://a/b"),
            ("x-forwarded~client-cert", "URI=spiffe://a/b"),
            ("x!forwarded|for", "192.0.2.9"),
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
