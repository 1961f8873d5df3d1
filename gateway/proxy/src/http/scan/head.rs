//! The head of a request, line by line, as RFC 9112 has it and nothing besides.

use std::net::Ipv6Addr;

use super::RequestFault;

/// Length of the body, as a head says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    Bytes(u64),
    Chunked,
}

/// Facts of a head that decide where it and its body end, and whether it may pass.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadFacts {
    version: Option<RequestVersion>,
    fields: usize,
    has_host: bool,
    length: Option<u64>,
    coding: Option<TransferCoding>,
    has_upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestVersion {
    Http10,
    Http11,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferCoding {
    /// The last one is chunked, and there was none before it.
    Chunked,
    /// There is one that is not known.
    Unknown,
}

/// Methods of RFC 9110 and RFC 5789 that are served.
const STANDARD_METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH",
];
/// Most digits of a length that every recipient can hold in 64 bits with a sign.
const MAX_LENGTH_DIGITS: usize = 18;
/// Most digits of a port.
const MAX_PORT_DIGITS: usize = 5;

impl HeadFacts {
    pub(super) fn has_request_line(&self) -> bool {
        self.version.is_some()
    }

    /// Tells whether the connection may change to another protocol after it (HTTP/1.0 knows no such change).
    pub(super) fn may_upgrade(&self) -> bool {
        self.has_upgrade && self.version == Some(RequestVersion::Http11)
    }

    /// Takes up the first line.
    pub(super) fn request_line(&mut self, line: &[u8]) -> Result<(), RequestFault> {
        let mut parts = line.split(|byte| *byte == b' ');
        let method = parts.next().unwrap_or_default();
        if let Some(fault) = method_fault(method) {
            return Err(fault);
        }
        let target = parts.next().ok_or(RequestFault::Target)?;
        let version = parts.next().ok_or(RequestFault::Version)?;
        if parts.next().is_some() {
            // There is a blank within the target, or one too many beside it.
            return Err(RequestFault::Target);
        }
        self.version = Some(version_of(version)?);
        if method.eq_ignore_ascii_case(b"CONNECT") {
            return Err(RequestFault::Connect);
        }
        match is_target(method, target) {
            true => Ok(()),
            false => Err(RequestFault::Target),
        }
    }

    /// Takes up a header line. There are at most `limit`.
    pub(super) fn field(&mut self, line: &[u8], limit: usize) -> Result<(), RequestFault> {
        self.fields += 1;
        if self.fields > limit {
            return Err(RequestFault::TooManyFields);
        }
        let (name, value) = field_of(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            if std::mem::replace(&mut self.has_host, true) {
                return Err(RequestFault::TwoHosts);
            }
            if !is_host(value) {
                return Err(RequestFault::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(RequestFault::TwoLengths);
            }
            self.length = Some(length_of(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            for coding in value.split(|byte| *byte == b',') {
                self.coding(trimmed(coding))?;
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        }
        Ok(())
    }

    fn coding(&mut self, coding: &[u8]) -> Result<(), RequestFault> {
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        let name = trimmed(coding.split(|byte| *byte == b';').next().unwrap_or_default());
        // Chunked has no parameters.
        let is_sound = is_token(name) && (is_chunked || !name.eq_ignore_ascii_case(b"chunked"));
        self.coding = Some(match self.coding {
            _ if !is_sound => return Err(RequestFault::Coding),
            Some(TransferCoding::Chunked) => return Err(RequestFault::Coding),
            None if is_chunked => TransferCoding::Chunked,
            _ => TransferCoding::Unknown,
        });
        Ok(())
    }

    /// Says how the body is framed, once all lines were taken up.
    pub(super) fn end(&self) -> Result<BodyFraming, RequestFault> {
        if self.version == Some(RequestVersion::Http11) && !self.has_host {
            return Err(RequestFault::NoHost);
        }
        let Some(coding) = self.coding else {
            return Ok(BodyFraming::Bytes(self.length.unwrap_or(0)));
        };
        if self.length.is_some() {
            return Err(RequestFault::LengthAndCoding);
        }
        if self.version == Some(RequestVersion::Http10) {
            return Err(RequestFault::OldCoding);
        }
        match coding {
            TransferCoding::Chunked => Ok(BodyFraming::Chunked),
            TransferCoding::Unknown => Err(RequestFault::UnknownCoding),
        }
    }
}

/// Splits a header line into its name and its value.
pub(super) fn field_of(line: &[u8]) -> Result<(&[u8], &[u8]), RequestFault> {
    if line.first().is_some_and(|byte| is_blank(*byte)) {
        return Err(RequestFault::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(RequestFault::Field)?);
    match is_token(name) {
        true => Ok((name, trimmed(value.get(1..).unwrap_or_default()))),
        false => Err(RequestFault::Field),
    }
}

/// Fault of a method. Any name is one, but none that differs from one of the standard by capitals alone.
pub(crate) fn method_fault(method: &[u8]) -> Option<RequestFault> {
    let is_standard = |known: &&str| method.eq_ignore_ascii_case(known.as_bytes());
    match STANDARD_METHODS.into_iter().find(is_standard) {
        Some(known) if known.as_bytes() != method => Some(RequestFault::MethodCase),
        _ if !is_token(method) => Some(RequestFault::Method),
        _ => None,
    }
}

fn version_of(version: &[u8]) -> Result<RequestVersion, RequestFault> {
    match version {
        b"HTTP/1.1" => Ok(RequestVersion::Http11),
        b"HTTP/1.0" => Ok(RequestVersion::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(RequestFault::OtherVersion)
        }
        _ => Err(RequestFault::Version),
    }
}

fn length_of(value: &[u8]) -> Result<u64, RequestFault> {
    let is_number = (1..=MAX_LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).unwrap_or_default();
    match text.parse() {
        Ok(length) if is_number => Ok(length),
        _ => Err(RequestFault::Length),
    }
}

/// Tells whether a target is a path, the name of a resource with its host, or `*` where that is meant.
pub(crate) fn is_target(method: &[u8], target: &[u8]) -> bool {
    if !target.iter().all(|byte| is_target_byte(*byte)) {
        return false;
    }
    match target {
        b"*" => method == b"OPTIONS",
        [b'/', ..] => true,
        _ => {
            let schemes: [&[u8]; 2] = [b"http://", b"https://"];
            let named = schemes.iter().find_map(|scheme| {
                let (begin, rest) = target.split_at_checked(scheme.len())?;
                begin.eq_ignore_ascii_case(scheme).then_some(rest)
            });
            let mut named = named
                .unwrap_or_default()
                .split(|byte| matches!(byte, b'/' | b'?'));
            named.next().is_some_and(is_host)
        }
    }
}

/// Tells whether a target may have a byte. Some that a URI has not are sent unescaped by common programs and mean nothing else.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'`')
}

/// Tells whether this is a name or address, with a port or without.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !name.is_empty() && name.bytes().all(is_name) && is_port(port)
}

fn is_port(port: &str) -> bool {
    port.len() <= MAX_PORT_DIGITS
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

/// Tells whether this is a name as methods, fields and codings have it (RFC 9110, 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_part)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = value
        && is_blank(*first)
    {
        value = rest;
    }
    while let [rest @ .., last] = value
        && is_blank(*last)
    {
        value = rest;
    }
    value
}
