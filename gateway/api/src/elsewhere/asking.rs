//! Asking other zones for a page: whom, for how long, and how much at once.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use causeway_control::places::AnswerPlaces;
use causeway_federation::name::{GatewayId, ZoneName};
use causeway_host::share::ShareHolder;
use causeway_identity::SecretHash;
use causeway_proto::tunnel::{Page, StreamHeader, stream_header::Kind};
use causeway_routing::snapshot::Snapshots;
use causeway_tunnel::{PAGE, TunnelSet, ask_for_documents, read_document};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{
    HELD_UNIT_BYTES, MAX_HELD_BYTES, MAX_IN_ALL, MAX_PAGE_BYTES, MAX_WITH_ZONE, json,
    memory::{AnswerMemory, QuestionKey},
    merged::ZoneEntry,
    pages::AskedPage,
    questions::{QuestionPlace, Questions},
    words::{ZoneWord, not_taken, old_program, unwelcome},
};
use crate::{ApiMetrics, credentials::vouched_words};

/// For a gateway that is asked to begin its answer.
const BEGINS_WITHIN: Duration = Duration::from_secs(3);
/// For all zones of one question together; the client of a command waits for 15 s.
const QUESTION_WITHIN: Duration = Duration::from_secs(7);
/// Gateways of one zone that are asked, one after another.
const MAX_GATEWAYS: usize = 3;
/// Zones that are asked at once for one question.
const ZONES_AT_ONCE: usize = 32;

/// Way to the admin APIs of other zones. Clones are the same.
#[derive(Debug, Clone)]
pub struct Elsewhere(Arc<Asking>);

#[derive(Debug)]
struct Asking {
    own: GatewayId,
    tunnels: Arc<TunnelSet>,
    snapshots: Snapshots,
    metrics: Arc<ApiMetrics>,
    questions: Questions,
    places: AnswerPlaces,
    /// Room for answers.
    room: Arc<Semaphore>,
    memory: Mutex<AnswerMemory>,
}

impl Elsewhere {
    #[must_use]
    pub fn new(
        own: GatewayId,
        tunnels: Arc<TunnelSet>,
        snapshots: Snapshots,
        metrics: Arc<ApiMetrics>,
    ) -> Self {
        Self(Arc::new(Asking {
            own,
            tunnels,
            snapshots,
            metrics,
            questions: Questions::default(),
            places: AnswerPlaces::new(MAX_WITH_ZONE, MAX_IN_ALL),
            room: Arc::new(Semaphore::new(MAX_HELD_BYTES / HELD_UNIT_BYTES)),
            memory: Mutex::default(),
        }))
    }

    pub(crate) fn own_zone(&self) -> &ZoneName {
        &self.0.own.zone
    }

    /// Zones of the topology in force, the own one aside.
    pub(super) fn others(&self) -> Vec<ZoneName> {
        let topology = &self.0.snapshots.load().topology;
        let others = topology.zones.keys().filter(|zone| *zone != self.own_zone());
        others.cloned().collect()
    }

    /// A place among the questions under way; `None`: there are too many.
    pub(super) async fn place(&self, holder: &ShareHolder) -> Option<QuestionPlace> {
        self.0.questions.place(holder).await
    }

    /// Room for an answer of the own zone.
    pub(super) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        room(&self.0.room, bytes)
    }

    /// Asks these zones at once, as far as there is time.
    pub(super) async fn ask_all(
        &self,
        zones: Vec<ZoneName>,
        page: &AskedPage,
        token: Option<&SecretHash>,
    ) -> Vec<ZoneEntry> {
        let until = Instant::now() + QUESTION_WITHIN;
        let asking = zones.into_iter().map(|zone| self.ask(zone, page, token, until));
        stream::iter(asking)
            .buffer_unordered(ZONES_AT_ONCE)
            .collect()
            .await
    }

    /// Asks one zone.
    pub(super) async fn ask_one(
        &self,
        zone: ZoneName,
        page: &AskedPage,
        token: Option<&SecretHash>,
    ) -> ZoneEntry {
        self.ask(zone, page, token, Instant::now() + QUESTION_WITHIN)
            .await
    }

    async fn ask(
        &self,
        zone: ZoneName,
        page: &AskedPage,
        token: Option<&SecretHash>,
        until: Instant,
    ) -> ZoneEntry {
        let asked = SystemTime::now();
        let word = self.0.gateways(&zone, page, token, until).await;
        self.0.metrics.page_asked(word.word());
        let key = QuestionKey {
            zone,
            path: page.path.clone(),
            token: token.map(ToString::to_string),
        };
        let mut memory = self.0.memory.lock();
        let last = match &word {
            ZoneWord::Answered(answer, _) => {
                memory.remember(key.clone(), asked, answer);
                None
            }
            ZoneWord::Away(_) => memory.recall(&key),
            ZoneWord::Refused(..) => None,
        };
        ZoneEntry {
            zone: key.zone,
            asked,
            word,
            last,
        }
    }
}

impl Asking {
    /// Asks the gateways of a zone, the best tunnel first, until one says something that another would not say otherwise.
    async fn gateways(
        &self,
        zone: &ZoneName,
        page: &AskedPage,
        token: Option<&SecretHash>,
        until: Instant,
    ) -> ZoneWord {
        let Some(_place) = self.places.take(zone) else {
            return ZoneWord::away(format!("{MAX_WITH_ZONE} questions to it are under way already"));
        };
        let mut links: Vec<_> = self.tunnels.links().into_iter().collect();
        links.retain(|(gateway, _)| gateway.zone == *zone);
        links.sort_by_key(|(_, link)| *link);
        let mut word = self.nobody(zone);
        for (gateway, _) in links.into_iter().take(MAX_GATEWAYS) {
            let asking = timeout_at(until, self.gateway(&gateway, page, token)).await;
            word = asking.unwrap_or_else(|_| {
                ZoneWord::away(format!("there was no whole answer within {QUESTION_WITHIN:?}"))
            });
            if word.is_final() || Instant::now() >= until {
                break;
            }
        }
        word
    }

