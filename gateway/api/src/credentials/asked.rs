//! The decision whether a gateway of another zone may read a page of this zone's admin API, for whoever asked it. Pure but for the tokens
//! that it reads, and that the gate counts and writes down what is refused.
//!
//! A token that somebody has shown to the asking gateway decides, if there is one: it has to be one of this zone's own, and any right reads. The
//! asking gateway does not tell the token but what it vouches for, so that no zone gets to know a token of another. Without one it is as if the
//! asking gateway itself came: it reads what is granted to it (`--admin-allow`), and else what is about zones and services, if it is a gateway of
//! this federation.

use std::{sync::Arc, time::SystemTime};

use causeway_federation::name::GatewayId;

use super::{Denied, Gate, Guard, RequiredRight, Scope, token_file::FoundToken};
use crate::{
    actor::{Actor, AskingConnection, Proof},
    audit::Attempt,
};

/// Word in the audit log for what comes from other zones' gateways.
const FEDERATION_API: &str = "federation";

/// Gateway of another zone that asks for a page.
#[derive(Debug, Clone)]
pub(crate) struct AskingGateway {
    pub(crate) gateway: GatewayId,
    /// Its tunnel, and the SPIFFE id in its certificate.
    pub(crate) connection: AskingConnection,
    /// It is of this trust domain.
    pub(crate) is_of_federation: bool,
    /// The gateway that is asked, which is this one.
    pub(crate) asked: GatewayId,
}

/// Right that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedRight {
    /// Everything on the page.
    Whole(Actor),
    /// Things that every gateway of the federation may know.
    Federation,
}

/// Words that a token vouches for: which gateway is asked, by which, and for what. So they are worth nothing elsewhere.
pub(crate) fn vouched_words(asked: &GatewayId, asking: &GatewayId, path: &str) -> Vec<u8> {
    format!("causeway page\0{asked}\0{asking}\0{path}").into_bytes()
}

impl Gate {
    /// Decides whether a gateway of another zone may read a page. `vouched`: what the token vouches for that somebody has shown to it.
    ///
    /// # Errors
    /// Why it may not; that is counted, and in the audit log.
    pub(crate) fn admit_asked(
        &self,
        asker: &AskingGateway,
        vouched: Option<&[u8]>,
        path: &str,
        is_open: bool,
    ) -> Result<AskedRight, Denied> {
        let none = Guard::default();
        let guard = self.guard.as_deref().unwrap_or(&none);
        let admitted = guard.admit_asked(asker, vouched, (path, is_open), SystemTime::now());
        if let Err(denied) = &admitted {
            let attempt = Attempt {
                api: FEDERATION_API,
                method: "GET",
                path,
            };
            self.refused(&asker.connection, &attempt, denied, None);
        }
        admitted
    }
}

impl Guard {
    fn admit_asked(
        &self,
        asker: &AskingGateway,
        vouched: Option<&[u8]>,
        (path, is_open): (&str, bool),
        now: SystemTime,
    ) -> Result<AskedRight, Denied> {
        // Before any token: nobody asks through a gateway that is nobody here.
        if !asker.is_of_federation {
            return Err(foreign(&asker.connection.proof));
        }
        if let Some(vouched) = vouched {
            let words = vouched_words(&asker.asked, &asker.gateway, path);
            let tokens = self.tokens.as_ref().ok_or(Denied::BadToken)?.tokens();
            return match tokens.find_by(now, |hash| hash.has_vouched(&words, vouched)) {
                // Any right includes reading.
                Some(FoundToken::Good { name, .. }) => Ok(AskedRight::Whole(Actor::Token(name))),
                Some(FoundToken::Expired { name }) => Err(Denied::ExpiredToken(name)),
                None => Err(Denied::BadToken),
            };
        }
        match self.admit(
            &asker.connection,
            None,
            &RequiredRight::Everything(Scope::Read),
            now,
        ) {
            Ok(admitted) => Ok(AskedRight::Whole(admitted.actor)),
            Err(Denied::NotGranted(_)) if is_open => Ok(AskedRight::Federation),
            Err(denied) => Err(denied),
        }
    }
}

fn foreign(proof: &Proof) -> Denied {
    let why: Arc<str> = match proof {
        Proof::Identity(id) => format!("{id} is a gateway of another trust domain").into(),
        _ => "it names no gateway".into(),
    };
    let word = "wrong_trust_domain";
    Denied::BadIdentity { why, word }
}

#[cfg(test)]
mod tests {
    use causeway_identity::SecretHash;

    use super::*;
    use crate::credentials::{Rights, TokenFile, token_file};

    const WEST: &str = "spiffe://acme.internal/zone/west/gateway/gw1";
    const OPEN: (&str, bool) = ("/v1/zones", true);
    const CLOSED: (&str, bool) = ("/v1/instances", false);

    struct FarZone {
        _folder: tempfile::TempDir,
        guard: Guard,
        token: String,
    }

