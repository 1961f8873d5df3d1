//! Place in a trace, as others tell it and are told: W3C Trace Context, level 1.

use std::{fmt, str::FromStr as _};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
use serde::{Serialize, Serializer};

/// Most bytes of a `tracestate` that is taken up; a longer one is left out of spans, and handed on all the same.
const MAX_STATE_BYTES: usize = 512;
/// Most members of one.
const MAX_STATE_MEMBERS: usize = 32;

/// Names a trace, and tells whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId {
    bits: u128,
    is_sampled: bool,
}

impl TraceId {
    #[must_use]
    pub fn new(bits: u128, is_sampled: bool) -> Self {
        Self { bits, is_sampled }
    }

    /// Tells whether its spans are recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.is_sampled
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Span of which others may be children.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(pub(super) SpanContext);

impl TraceContext {
    /// Reads a `traceparent`; `None`: it is none, and its trace begins anew.
    #[must_use]
    pub fn told(parent: &str) -> Option<Self> {
        let (version, rest) = (hex(parent, 0, 2)?, parent.get(2..)?);
        // A later version may say more, and never less.
        let is_whole = match version {
            0 => parent.len() == 55,
            0xff => false,
            _ => parent.len() == 55 || parent.as_bytes().get(55) == Some(&b'-'),
        };
        let dashes = [0, 33, 50].map(|at| rest.as_bytes().get(at) == Some(&b'-'));
        if !is_whole || dashes != [true; 3] {
            return None;
        }
        let (trace, span, flags) = (hex(parent, 3, 32)?, hex(parent, 36, 16)?, hex(parent, 53, 2)?);
        let flags = TraceFlags::new(u8::try_from(flags).ok()?) & TraceFlags::SAMPLED;
        let span = SpanId::from(u64::try_from(span).ok()?);
        let context = SpanContext::new(trace.into(), span, flags, true, TraceState::default());
        context.is_valid().then_some(Self(context))
    }

    /// Takes up what other tracing systems say of it, if that can be read.
    #[must_use]
    pub fn with_state(self, state: &str) -> Self {
        // Members without anything in them are allowed, and count for nothing.
        let members = state.split(',').filter(|member| !member.trim().is_empty());
        let is_short = state.len() <= MAX_STATE_BYTES && members.count() <= MAX_STATE_MEMBERS;
        match is_short.then(|| TraceState::from_str(state).ok()).flatten() {
            None => self,
            Some(state) => {
                let Self(own) = &self;
                let (trace, span, flags) = (own.trace_id(), own.span_id(), own.trace_flags());
                Self(SpanContext::new(trace, span, flags, true, state))
            }
        }
    }

    /// Text of it as a `traceparent`: 55 bytes.
    #[must_use]
    pub fn parent(&self) -> String {
        let Self(own) = self;
        format!(
            "00-{}-{}-{:02x}",
            own.trace_id(),
            own.span_id(),
            own.trace_flags() & TraceFlags::SAMPLED
        )
    }

    /// Text of what other tracing systems say of it, as a `tracestate`: at most 512 bytes, often none.
    #[must_use]
    pub fn state(&self) -> String {
        self.0.trace_state().header()
    }

    #[must_use]
    pub fn id(&self) -> TraceId {
        let bits = u128::from_be_bytes(self.0.trace_id().to_bytes());
        TraceId::new(bits, self.0.is_sampled())
    }
}

/// The number that `digits` of a text stand for, which are lower-case hexadecimal ones.
fn hex(text: &str, from: usize, digits: usize) -> Option<u128> {
    let text = text.get(from..from + digits)?;
    let are_digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    are_digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_that_was_told_is_told_on_as_it_was() {
        let context = TraceContext::told(PARENT).unwrap();
        assert_eq!(context.parent(), PARENT);
        assert_eq!(context.id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.id().is_sampled());
        let unsampled = PARENT.replace("-01", "-00");
        let context = TraceContext::told(&unsampled).unwrap();
        assert!(!context.id().is_sampled());
        assert_eq!(context.parent(), unsampled);
        // Flags of which nothing is known here are not told on.
        let flags = PARENT.replace("-01", "-0b");
        assert_eq!(TraceContext::told(&flags).unwrap().parent(), PARENT);
    }

    #[test]
    fn what_is_no_parent_begins_a_trace_anew() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "00-0af7651916cd43dd8448eb211c80319\u{e4}-b7ad6b7169203331-1",
            "\u{20ac}",
        ] {
            assert_eq!(TraceContext::told(text), None, "{text}");
        }
        let later = format!("{}-more", PARENT.replacen("00", "01", 1));
        assert_eq!(TraceContext::told(&later).unwrap().parent(), PARENT);
    }

    #[test]
    fn what_other_systems_say_is_taken_up_if_it_can_be_read() {
        let told = |state: &str| {
            let context = TraceContext::told(PARENT).unwrap().with_state(state);
            context.state()
        };
        assert_eq!(told("ot=th:8,vendor=x"), "ot=th:8,vendor=x");
        assert_eq!(told("no state"), "");
        assert_eq!(told(&format!("v={}", "x".repeat(MAX_STATE_BYTES))), "");
        assert_eq!(told(&"x".repeat(MAX_STATE_BYTES)), "");
        let members = |count: usize| {
            (0..count)
                .map(|n| format!("v{n}=x"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(told(&members(MAX_STATE_MEMBERS)), members(MAX_STATE_MEMBERS));
        assert_eq!(told(&members(MAX_STATE_MEMBERS + 1)), "");
    }
}
