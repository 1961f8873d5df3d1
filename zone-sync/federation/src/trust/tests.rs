//! Tests of which document rules, and which roots count.

use proptest::prelude::*;

use super::*;

const DOMAIN: &str = "acme.internal";

/// Stands for cryptography: a "signature" is the root followed by the message.
struct Plain;

impl TrustCryptography for Plain {
    fn signed(&self, root: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signature == CertificateHash::of(&[root, message].concat()).0
    }

    fn check(&self, content: &Content) -> Result<(), String> {
        let bad = content.revocations.iter().any(|list| list == b"bad");
        if bad { Err("a bad list".to_owned()) } else { Ok(()) }
    }
}

fn root(name: u8) -> Vec<u8> {
    vec![name; 8]
}

fn roots(names: &[u8]) -> Roots {
    let content = Content {
        roots: names.iter().map(|name| root(*name)).collect(),
        ..Content::default()
    };
    content.roots_by_hash()
}

fn document(generation: u64, names: &[u8], signers: &[u8], salt: u64) -> Arc<TrustDocument> {
    let content = Content {
        trust_domain: DOMAIN.to_owned(),
        roots: names.iter().map(|name| root(*name)).collect(),
        ..Content::default()
    };
    let mut document = TrustDocument::new(generation, content, salt).unwrap();
    for signer in signers {
        let signature = CertificateHash::of(&[root(*signer), document.bytes_to_sign()].concat());
        document = document.signed(CertificateHash::of(&root(*signer)), signature.0.to_vec());
    }
    Arc::new(document)
}

fn begun() -> Trust {
    Trust::new(DOMAIN, StoredTrust::default())
}

const TAKEN: Result<OfferedTrust, TrustRefusal> = Ok(OfferedTrust::Taken);

#[test]
fn a_new_root_is_introduced_by_an_old_one_and_by_nobody_else() {
    let (mut trust, file) = (begun(), roots(b"a"));
    let both = document(1, b"ab", b"a", 0);
    let strange = document(1, b"ab", b"b", 0);
    let edition = strange.edition();
    assert_eq!(
        trust.offer(&strange, &file, &Plain),
        Err(TrustRefusal::Unsigned { edition })
    );
    assert_eq!(trust.offer(&both, &file, &Plain), TAKEN);
    assert_eq!(trust.roots(&file), roots(b"ab"));
    let only_new = document(2, b"b", b"b", 0);
    assert_eq!(trust.offer(&only_new, &file, &Plain), TAKEN);
    assert_eq!(
        trust.roots(&file),
        roots(b"b"),
        "the file does not bring back what was retired"
    );
    assert_eq!(
        trust.offer(&document(3, b"a", b"a", 0), &file, &Plain),
        Err(TrustRefusal::Unsigned {
            edition: document(3, b"a", b"a", 0).edition()
        })
    );
}

#[test]
fn a_root_that_comes_into_the_file_after_the_document_counts_beside_it() {
    let mut trust = begun();
    assert_eq!(
        trust.offer(&document(1, b"a", b"a", 0), &roots(b"ax"), &Plain),
        TAKEN
    );
    assert_eq!(
        trust.roots(&roots(b"ax")),
        roots(b"a"),
        "decided: x was there before"
    );
    assert_eq!(trust.roots(&roots(b"axy")), roots(b"ay"));
    let later = Trust::new(DOMAIN, trust.stored());
    assert_eq!(
        later.roots(&roots(b"axy")),
        roots(b"ay"),
        "after a restart as well"
    );
}

#[test]
fn what_is_old_other_or_unusable_changes_nothing() {
    let (mut trust, file) = (begun(), roots(b"a"));
    let second = document(2, b"a", b"a", 0);
    assert_eq!(trust.offer(&second, &file, &Plain), TAKEN);
    for nothing in [&second, &document(1, b"ab", b"a", 0)] {
        assert_eq!(trust.offer(nothing, &file, &Plain), Ok(OfferedTrust::Nothing));
    }
    let content = |trust_domain: &str, list: &[u8]| Content {
        trust_domain: trust_domain.to_owned(),
        roots: vec![root(b'a')],
        revocations: vec![list.to_vec()],
        preferred: None,
        ..Content::default()
    };
    for (content, word) in [
        (content("other.internal", b""), "trust_domain"),
        (content(DOMAIN, b"bad"), "unusable"),
    ] {
        let made = TrustDocument::new(3, content, 0).unwrap();
        let signature = CertificateHash::of(&[root(b'a'), made.bytes_to_sign()].concat());
        let made = Arc::new(made.signed(CertificateHash::of(&root(b'a')), signature.0.to_vec()));
        assert_eq!(trust.offer(&made, &file, &Plain).unwrap_err().word(), word);
    }
    assert_eq!(trust.edition(), second.edition());
}

