//! Faults for which a request is refused before anything of it reaches an instance, and how a client is told.

use causeway_federation::request_path::PathFault;

/// Fault of a request, or of bytes in the place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// A line ends with LF alone, or a CR stands without its LF.
    LineEnd,
    /// A byte that no line may have: a control byte or NUL.
    ControlByte,
    /// More than one empty line comes before a request.
    EmptyLines,
    Method,
    /// A method of the standard, in other letters: programs that take it for the one in capitals would do what was not permitted.
    MethodCase,
    /// CONNECT asks for a tunnel, which is not offered.
    Connect,
    Target,
    Version,
    OtherVersion,
    /// A line is none of `name: value`, or has a blank before the colon.
    Field,
    /// A line begins with a blank: it would go on with the one before it.
    Folded,
    /// A value begins or ends with a blank, which HTTP/2 forbids (RFC 9113, 8.2.1) and HTTP/1.1 takes away.
    OuterBlank,
    NoHost,
    TwoHosts,
    Host,
    Length,
    TwoLengths,
    LengthAndCoding,
    Coding,
    UnknownCoding,
    /// HTTP/1.0 knows no transfer coding.
    OldCoding,
    TargetTooLong,
    HeadTooLong,
    TooManyFields,
    ChunkSize,
    ChunkExtension,
    /// The bytes of a chunk are not followed by CRLF.
    ChunkEnd,
    /// Trailers have a field that frames or routes a message.
    Trailer,
    TrailersTooLong,
    /// The head did not come to its end in time.
    Slow,
    /// A route or permission looks at the path, of which programs make different things.
    UnclearPath,
    /// Another protocol is asked for that is HTTP once more.
    Protocol,
    /// Another protocol is asked for where earlier requests may still be answered.
    LateUpgrade,
    /// It says of its caller's certificate what its gateway has not vouched for.
    Certificate,
}

impl RequestFault {
    /// Fault of a request whose path cannot be compared with routes.
    pub(crate) fn of_path(fault: PathFault) -> Self {
        match fault {
            PathFault::TooLong => Self::TargetTooLong,
            PathFault::DotSegment | PathFault::ControlByte | PathFault::BadEncoding => Self::UnclearPath,
        }
    }

    /// Status of the answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Slow => 408,
            Self::TargetTooLong => 414,
            Self::HeadTooLong | Self::TooManyFields | Self::TrailersTooLong => 431,
            Self::Connect | Self::UnknownCoding => 501,
            Self::OtherVersion => 505,
            _ => 400,
        }
    }

    /// Text of the answer and the log, which repeats nothing of the request.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::LineEnd => "a line of the request does not end with CR and LF",
            Self::ControlByte => "the request has a control byte",
            Self::EmptyLines => "empty lines come before the request",
            Self::Method => "the method is none",
            Self::MethodCase => "the method is not in the letters of the standard",
            Self::Connect => "CONNECT is not offered",
            Self::Target => "the target of the request is none",
            Self::Version => "the request line does not end with a version of HTTP",
            Self::OtherVersion => "only HTTP/1.1 and HTTP/1.0 are spoken here",
            Self::Field => "a header line is not a name, a colon and a value",
            Self::Folded => "a header line begins with a blank",
            Self::OuterBlank => "the value of a field begins or ends with a blank",
            Self::NoHost => "the request has no Host",
            Self::TwoHosts => "the request has more than one Host",
            Self::Host => "the Host is none",
            Self::Length => "the Content-Length is no number",
            Self::TwoLengths => "the request has more than one Content-Length",
            Self::LengthAndCoding => "the request has both Content-Length and Transfer-Encoding",
            Self::Coding => "the Transfer-Encoding is not chunked, once and last",
            Self::UnknownCoding => "no transfer coding but chunked is known",
            Self::OldCoding => "HTTP/1.0 has no Transfer-Encoding",
            Self::TargetTooLong => "the target of the request is too long",
            Self::HeadTooLong => "the head of the request is too long",
            Self::TooManyFields => "the request has too many fields",
            Self::ChunkSize => "the size of a chunk is no number",
            Self::ChunkExtension => "a chunk has extensions that are malformed or too long",
            Self::ChunkEnd => "a chunk does not end where its size says",
            Self::Trailer => "a trailer says how the message is framed or where it goes",
            Self::TrailersTooLong => "the trailers of the request are too long",
            Self::Slow => "the head of the request did not come in time",
            Self::UnclearPath => {
                "the path has `.` or `..` as a segment, a control character or a `%` that is none"
            }
            Self::Protocol => "the protocol that the request asks for is none, or one that carries HTTP",
            Self::LateUpgrade => "another protocol is asked for on a connection that was used before",
            Self::Certificate => "the request says of a certificate what nobody has vouched for",
        }
    }
}
