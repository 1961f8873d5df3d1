//! Calls to etcd: any of its members, each call with a time limit, another member when one does not answer.
//!
//! It decides nothing about what is stored. A member that lost its leader says so at once, because every call carries
//! etcd's `hasleader`; without it, a member that was cut off from the others would keep a watch waiting for ever.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_host::resolve::NameResolver;
use causeway_proto::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchRequest, WatchResponse, kv_client::KvClient,
    lease_client::LeaseClient, watch_client::WatchClient,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::Stream;
use tonic::{Code, IntoStreamingRequest, Request, Response, Status, Streaming, metadata::MetadataValue};

use super::{
    error::{EtcdError, WRITE},
    member::EtcdMember,
};

/// Most members that may be named.
pub const MAX_ENDPOINTS: usize = 16;
/// For one call to one member. etcd itself gives up on a proposal after 7 s; a member that works answers in milliseconds.
pub const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Largest answer in bytes: a page of [`PAGE`] keys of the largest registrations.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Keys in one page of a reading.
pub const PAGE: i64 = 1_000;
/// Longest pause after the first failure, and after any.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The members of one etcd.
#[derive(Debug, Clone)]
pub struct EtcdClient {
    members: Arc<[EtcdMember]>,
    /// The member that is asked first, as an index.
    preferred: Arc<AtomicUsize>,
    resolver: NameResolver,
}

impl EtcdClient {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When an address cannot be one of etcd, or there are none or too many.
    pub fn new(addresses: &[String]) -> Result<Self, EtcdError> {
        if addresses.is_empty() || addresses.len() > MAX_ENDPOINTS {
            return Err(EtcdError::Endpoints(addresses.len()));
        }
        let resolver = NameResolver::default();
        let members = addresses
            .iter()
            .map(|address| EtcdMember::new(address, &resolver));
        let members: Result<Vec<_>, _> = members.collect();
        Ok(Self {
            members: members?.into(),
            preferred: Arc::default(),
            resolver,
        })
    }

    /// Begins with a random member, so that several processes do not all lean on the first.
    #[must_use]
    pub fn starting_at(self, random: usize) -> Self {
        self.preferred
            .store(random % self.members.len(), Ordering::Relaxed);
        self
    }

    /// Members that were named.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member that is asked first now, to be handed to [`EtcdClient::leave`] when it fails.
    #[must_use]
    pub fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn address(&self, member: usize) -> String {
        self.members[member % self.members.len()].address.to_string()
    }

    /// Names every member.
    #[must_use]
    pub fn addresses(&self) -> String {
        let named = self.members.iter().map(|member| member.address.to_string());
        let named: Vec<_> = named
            .map(|address| address.trim_end_matches('/').to_owned())
            .collect();
        named.join(", ")
    }

    /// Finds the member that is at an address, by whichever name it was named.
    pub async fn member_at(&self, address: SocketAddr) -> Option<String> {
        for member in &*self.members {
            if member.is_at(address, &self.resolver).await {
                return Some(member.address.to_string().trim_end_matches('/').to_owned());
            }
        }
        None
    }

    /// Leaves a member that failed for the next one, unless somebody else did.
    pub fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        // When it is no longer the preferred one, another call has moved on already.
        let _ = self
            .preferred
            .compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// # Errors
    /// See [`EtcdClient::call`].
    pub async fn range(
        &self,
        patience: Duration,
        request: &RangeRequest,
    ) -> Result<RangeResponse, EtcdError> {
        self.call("read", patience, |member| {
            let client = KvClient::new(member.watching);
            let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
            let request = with_leader(request.clone());
            async move { client.range(request).await }
        })
        .await
    }

    /// Asks for a transaction, which may be another one for each attempt, from 0. Also says how many attempts were made; an earlier one than the
    /// last may have been done as well, or be done yet.
    ///
    /// # Errors
    /// See [`EtcdClient::call`]. When no member answered, it may still have been done.
    pub(crate) async fn txn(
        &self,
        patience: Duration,
        request: impl Fn(usize) -> TxnRequest,
    ) -> Result<(TxnResponse, usize), EtcdError> {
        let attempts = AtomicUsize::new(0);
        let answer = self.call(WRITE, patience, |member| {
            let request = with_leader(request(attempts.fetch_add(1, Ordering::Relaxed)));
            let client = KvClient::new(member.channel);
            let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
            async move { client.txn(request).await }
        });
        let answer = answer.await?;
        Ok((answer, attempts.load(Ordering::Relaxed)))
    }