#[test]
fn a_document_must_keep_the_limits() {
    let content = |roots: Vec<Vec<u8>>, revocations: Vec<Vec<u8>>, preferred| Content {
        trust_domain: DOMAIN.to_owned(),
        roots,
        revocations,
        preferred,
        ..Content::default()
    };
    let many = |count: u8| (0..count).map(root).collect::<Vec<_>>();
    let long = vec![0; MAX_REVOCATIONS_BYTES + 1];
    for (bad, what) in [
        (content(many(0), vec![], None), "no root"),
        (content(many(9), vec![], None), "too many roots"),
        (content(vec![root(1), root(1)], vec![], None), "one root twice"),
        (
            content(many(1), vec![vec![1], vec![2]], None),
            "more lists than roots",
        ),
        (content(many(1), vec![long], None), "a long list"),
        (
            content(many(1), vec![], Some(CertificateHash::of(&root(7)))),
            "a preferred issuer that is no root",
        ),
    ] {
        assert!(TrustDocument::new(1, bad, 0).is_err(), "{what}");
    }
    assert!(
        TrustDocument::new(0, content(many(1), vec![], None), 0).is_err(),
        "generation 0"
    );
    let good = content(many(8), vec![vec![1]; 8], Some(CertificateHash::of(&root(7))));
    assert!(TrustDocument::new(1, good, 0).is_ok());
}

proptest! {
    #[test]
    fn the_generation_in_force_never_goes_back_and_of_one_generation_the_first_rules(
        made in prop::collection::vec((1u64..4, 0u64..4), 1..8),
    ) {
        let file = roots(b"a");
        let all: Vec<_> = made.iter().map(|(generation, salt)| document(*generation, b"a", b"a", *salt)).collect();
        let mut one = begun();
        for document in &all {
            let before = one.edition();
            let offered = one.offer(document, &file, &Plain).unwrap();
            let edition = document.edition();
            let expected = if edition.generation > before.generation {
                OfferedTrust::Taken
            } else if edition.generation < before.generation || edition == before {
                OfferedTrust::Nothing
            } else {
                OfferedTrust::Overruled(TrustConflict { winner: before, loser: edition })
            };
            prop_assert_eq!(offered, expected);
            prop_assert_eq!(one.edition(), if offered == OfferedTrust::Taken { edition } else { before });
            prop_assert_eq!(one.conflict().is_some_and(|conflict| conflict.loser == edition), matches!(offered, OfferedTrust::Overruled(_)));
        }
    }

    #[test]
    fn a_document_survives_the_round_trip(
        generation in 1u64..1 << 53, names in prop::collection::btree_set(any::<u8>(), 1..8), salt in any::<u64>(),
        list in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let content = Content {
            trust_domain: DOMAIN.to_owned(),
            preferred: names.first().map(|name| CertificateHash::of(&root(*name))),
            roots: names.into_iter().map(root).collect(),
            revocations: vec![list],
            ..Content::default()
        };
        let made = TrustDocument::new(generation, content, salt).unwrap();
        let made = made.signed(CertificateHash([7; 32]), vec![1, 2, 3]);
        prop_assert_eq!(TrustDocument::decode(&made.encode()), Ok(made));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = TrustDocument::decode(&bytes);
    }

    #[test]
    fn a_document_with_any_byte_changed_is_another_or_none(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let good = document(3, b"ab", b"a", 9);
        let mut bytes = good.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = TrustDocument::decode(&bytes) {
            let believed = changed.is_signed_by_any(&roots(b"a"), &Plain);
            prop_assert!(!believed || changed.edition() == good.edition());
        }
    }
}
