//! The head of a request as its judge reads it. Pure.

use std::borrow::Cow;

use http::Uri;

use crate::http::{
    forwarded::{CLIENT_CERTIFICATE, certificate_of},
    scan::{RequestFault, names::reads_as},
    upgrade::is_offered,
};

/// Facts of a head that the scan has let pass.
#[derive(Debug)]
pub(super) struct JudgedHead<'a> {
    pub(super) method: &'a str,
    /// As it is written, without the query.
    pub(super) path: Cow<'a, str>,
}

impl<'a> JudgedHead<'a> {
    /// `identity` is that of the caller's certificate, as its gateway vouches for it.
    pub(super) fn read(head: &'a [u8], identity: Option<&str>) -> Result<Self, RequestFault> {
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let (method, path) = request_line(lines.next().unwrap_or_default()).ok_or(RequestFault::Target)?;
        let mut is_told = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let (name, value) = (
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default().trim_ascii(),
            );
            if name.eq_ignore_ascii_case(b"upgrade") {
                let mut members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                if !members.all(is_offered) {
                    return Err(RequestFault::Protocol);
                }
            } else if reads_as(name, CLIENT_CERTIFICATE.as_str().as_bytes()) {
                let is_other = !name.eq_ignore_ascii_case(CLIENT_CERTIFICATE.as_str().as_bytes())
                    || identity.is_none_or(|identity| certificate_of(identity).as_bytes() != value);
                if is_other || std::mem::replace(&mut is_told, true) {
                    return Err(RequestFault::Certificate);
                }
            }
        }
        Ok(Self { method, path })
    }
}

/// Method and path; `None`: the path is none.
fn request_line(line: &[u8]) -> Option<(&str, Cow<'_, str>)> {
    let mut parts = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target) = (parts.next()?, parts.next()?);
    let path = match target.starts_with('/') || target == "*" {
        true => target.split('?').next()?.into(),
        false => target.parse::<Uri>().ok()?.path().to_owned().into(),
    };
    Some((method, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "spiffe://test.internal/app/web";

    fn fault(fields: &str, identity: Option<&str>) -> Option<RequestFault> {
        let head = format!("GET /a?b HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
        JudgedHead::read(head.as_bytes(), identity).err()
    }

    #[test]
    fn a_head_is_of_its_method_and_path() {
        for (line, method, path) in [
            ("GET /a/b?c=d HTTP/1.1", "GET", "/a/b"),
            ("\r\nPURGE http://orders/a?b HTTP/1.1", "PURGE", "/a"),
            ("OPTIONS * HTTP/1.1", "OPTIONS", "*"),
        ] {
            let head = format!("{line}\r\nHost: orders\r\n\r\n");
            let read = JudgedHead::read(head.as_bytes(), None).unwrap();
            assert_eq!((read.method, read.path.as_ref()), (method, path));
        }
    }

    #[test]
    fn nothing_is_said_of_a_certificate_but_what_is_vouched_for() {
        let own = format!("X-Forwarded-Client-Cert: URI={OWN}\r\n");
        assert_eq!(fault(&own, Some(OWN)), None);
        assert_eq!(fault("X-Other: 1\r\n", Some(OWN)), None);
        for (fields, identity) in [
            (own.clone(), None),
            (own.clone(), Some("spiffe://test.internal/app/webb")),
            (own.repeat(2), Some(OWN)),
            (own.replace("-Client", "_Client"), Some(OWN)),
            (own.replace('-', "."), Some(OWN)),
            (own.replace("URI", "Hash=1;URI"), Some(OWN)),
            ("x-forwarded-client-cert:\r\n".to_owned(), Some(OWN)),
        ] {
            assert_eq!(
                fault(&fields, identity),
                Some(RequestFault::Certificate),
                "{fields}"
            );
        }
    }

    #[test]
    fn no_protocol_is_asked_for_that_carries_http() {
        assert_eq!(fault("Upgrade: websocket, Echo/1\r\n", None), None);
        for carries in ["h2c", "websocket, H2C", "HTTP/2.0", "TLS/1.3", "\u{a0}h2c", ""] {
            let fields = format!("Upgrade: {carries}\r\n");
            assert_eq!(fault(&fields, None), Some(RequestFault::Protocol), "{carries}");
        }
    }
}