    /// A lease of at least that many seconds.
    ///
    /// # Errors
    /// See [`EtcdClient::call`].
    pub async fn grant(&self, patience: Duration, seconds: i64) -> Result<LeaseGrantResponse, EtcdError> {
        self.call("grant a lease", patience, |member| {
            let mut client = LeaseClient::new(member.channel);
            let request = with_leader(LeaseGrantRequest { ttl: seconds, id: 0 });
            async move { client.lease_grant(request).await }
        })
        .await
    }

    /// # Errors
    /// See [`EtcdClient::call`].
    pub async fn revoke(&self, patience: Duration, lease: i64) -> Result<(), EtcdError> {
        let revoked = self.call("revoke a lease", patience, |member| {
            let mut client = LeaseClient::new(member.channel);
            let request = with_leader(LeaseRevokeRequest { id: lease });
            async move { client.lease_revoke(request).await }
        });
        match revoked.await {
            Err(error) if !error.is_lost_lease() => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens the stream that keeps leases alive, on this member.
    ///
    /// # Errors
    /// When the member does not take it in time.
    pub async fn keep_alive(
        &self,
        member: usize,
        requests: impl Stream<Item = LeaseKeepAliveRequest> + Send + 'static,
    ) -> Result<Streaming<LeaseKeepAliveResponse>, Status> {
        let mut client = LeaseClient::new(self.members[member % self.members.len()].channel.clone());
        limited(client.lease_keep_alive(with_leader_stream(requests))).await
    }

    /// Opens a watch stream on this member.
    ///
    /// # Errors
    /// When the member does not take it in time.
    pub async fn watch(
        &self,
        member: usize,
        requests: impl Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let client = WatchClient::new(self.members[member % self.members.len()].watching.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        limited(client.watch(with_leader_stream(requests))).await
    }

    /// Asks the preferred member, and one after the other while they fail in a way that another may not.
    ///
    /// # Errors
    /// When no member answered for `patience`, or one refused for good.
    async fn call<T, F>(
        &self,
        what: &'static str,
        patience: Duration,
        ask: impl Fn(EtcdMember) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + patience;
        let mut failures = 0;
        loop {
            let member = self.preferred();
            let error = match limited(ask(self.members[member].clone())).await {
                Ok(answer) => return Ok(answer),
                Err(source) if !may_pass(&source) => {
                    let is_first = failures == 0;
                    return Err(EtcdError::Refused {
                        what,
                        is_first,
                        source,
                    });
                }
                Err(error) => error,
            };
            tracing::debug!(member = %self.address(member), %error, what, "a member of etcd did not answer");
            self.leave(member);
            failures += 1;
            let pause = pause(failures);
            if Instant::now() + pause >= deadline {
                return Err(EtcdError::Unreachable { what, source: error });
            }
            sleep(pause).await;
        }
    }
}

/// Time to wait after `failures` in a row: evenly spread up to a ceiling that doubles, so that those who lost the same
/// member do not come back together.
#[must_use]
pub(crate) fn pause_between(failures: u32, rng: &mut impl Rng) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let ceiling = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
    ceiling.mul_f64(rng.random_range(0.2..=1.0))
}

/// [`pause_between`] with the randomness of a task.
#[must_use]
pub fn pause(failures: u32) -> Duration {
    pause_between(failures, &mut SmallRng::from_os_rng())
}

/// Tells whether another member, or the same one later, may do what this one did not. What the transport says is in here too:
/// a connection that broke is `Unknown`, `Internal` or `Cancelled`, depending on when it did.
fn may_pass(error: &Status) -> bool {
    match error.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled => true,
        // "too many requests" passes; "database space exceeded" waits for an operator.
        Code::ResourceExhausted => !error.message().contains("space"),
        _ => false,
    }
}

async fn limited<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {CALL_LIMIT:?}"
        ))),
    }
}

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn with_leader_stream<T, S>(messages: S) -> Request<S>
where
    S: Stream<Item = T> + Send + 'static,
{
    let mut request = messages.into_streaming_request();
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    request
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use tokio::net::TcpListener;

    use super::{super::member::dial, *};

    #[tokio::test]
    async fn addresses_are_checked_before_anything_is_dialled() {
        for bad in [
            "",
            "10.0.0.1:2379",
            "https://10.0.0.1:2379",
            "http://10.0.0.1",
            "http://a:1/path",
            "unix:/a",
        ] {
            let error = EtcdClient::new(&[bad.to_owned()]).unwrap_err();
            assert!(matches!(error, EtcdError::Address(_)), "{bad}");
        }
        assert!(matches!(EtcdClient::new(&[]), Err(EtcdError::Endpoints(0))));
        let many = vec!["http://a:1".to_owned(); MAX_ENDPOINTS + 1];
        assert!(matches!(EtcdClient::new(&many), Err(EtcdError::Endpoints(_))));
    }

    #[tokio::test]
    async fn a_member_is_found_at_every_address_of_its() {
        let named = [
            "http://127.0.0.1:2379",
            "http://[fd00::7]:2381",
            "http://192.0.2.7:2379",
            "http://localhost:2380",
        ];
        let client = EtcdClient::new(&named.map(str::to_owned)).unwrap();
        for (address, member) in [
            ("127.0.0.1:2379", Some(0)),
            ("[::ffff:127.0.0.1]:2379", Some(0)),
            // It may listen on all of this host's.
            ("127.0.0.9:2379", Some(0)),
            ("[fd00::7]:2381", Some(1)),
            ("192.0.2.7:2379", Some(2)),
            ("127.0.0.1:2380", Some(3)),
            ("127.0.0.1:2378", None),
            ("192.0.2.8:2379", None),
            ("[fd00::7]:2379", None),
        ] {
            let found = client.member_at(address.parse().unwrap()).await;
            assert_eq!(
                found.as_deref(),
                member.map(|number: usize| named[number]),
                "{address}"
            );
        }
    }

    #[tokio::test]
    async fn a_member_that_failed_is_left_once_however_many_calls_found_it_failing() {
        let addresses: Vec<_> = (1..=3).map(|n| format!("http://127.0.0.1:{n}")).collect();
        let client = EtcdClient::new(&addresses).unwrap().starting_at(2);
        client.leave(2);
        client.leave(2);
        assert_eq!(client.preferred(), 0);
    }

    #[test]
    fn a_member_whose_name_nobody_answers_for_keeps_no_runtime_from_ending() {
        let (_release, held): (mpsc::Sender<()>, mpsc::Receiver<()>) = mpsc::channel();
        let held = Mutex::new(held);
        let (asked, is_asked) = mpsc::channel();
        let resolver = NameResolver::with(move |_| {
            let _ = asked.send(());
            let _ = held.lock().unwrap().recv();
            Ok(Vec::new())
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let calling = runtime.spawn(async move {
            let member = EtcdMember::new("http://etcd1.east.internal:2379", &resolver).unwrap();
            KvClient::new(member.channel).range(RangeRequest::default()).await
        });
        is_asked.recv_timeout(Duration::from_secs(10)).unwrap();
        let begun = Instant::now();
        calling.abort();
        drop(runtime);
        // It would be for ever.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_member_is_dialled_at_its_address_of_either_family() {
        let resolver = NameResolver::default();
        for loopback in ["127.0.0.1", "[::1]"] {
            let listener = TcpListener::bind(format!("{loopback}:0")).await.unwrap();
            let member = format!("http://{}", listener.local_addr().unwrap());
            dial(&member.parse().unwrap(), &resolver).await.unwrap();
        }
    }

    #[test]
    fn pauses_grow_up_to_a_second() {
        let mut rng = SmallRng::seed_from_u64(1);
        for failures in [1, 2, 5, 40, u32::MAX] {
            let pause = pause_between(failures, &mut rng);
            assert!(pause > Duration::ZERO && pause <= LONGEST_PAUSE);
        }
    }

    #[test]
    fn a_full_database_is_no_reason_to_try_another_member() {
        assert!(may_pass(&Status::resource_exhausted(
            "etcdserver: too many requests"
        )));
        assert!(!may_pass(&Status::resource_exhausted(
            "etcdserver: mvcc: database space exceeded"
        )));
        assert!(may_pass(&Status::unavailable("etcdserver: no leader")));
    }
}
