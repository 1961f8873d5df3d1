//! Everything that is not about the mesh: asked of the upstream resolvers, and remembered for as long as they allow.
//!
//! Equal questions that are asked at the same time travel upstream once. This module validates no DNSSEC and follows no
//! delegation: the upstreams are resolvers.

mod exchange;
mod resolv_conf;
mod stored;
mod upstreams;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, LowerName, RecordType},
};
use moka::{Expiry, future::Cache};
use parking_lot::Mutex;
use tokio::time::timeout;

use exchange::UpstreamAnswer;
pub(super) use resolv_conf::system_upstreams;
pub(super) use stored::CachedAnswer;
use upstreams::Upstreams;

/// Most bytes of answers that are kept.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Size that an answer counts for besides its message, in bytes: its question, and its place in the cache. With
/// [`CACHE_BYTES`], fewer than 32,768 answers are kept.
const ENTRY_BYTES: usize = 512;
/// Longest wait for one upstream, over UDP and TCP together.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for all of them.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Parts of a question that make two of them equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ForwardedQuestion {
    pub name: LowerName,
    pub kind: RecordType,
    pub class: DNSClass,
    /// The client wants DNSSEC records (EDNS DO).
    pub dnssec: bool,
    /// The client checks signatures itself (CD).
    pub unchecked: bool,
}

#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Mutex<Upstreams>,
    cache: Cache<ForwardedQuestion, Arc<CachedAnswer>>,
}

/// Every answer lives as long as its own records say.
struct ByLifetime;

impl Expiry<ForwardedQuestion, Arc<CachedAnswer>> for ByLifetime {
    fn expire_after_create(
        &self,
        _: &ForwardedQuestion,
        stored: &Arc<CachedAnswer>,
        _: Instant,
    ) -> Option<Duration> {
        Some(stored.lifetime())
    }
}

fn weight(stored: &CachedAnswer) -> u32 {
    u32::try_from(stored.bytes() + ENTRY_BYTES).unwrap_or(u32::MAX)
}

impl Forwarder {
    pub(super) fn new(upstreams: Vec<SocketAddr>) -> Self {
        let cache = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(|_, stored: &Arc<CachedAnswer>| weight(stored))
            .expire_after(ByLifetime)
            .build();
        Self {
            upstreams: Mutex::new(Upstreams::new(upstreams)),
            cache,
        }
    }

    /// A remembered answer, at once.
    pub(super) fn remembered(&self, question: &ForwardedQuestion) -> Option<Arc<CachedAnswer>> {
        self.cache.get(question).now_or_never().flatten()
    }

    /// A remembered answer or one from upstream. Answers that may not be kept are still shared by all who wait for them.
    pub(super) async fn ask(&self, question: &ForwardedQuestion) -> Arc<CachedAnswer> {
        self.cache
            .get_with_by_ref(question, self.ask_upstreams(question))
            .await
    }

    async fn ask_upstreams(&self, question: &ForwardedQuestion) -> Arc<CachedAnswer> {
        let order = self.upstreams.lock().order(Instant::now());
        if order.is_empty() {
            return Arc::new(CachedAnswer::failure(ResponseCode::Refused, Instant::now()));
        }
        let mut last = None;
        let all = self.ask_in_order(question, order, &mut last);
        let answer = timeout(TOTAL_TIMEOUT, all).await.ok().flatten();
        Arc::new(match answer.or(last) {
            Some(answer) => CachedAnswer::new(answer, Instant::now()),
            None => CachedAnswer::failure(ResponseCode::ServFail, Instant::now()),
        })
    }

    /// The first useful answer; `last` keeps an upstream's own words of failure.
    async fn ask_in_order(
        &self,
        question: &ForwardedQuestion,
        order: Vec<SocketAddr>,
        last: &mut Option<UpstreamAnswer>,
    ) -> Option<UpstreamAnswer> {
        for upstream in order {
            match timeout(UPSTREAM_TIMEOUT, exchange::exchange(upstream, question)).await {
                Ok(Ok(answer)) if is_useful(answer.message.metadata.response_code) => {
                    self.upstreams.lock().worked(upstream);
                    return Some(answer);
                }
                Ok(Ok(answer)) => {
                    tracing::debug!(%upstream, name = %question.name, code = %answer.message.metadata.response_code, "an upstream resolver failed");
                    *last = Some(answer);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%upstream, name = %question.name, %error, "an upstream resolver could not be asked");
                    if error.is_of_upstream() {
                        self.upstreams.lock().failed(upstream, Instant::now());
                    }
                }
                Err(_) => {
                    tracing::debug!(%upstream, name = %question.name, "an upstream resolver did not answer");
                    self.upstreams.lock().failed(upstream, Instant::now());
                }
            }
        }
        None
    }
}

/// Answers that another upstream would only repeat.
fn is_useful(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, OpCode},
        rr::{Name, RData, Record, rdata::TXT},
    };

    use super::*;

    /// An answer of one record with so much text that it has 61 KB.
    fn large(name: &Name) -> UpstreamAnswer {
        let text = TXT::new(vec!["a".repeat(255); 240]);
        let mut message = Message::response(1, OpCode::Query);
        message.answers = vec![Record::from_rdata(name.clone(), 3600, RData::TXT(text))];
        let bytes = message.to_vec().unwrap();
        UpstreamAnswer { message, bytes }
    }

    #[tokio::test]
    async fn large_answers_fill_the_cache_as_much_as_they_are_large() {
        let forwarder = Forwarder::new(Vec::new());
        for number in 0..600 {
            let name = Name::from_ascii(format!("n{number}.example.org.")).unwrap();
            let question = ForwardedQuestion {
                name: LowerName::from(&name),
                kind: RecordType::TXT,
                class: DNSClass::IN,
                dnssec: false,
                unchecked: false,
            };
            let stored = CachedAnswer::new(large(&name), Instant::now());
            assert!(stored.bytes() > 61_000);
            assert_eq!(stored.sections(Instant::now())[0].len(), 1);
            forwarder.cache.insert(question, stored.into()).await;
        }
        forwarder.cache.run_pending_tasks().await;
        let kept: usize = forwarder.cache.iter().map(|(_, stored)| stored.bytes()).sum();
        assert!(kept > 0 && kept as u64 <= CACHE_BYTES, "{kept}");
    }
}
