//! Connections that leave HTTP: after a 101 both sides are bytes, until one ends or a limit of the relay is reached.

use std::{
    io,
    pin::pin,
    time::{Duration, Instant},
};

use causeway_federation::topology::Route;
use causeway_host::moment::until;
use causeway_routing::route::Placement;
use causeway_telemetry::ConnectionOutcome;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};

use super::{
    body::AnswerBody, record::RequestRecord, refuse::answer_of, serve::HttpConnection, upstream::HttpUpstream,
};
use crate::{
    http::{
        headers::{add_via, strip_bodiless},
        upgrade::{asked_for, set_upgrade},
    },
    open::Termination,
};

/// Client's wish for another protocol.
pub(super) struct UpgradeWish {
    client: OnUpgrade,
    /// The route of the request has a split of its own.
    has_own_split: bool,
}

impl UpgradeWish {
    /// `None`: the client asks for nothing that is offered.
    pub(super) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        asked_for(request.version(), request.headers())?;
        let client = hyper::upgrade::on(request);
        Some(Self {
            client,
            has_own_split: false,
        })
    }

    /// Takes up the route that rules the request.
    pub(super) fn ruled_by(self, route: Option<&Route>) -> Self {
        Self {
            has_own_split: route.is_some_and(|route| route.split.is_some()),
            ..self
        }
    }
}

/// Change of protocol that the instance has agreed to.
pub(super) struct Upgrading {
    client: OnUpgrade,
    instance: OnUpgrade,
    upstream: HttpUpstream,
    record: RequestRecord,
}

/// Hands on the answer by which an instance agrees to another protocol. The connection's task then carries its bytes.
pub(super) fn upgrade(
    connection: &HttpConnection,
    wish: Option<UpgradeWish>,
    mut answer: Response<Incoming>,
    upstream: HttpUpstream,
    mut record: RequestRecord,
) -> Response<AnswerBody> {
    let protocol = answer.headers().get(header::UPGRADE).cloned();
    let Some((wish, protocol)) = wish.zip(protocol) else {
        // It agrees to what nobody asked for.
        let outcome = record.broken(&upstream);
        let answer = answer_of(connection, outcome, false);
        record.tells(answer.status(), answer.headers());
        return answer;
    };
    record.upgraded();
    let (id, _) = upstream.facts.server.names();
    let placement = Placement::new(&connection.arrival.target, &upstream.facts.candidate, id)
        .at_port(connection.arrival.port.clone());
    connection.opened.handle().carried_to(match wish.has_own_split {
        true => placement.by_another_split(),
        false => placement,
    });
    let instance = hyper::upgrade::on(&mut answer);
    let (mut parts, _) = answer.into_parts();
    strip_bodiless(&mut parts.headers);
    add_via(&mut parts.headers, parts.version);
    set_upgrade(&mut parts.headers, protocol);
    *connection.upgrading.lock() = Some(Upgrading {
        client: wish.client,
        instance,
        upstream,
        record,
    });
    Response::from_parts(parts, AnswerBody::Own(Full::default()))
}

/// Moves bytes between a client and its instance, to the end.
pub(super) async fn carry(connection: &HttpConnection, upgrading: Upgrading) {
    let Upgrading {
        client,
        instance,
        upstream,
        mut record,
    } = upgrading;
    let cut = connection.opened.handle().cut();
    let both = cut.run_until_cancelled(async { tokio::try_join!(client, instance) });
    let outcome = match both.await {
        Some(Ok((client, instance))) => relay(connection, &upstream, client, instance).await,
        Some(Err(_)) => upstream.facts.traffic.broken(),
        None => ConnectionOutcome::Cut,
    };
    if outcome != ConnectionOutcome::Served {
        connection.socket.reset_on_drop();
    }
    record.carried(&upstream, outcome);
}

async fn relay(
    connection: &HttpConnection,
    upstream: &HttpUpstream,
    client: Upgraded,
    instance: Upgraded,
) -> ConnectionOutcome {
    let handle = connection.opened.handle();
    let (client_read, client_write) = split(TokioIo::new(client));
    let (instance_read, instance_write) = split(TokioIo::new(instance));
    let mut up = pin!(one_way(client_read, instance_write));
    let mut down = pin!(one_way(instance_read, client_write));
    let (mut sent, mut received) = (false, false);
    while !(sent && received) {
        let (at, outcome) = connection.silence_ends(sent || received);
        let ended = tokio::select! {
            biased;
            () = handle.cut().cancelled() => return ConnectionOutcome::Cut,
            ended = up.as_mut(), if !sent => {
                sent = true;
                ended
            }
            ended = down.as_mut(), if !received => {
                received = true;
                ended
            }
            () = until(at) => {
                // Something may have moved meanwhile.
                if connection.silence_ends(sent || received).0.is_some_and(|at| at <= Instant::now()) {
                    handle.terminate(Termination { outcome, rule: None });
                }
                Ok(())
            }
        };
        if ended.is_err() {
            return match upstream.facts.traffic.end() {
                Some(outcome) => outcome,
                None if connection.watch.is_stalled() => ConnectionOutcome::Stalled,
                None => ConnectionOutcome::ClientReset,
            };
        }
    }
    ConnectionOutcome::Served
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

impl HttpConnection {
    /// The moment at which nothing has moved for as long as is allowed, and what that is.
    fn silence_ends(&self, is_half_closed: bool) -> (Option<Instant>, ConnectionOutcome) {
        let moved_at = self.watch.moved_at();
        let half_closed = self.shared.config.half_closed_limit.filter(|_| is_half_closed);
        let after = |limit: Option<Duration>| limit.map(|limit| moved_at + limit);
        match (after(self.idle_timeout()), after(half_closed)) {
            (Some(idle), Some(half)) if half < idle => (Some(half), ConnectionOutcome::HalfClosed),
            (Some(idle), _) => (Some(idle), ConnectionOutcome::Idle),
            (None, half) => (half, ConnectionOutcome::HalfClosed),
        }
    }
}
