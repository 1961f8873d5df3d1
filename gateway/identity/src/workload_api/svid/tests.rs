//! Tests of the module above.
use std::{collections::BTreeMap, time::Duration};

use causeway_federation::{name::GatewayId, trust::StoredTrust};
use causeway_telemetry::log::in_one_line;
use proptest::prelude::*;

use super::*;
use crate::{
    ca::Ca,
    workload_api::testing::{TRUST_DOMAIN, answer, fresh, gateway, svid},
};

const HOUR: Duration = Duration::from_secs(3600);

fn ca() -> Ca {
    Ca::new(TRUST_DOMAIN).unwrap()
}

fn east() -> GatewayId {
    gateway("east", "gw1")
}

fn read_for(answer: X509svidResponse, wanted: WantedSvid<'_>) -> Result<Identity, SvidError> {
    let trust = Trust::new("", StoredTrust::default());
    read(answer, wanted, &trust, SystemTime::now())
}

fn read_for_zone(answer: X509svidResponse) -> Result<Identity, SvidError> {
    read_for(answer, WantedSvid::Zone(&"east".parse().unwrap()))
}

/// Reason why an answer is refused, in one line.
fn refusal(answer: X509svidResponse) -> String {
    let refused = read_for_zone(answer).expect_err("an answer that must be refused");
    in_one_line(&refused)
}

/// Spoils a good SVID.
type Spoil<'a> = &'a dyn Fn(&mut X509svid);

#[test]
fn the_svid_that_names_this_gateway_is_taken_with_its_own_roots() {
    let (ca, other) = (ca(), ca());
    let own = ca.issue(&east(), HOUR).unwrap();
    let second = ca.issue(&east(), HOUR).unwrap();
    let mut stranger = svid(&other, &other.issue(&gateway("west", "gw1"), HOUR).unwrap());
    let another_service = X509svid {
        spiffe_id: "spiffe://acme.internal/billing".to_owned(),
        ..stranger.clone()
    };
    stranger.x509_svid_key.clear();
    let answer = answer([another_service, stranger, svid(&ca, &own), svid(&ca, &second)]);
    for wanted in [
        WantedSvid::Zone(&"east".parse().unwrap()),
        WantedSvid::Gateway(own.id()),
    ] {
        let read = read_for(answer.clone(), wanted).unwrap();
        assert_eq!(read.id(), own.id());
        assert!(read.same_leaf(&own), "of two for one gateway the first");
        assert_eq!(read.anchors().roots.keys().collect::<Vec<_>>(), [&ca.hash()]);
        assert!(read.doubt().is_none());
    }
}

#[test]
fn an_answer_without_one_svid_for_this_gateway_says_which_ids_came() {
    let ca = ca();
    let of = |zone: &str, name: &str| svid(&ca, &ca.issue(&gateway(zone, name), HOUR).unwrap());
    assert!(refusal(answer([])).contains("gave no SVID"));
    let elsewhere = refusal(answer([of("west", "gw1"), of("north", "gw1")]));
    assert!(
        elsewhere.contains("of zone `east`")
            && elsewhere.contains("`spiffe://acme.internal/zone/north/gateway/gw1`, `spiffe://acme.internal/zone/west/gateway/gw1`"),
        "{elsewhere}"
    );
    let several = refusal(answer([of("east", "gw1"), of("east", "gw2")]));
    assert!(
        several.contains("several gateways") && several.contains("gw1`, `") && several.contains("gw2`"),
        "{several}"
    );
    let own = SpiffeId::new(TRUST_DOMAIN, east());
    let gone = read_for(answer([of("east", "gw2")]), WantedSvid::Gateway(&own)).unwrap_err();
    assert!(
        gone.to_string()
            .contains("no SVID of spiffe://acme.internal/zone/east/gateway/gw1 any more"),
        "{gone}"
    );
    let odd = X509svid {
        spiffe_id: format!("line\n{}", "x".repeat(9_000)),
        ..X509svid::default()
    };
    let odd = refusal(answer([odd]));
    assert!(odd.contains(r"`line\nxxx") && odd.len() < 1_000, "{odd}");
    let many = (0..20).map(|index| X509svid {
        spiffe_id: format!("spiffe://acme.internal/service/{index}"),
        ..X509svid::default()
    });
    assert!(refusal(answer(many)).contains("and 12 more"));
    let too_many = vec![X509svid::default(); MAX_SVIDS + 1];
    assert!(refusal(answer(too_many)).contains("more than 64 SVIDs"));
}