    /// Says that no tunnel leads to a zone, and why the last one did not come about.
    fn nobody(&self, zone: &ZoneName) -> ZoneWord {
        ZoneWord::away(match self.tunnels.last_words().of(zone) {
            Some(last) => format!(
                "no tunnel leads there; the last attempt came to `{}`",
                last.reason
            ),
            None => "no tunnel leads there".to_owned(),
        })
    }

    async fn gateway(&self, gateway: &GatewayId, page: &AskedPage, token: Option<&SecretHash>) -> ZoneWord {
        let knows = |tunnel: Arc<causeway_tunnel::Tunnel>| tunnel.capabilities().has(PAGE);
        if !self.tunnels.choose_for_control(gateway).is_some_and(knows) {
            return old_program();
        }
        let words = vouched_words(gateway, &self.own, &page.path);
        let header = StreamHeader {
            kind: Some(Kind::Page(Page {
                path: page.path.clone(),
                vouched: token.map(|token| token.vouch(&words)).unwrap_or_default(),
            })),
        };
        let begun = timeout(BEGINS_WITHIN, async {
            let mut recv = ask_for_documents(&self.tunnels, gateway, &header)
                .await
                .map_err(|error| not_taken(&error))?;
            let status = read_document(&mut recv, 2).await;
            Ok((status.ok().flatten(), recv))
        });
        match begun.await {
            Ok(Ok((status, mut recv))) => read_page(&self.room, status, &mut recv).await,
            Ok(Err(word)) => word,
            Err(_) => ZoneWord::away(format!("no answer has begun within {BEGINS_WITHIN:?}")),
        }
    }
}

/// Room for so many bytes; `None`: there is none now.
pub(super) fn room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(bytes.div_ceil(HELD_UNIT_BYTES)).ok()?;
    room.clone().try_acquire_many_owned(units).ok()
}

/// Reads the rest of an answer, of which only the length is believed, and that within bounds.
async fn read_page(
    all_room: &Arc<Semaphore>,
    status: Option<Vec<u8>>,
    recv: &mut (impl AsyncRead + Unpin),
) -> ZoneWord {
    let status = status.and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let (Some(status), Ok(length)) = (status, recv.read_u32().await) else {
        return ZoneWord::away("its answer cannot be read");
    };
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_PAGE_BYTES)
    else {
        return ZoneWord::away(format!("its answer is longer than {MAX_PAGE_BYTES} bytes"));
    };
    let Some(room) = room(all_room, length) else {
        return ZoneWord::away("too much is being read of other zones already; ask again in a moment");
    };
    let mut body = Vec::new();
    // It grows with what comes, and not by what is announced.
    match recv.take(length as u64).read_to_end(&mut body).await {
        Ok(read) if read == length => {}
        _ => return ZoneWord::away("its answer broke off"),
    }
    if !status.is_success() {
        return unwelcome(status, &body);
    }
    let looked = tokio::task::spawn_blocking(move || (json::check(&body), Bytes::from(body))).await;
    match looked {
        Ok((Ok(()), body)) => ZoneWord::Answered(body, room),
        Ok((Err(fault), _)) => ZoneWord::away(format!("its answer cannot be used: {fault}")),
        Err(_) => ZoneWord::away("its answer could not be looked at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_room() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(8))
    }

    fn framed(length: u32, body: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], body].concat()
    }

    async fn read(status: u16, length: u32, body: &[u8]) -> String {
        let bytes = framed(length, body);
        let status = Some(status.to_be_bytes().to_vec());
        match read_page(&all_room(), status, &mut &bytes[..]).await {
            ZoneWord::Answered(body, _) => String::from_utf8(body.to_vec()).unwrap(),
            ZoneWord::Refused(status, said) => format!("refused {status}: {}", said.because),
            ZoneWord::Away(said) => format!("away: {}", said.because),
        }
    }

    #[tokio::test]
    async fn an_answer_is_taken_as_it_is_or_not_at_all() {
        assert_eq!(read(200, 2, b"{}").await, "{}");
        assert_eq!(read(200, 3, b"{}").await, "away: its answer broke off");
        assert_eq!(
            read(200, 4, b"nope").await,
            "away: its answer cannot be used: it is not JSON"
        );
        let long = u32::try_from(MAX_PAGE_BYTES + 1).unwrap();
        assert_eq!(
            read(200, long, b"{}").await,
            format!("away: its answer is longer than {MAX_PAGE_BYTES} bytes")
        );
        assert_eq!(read(7, 2, b"{}").await, "away: its answer cannot be read");
        assert_eq!(
            read(403, 15, br#"{"error":"no!"}"#).await,
            "refused 403 Forbidden: no!"
        );
    }

    #[tokio::test]
    async fn no_more_is_held_than_there_is_room_for() {
        let all_room = all_room();
        let body = format!("\"{}\"", "x".repeat(4094));
        let bytes = framed(4096, body.as_bytes());
        let status = || Some(200_u16.to_be_bytes().to_vec());
        let first = read_page(&all_room, status(), &mut &bytes[..]).await;
        let second = read_page(&all_room, status(), &mut &bytes[..]).await;
        assert_eq!([first.word(), second.word()], ["answered"; 2]);
        let third = read_page(&all_room, status(), &mut &bytes[..]).await;
        assert_eq!(third.word(), "away");
        drop(first);
        assert_eq!(
            read_page(&all_room, status(), &mut &bytes[..]).await.word(),
            "answered"
        );
        drop(second);
    }
}
