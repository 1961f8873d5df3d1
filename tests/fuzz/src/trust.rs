//! Target `trust`: bytes as a document of what the federation trusts, as a peer or an operator hands it in. Whatever they
//! are, there is a document within its limits or an error, and a document says the same again when it is passed on.

use causeway_federation::trust::{CertificateHash, Content, MAX_REVOCATIONS_BYTES, MAX_ROOTS, TrustDocument};

pub fn run(data: &[u8]) {
    let Ok(document) = TrustDocument::decode(data) else {
        return;
    };
    let content = document.content();
    assert!((1..=MAX_ROOTS).contains(&content.roots.len()));
    assert!(content.revocations.len() <= content.roots.len());
    assert!(
        content
            .revocations
            .iter()
            .all(|list| list.len() <= MAX_REVOCATIONS_BYTES)
    );
    let again = TrustDocument::decode(&document.encode()).expect("a document is read again");
    assert_eq!(again, document);
    assert_eq!(again.edition(), document.edition());
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let content = |roots: &[u8], revocations: Vec<Vec<u8>>| Content {
        trust_domain: "acme.internal".to_owned(),
        roots: roots.iter().map(|root| vec![*root; 16]).collect(),
        revocations,
        preferred: roots.first().map(|root| CertificateHash::of(&[*root; 16])),
        ..Content::default()
    };
    let made = |generation, content: Content| {
        let preferred = content.preferred.unwrap_or(CertificateHash([0; 32]));
        let document = TrustDocument::new(generation, content, 1_800_000_000_000).expect("a document");
        document.signed(preferred, vec![5; 70]).encode()
    };
    vec![
        ("one-root".to_owned(), made(1, content(b"a", vec![]))),
        (
            "rotation".to_owned(),
            made(2, content(b"ab", vec![vec![1; 9], vec![2; 9]])),
        ),
    ]
}
