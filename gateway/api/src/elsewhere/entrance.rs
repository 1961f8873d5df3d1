//! Entrance for requests that are meant for other zones. Whoever comes this far may read here.

use std::{sync::Arc, time::SystemTime};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use causeway_federation::name::ZoneName;
use causeway_host::share::ShareHolder;
use causeway_identity::SecretHash;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};

use super::{
    Elsewhere, MAX_PAGE_BYTES,
    merged::{ZoneEntry, merge},
    pages::{AskedPage, Meant, meant},
    words::{ZoneWord, unwelcome},
};
use crate::{
    actor::share_holder,
    admin::{ApiError, held},
    credentials::{Denied, bearer},
};

/// Reason why the own zone does not answer a question to all: the token that came along is for others.
#[derive(Debug, Clone)]
pub(crate) struct RefusedHere(pub(crate) Denied);

/// Takes what is meant for other zones, and lets everything else pass.
pub(crate) async fn pass(
    State(elsewhere): State<Elsewhere>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match meant(request.method(), request.uri())? {
        Meant::Here => Ok(next.run(request).await),
        Meant::At(zone, page) if zone == *elsewhere.own_zone() => Ok(next.run(here(request, &page)?).await),
        Meant::At(zone, page) => {
            let holder = share_holder(request.extensions());
            one(&elsewhere, zone, &page, (request.headers(), &holder)).await
        }
        Meant::Everywhere(page) => everywhere(&elsewhere, &page, request, next).await,
    }
}

/// The request as it is answered here.
fn here(mut request: Request, page: &AskedPage) -> Result<Request, ApiError> {
    let uri = page.path.parse();
    *request.uri_mut() = uri.map_err(|_| ApiError::bad_request("the path cannot be read"))?;
    Ok(request)
}

/// Trace of the token that was shown.
fn token(headers: &HeaderMap) -> Option<SecretHash> {
    let shown = headers.get(header::AUTHORIZATION)?;
    // One that is none is handed on as well, and known nowhere.
    Some(SecretHash::of(bearer(shown.as_bytes()).unwrap_or_default()))
}

async fn one(
    elsewhere: &Elsewhere,
    zone: ZoneName,
    page: &AskedPage,
    (headers, holder): (&HeaderMap, &ShareHolder),
) -> Result<Response, ApiError> {
    let zones = elsewhere.others();
    if !zones.contains(&zone) {
        let names: Vec<_> = zones.iter().map(ZoneName::as_str).collect();
        return Err(ApiError::not_found(format!("the topology has no zone `{zone}`"))
            .hint(format!("besides the own one there are: {}", names.join(", "))));
    }
    let _place = elsewhere.place(holder).await.ok_or_else(too_many)?;
    let entry = elsewhere.ask_one(zone, page, token(headers).as_ref()).await;
    let (status, told, said) = match entry.word {
        ZoneWord::Answered(answer, room) => return Ok(held(answer, room)),
        ZoneWord::Refused(status, said) => (status, "refuses", said),
        ZoneWord::Away(said) => (StatusCode::GATEWAY_TIMEOUT, "does not answer", said),
    };
    let error = ApiError::new(status, format!("zone {} {told}: {}", entry.zone, said.because));
    Err(match said.hint {
        Some(hint) => error.hint(hint),
        None => error.hint("`causeway check` says how the zones can be reached from here"),
    })
}

async fn everywhere(
    elsewhere: &Elsewhere,
    page: &AskedPage,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let holder = share_holder(request.extensions());
    let place = elsewhere.place(&holder).await.ok_or_else(too_many)?;
    let token = token(request.headers());
    let asked = SystemTime::now();
    let refused = request.extensions().get::<RefusedHere>().cloned();
    let request = here(request, page)?;
    let own = async {
        match refused {
            Some(RefusedHere(denied)) => ApiError::from(&denied).into_response(),
            None => next.run(request).await,
        }
    };
    let others = elsewhere.ask_all(elsewhere.others(), page, token.as_ref());
    let (own, mut entries) = tokio::join!(own, others);
    entries.push(ZoneEntry {
        zone: elsewhere.own_zone().clone(),
        asked,
        word: own_word(elsewhere, own).await,
        last: None,
    });
    let (json, rooms) = merge(elsewhere.own_zone(), entries);
    Ok(held(json, Arc::new((rooms, place))))
}

/// Reads the answer of the own zone.
async fn own_word(elsewhere: &Elsewhere, answer: Response) -> ZoneWord {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_PAGE_BYTES).collect().await;
    let Ok(body) = body.map(|body| body.to_bytes()) else {
        return ZoneWord::away(format!("its answer is longer than {MAX_PAGE_BYTES} bytes"));
    };
    match elsewhere.room(body.len()) {
        _ if !status.is_success() => unwelcome(status, &body),
        Some(room) => ZoneWord::Answered(body, room),
        None => ZoneWord::away("too much is being read of other zones already; ask again in a moment"),
    }
}

fn too_many() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many questions to other zones are under way",
    )
    .hint("try again in a moment")
}