#[test]
fn parts_that_are_missing_malformed_or_of_another_are_refused_with_the_reason() {
    let ca = ca();
    let another = ca.issue(&east(), HOUR).unwrap();
    let west = ca.issue(&gateway("west", "gw1"), HOUR).unwrap();
    let cases: [(Spoil<'_>, &str); 13] = [
        (&|svid| svid.x509_svid.clear(), "without a certificate"),
        (&|svid| svid.x509_svid_key.clear(), "without a key"),
        (&|svid| svid.bundle.clear(), "without a bundle of roots"),
        (
            &|svid| svid.x509_svid.truncate(100),
            "the chain in the SVID of spiffe://acme.internal/zone/east/gateway/gw1 is not made of certificates in DER",
        ),
        (
            &|svid| svid.x509_svid = b"-----BEGIN".to_vec(),
            "the chain in the SVID of",
        ),
        (&|svid| svid.bundle.push(0), "the bundle in the SVID of"),
        (
            &|svid| svid.x509_svid = svid.x509_svid.repeat(MAX_CHAIN + 1),
            "more than 16 certificates in the chain",
        ),
        (
            &|svid| svid.x509_svid = vec![0x30, 0],
            "does not name a gateway: the certificate cannot be parsed",
        ),
        (
            &|svid| svid.x509_svid = ca.certificate().to_vec(),
            "the certificate is a CA's",
        ),
        (
            &|svid| svid.x509_svid = west.chain()[0].to_vec(),
            "names spiffe://acme.internal/zone/west/gateway/gw1",
        ),
        (
            &|svid| svid.x509_svid_key = another.key().secret_der().to_vec(),
            "the key in the SVID of",
        ),
        (
            &|svid| svid.x509_svid_key = b"no key".to_vec(),
            "the key in the SVID of",
        ),
        (&|svid| svid.bundle = vec![0x30, 0], "a root in the bundle of"),
    ];
    for (spoil, expected) in cases {
        let mut answer = fresh(&ca, &east());
        spoil(&mut answer.svids[0]);
        let said = refusal(answer);
        assert!(said.contains(expected), "`{expected}` is not in: {said}");
    }
}

#[test]
fn a_revocation_list_that_cannot_be_used_spoils_the_answer() {
    let ca = ca();
    let list = ca
        .revocation_list(&BTreeMap::new(), 1, SystemTime::now())
        .unwrap();
    let mut unsigned = list.clone();
    // The last byte of the signature.
    *unsigned.last_mut().unwrap() ^= 1;
    let with = |crl| X509svidResponse {
        crl,
        ..fresh(&ca, &east())
    };
    for (crl, expected) in [
        (vec![b"no list".to_vec()], "a revocation list cannot be parsed"),
        (
            vec![list.clone(), unsigned],
            "none of its roots has signed a revocation list",
        ),
        (vec![list.clone(); MAX_LISTS + 1], "more than 32 revocation lists"),
    ] {
        let said = refusal(with(crl));
        assert!(said.contains(expected), "`{expected}` is not in: {said}");
    }
    assert!(read_for_zone(with(vec![list])).is_ok());
}

#[test]
fn an_svid_that_peers_would_refuse_is_doubted_and_does_not_take_the_place_of_another() {
    let (ca, stranger) = (ca(), ca());
    let (current, trust) = (
        ca.issue(&east(), HOUR).unwrap(),
        Trust::new("", StoredTrust::default()),
    );
    let (now, next) = (SystemTime::now(), ca.issue(&east(), HOUR).unwrap());
    let good = answer([svid(&ca, &next)]);
    let of_stranger = answer([svid(&ca, &stranger.issue(&east(), HOUR).unwrap())]);
    let mut revoked = good.clone();
    let serials = BTreeMap::from([(next.serial().unwrap(), now)]);
    revoked.crl = vec![ca.revocation_list(&serials, 1, now).unwrap()];
    for (answer, at, expected) in [
        (&good, now + 2 * HOUR, "has expired"),
        (&good, now - 24 * HOUR, "is not valid yet"),
        (&of_stranger, now, "was not issued by any root"),
        (&revoked, now, "was revoked"),
    ] {
        let refused = renewed(answer.clone(), &current, &trust, at).unwrap_err();
        assert!(refused.to_string().contains(expected), "{expected}: {refused}");
        let zone = "east".parse().unwrap();
        let first = read(answer.clone(), WantedSvid::Zone(&zone), &trust, at).unwrap();
        assert!(
            first
                .doubt()
                .is_some_and(|doubt| doubt.to_string().contains(expected)),
            "at the start it is taken, and doubted"
        );
    }
    assert!(renewed(good, &current, &trust, now).unwrap().same_leaf(&next));
    let taken = read_for_zone(answer([svid(&ca, &next)])).unwrap();
    let same = renewed(answer([svid(&ca, &next)]), &taken, &trust, now + 2 * HOUR);
    assert!(same.is_ok(), "what is in use stays so, to its end and after");
}

proptest! {
    #[test]
    fn arbitrary_parts_are_refused_without_a_panic(
        chain in prop::collection::vec(any::<u8>(), 0..80),
        key in prop::collection::vec(any::<u8>(), 0..40),
        bundle in prop::collection::vec(any::<u8>(), 0..80),
        crl in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
    ) {
        let svid = X509svid {
            spiffe_id: SpiffeId::new(TRUST_DOMAIN, east()).to_string(),
            x509_svid: chain,
            x509_svid_key: key,
            bundle,
            hint: String::new(),
        };
        let answer = X509svidResponse { svids: vec![svid], crl, ..X509svidResponse::default() };
        prop_assert!(read_for_zone(answer).is_err());
    }
}