    fn far_zone(scope: Scope, grants: &[&str]) -> FarZone {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let token = token_file::issue(
            &path,
            &"desk".parse().unwrap(),
            &Rights::of(scope),
            None,
            &[7; 32],
        )
        .unwrap();
        FarZone {
            guard: Guard {
                tokens: Some(Arc::new(TokenFile::open(&path).unwrap())),
                grants: grants.iter().map(|text| text.parse().unwrap()).collect(),
            },
            token: token.reveal().to_owned(),
            _folder: folder,
        }
    }

    fn id(zone: &str) -> GatewayId {
        GatewayId::new(zone.parse().unwrap(), "gw1".parse().unwrap())
    }

    fn asker() -> AskingGateway {
        AskingGateway {
            gateway: id("west"),
            connection: AskingConnection {
                from: "10.0.0.7:7800".parse().ok(),
                pair: None,
                proof: Proof::Identity(WEST.into()),
            },
            is_of_federation: true,
            asked: id("north"),
        }
    }

    fn asked(
        guard: &Guard,
        asker: &AskingGateway,
        vouched: Option<&[u8]>,
        page: (&str, bool),
    ) -> Result<String, &'static str> {
        match guard.admit_asked(asker, vouched, page, SystemTime::now()) {
            Ok(AskedRight::Whole(actor)) => Ok(actor.to_string()),
            Ok(AskedRight::Federation) => Ok("federation".to_owned()),
            Err(denied) => Err(denied.word()),
        }
    }

    #[test]
    fn without_a_token_the_asking_gateway_reads_what_the_federation_may_or_what_is_granted_to_it() {
        let (plain, granted) = (
            far_zone(Scope::Read, &["read=spiffe://acme.internal/zone/south/*"]),
            far_zone(Scope::Read, &["register=spiffe://acme.internal/zone/west/*"]),
        );
        for (guard, page, expected) in [
            (&plain.guard, OPEN, Ok("federation")),
            (&plain.guard, CLOSED, Err("not_granted")),
            (&Guard::default(), OPEN, Ok("federation")),
            (&Guard::default(), CLOSED, Err("not_granted")),
            (&granted.guard, OPEN, Ok(WEST)),
            (&granted.guard, CLOSED, Ok(WEST)),
        ] {
            assert_eq!(
                asked(guard, &asker(), None, page),
                expected.map(str::to_owned),
                "{page:?}"
            );
        }
    }

    #[test]
    fn a_token_is_worth_what_the_asked_zone_knows_of_it_and_nothing_falls_back_on_the_gateway() {
        for scope in Scope::ALL {
            let FarZone { guard, token, .. } = &far_zone(scope, &[&format!("read={WEST}")]);
            let words = vouched_words(&id("north"), &id("west"), CLOSED.0);
            let vouched = SecretHash::of(token.as_bytes()).vouch(&words);
            assert_eq!(
                asked(guard, &asker(), Some(&vouched), CLOSED),
                Ok("token desk".to_owned())
            );
            let unknown = SecretHash::of(b"cwa_other").vouch(&words);
            assert_eq!(asked(guard, &asker(), Some(&unknown), CLOSED), Err("bad_token"));
            assert_eq!(asked(guard, &asker(), Some(b"garbage"), OPEN), Err("bad_token"));
        }
        assert_eq!(
            asked(&Guard::default(), &asker(), Some(b"garbage"), OPEN),
            Err("bad_token")
        );
    }

    #[test]
    fn what_a_token_vouches_for_at_one_gateway_is_worth_nothing_at_another_or_for_another_page() {
        let FarZone { guard, token, .. } = &far_zone(Scope::Write, &[]);
        let trace = SecretHash::of(token.as_bytes());
        for (at, by, path) in [
            ("east", "west", CLOSED.0),
            ("north", "east", CLOSED.0),
            ("north", "west", "/v1/settings"),
        ] {
            let vouched = trace.vouch(&vouched_words(&id(at), &id(by), path));
            assert_eq!(
                asked(guard, &asker(), Some(&vouched), CLOSED),
                Err("bad_token"),
                "{at} {by} {path}"
            );
        }
    }

    #[test]
    fn a_foreign_gateway_gets_nothing_whatever_is_granted_or_shown() {
        let foreign_id = "spiffe://partner.example/zone/west/gateway/gw1";
        let FarZone { guard, token, .. } = &far_zone(Scope::Write, &[&format!("write={foreign_id}")]);
        let mut foreign = asker();
        foreign.is_of_federation = false;
        foreign.connection.proof = Proof::Identity(foreign_id.into());
        let words = vouched_words(&id("north"), &id("west"), OPEN.0);
        let vouched = SecretHash::of(token.as_bytes()).vouch(&words);
        assert_eq!(asked(guard, &foreign, None, OPEN), Err("wrong_trust_domain"));
        assert_eq!(
            asked(guard, &foreign, Some(&vouched), OPEN),
            Err("wrong_trust_domain")
        );
    }
}
