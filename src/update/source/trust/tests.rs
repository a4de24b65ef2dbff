//! Random changes of signed heads and catalogs, with wrong and with matching digests.
//!
//! `SI_MUTATIONS` is the number of rounds of each test; `make torture` raises it.

use super::*;
use crate::catalog::{FileRef, MAX_CATALOG};
use crate::diff_archive::tests::mutations::{Numbers, mutate, rounds};
use crate::digest::Digest;
use crate::signature::SecretKey;

/// The frozen sample of a catalog.
const CATALOG: &[u8] = include_bytes!("../../../../tests/testdata/catalog/v2.toml");

/// Keys of the site, a key of an attacker, and a node that trusts the first two.
struct Parties {
    publish: SecretKey,
    head: SecretKey,
    mallory: SecretKey,
    node: Trust,
}

impl Parties {
    fn new() -> Self {
        let key = || SecretKey::generate().expect("random numbers");
        let (publish, head, mallory) = (key(), key(), key());
        let mut keys = KeySet::new();
        keys.insert(Role::Publish, publish.public_key());
        keys.insert(Role::Head, head.public_key());
        let max_head_age = Duration::from_secs(3600);
        let node = Trust { keys, is_required: true, max_head_age, allow_expired: false };
        Parties { publish, head, mallory, node }
    }
}

fn layer() -> Layer {
    Layer::Image("node".parse().expect("a good name"))
}

/// The text with a signature by each of the keys; `None` if it cannot be signed.
fn sign(text: &[u8], keys: &[&SecretKey]) -> Option<Vec<u8>> {
    let sign = |key: &&SecretKey| key.sign(text, "a test").expect("signs");
    SignedText::join(text, &keys.iter().map(sign).collect::<Vec<_>>()).ok()
}

/// The head of a catalog file, which has the numbers of `like`.
fn head_of(file: &[u8], like: &Catalog) -> Head {
    let sha256 = Digest::of(file);
    let mut head = Head::new(like, &like.publishes[0].manifest, like.issued);
    (head.catalog, head.size) = (sha256, file.len() as u64);
    head
}

/// Changes the text of `genuine`, and leaves its signatures as they are.
fn mutated_text(genuine: &[u8], text: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut altered = text.to_vec();
    mutate(&mut altered, numbers);
    altered.extend_from_slice(&genuine[text.len()..]);
    altered
}

#[test]
fn mutated_head_is_refused() {
    let parties = Parties::new();
    let (node, layer) = (&parties.node, layer());
    let catalog = Catalog::parse(CATALOG, &layer).expect("parses");
    let text = head_of(CATALOG, &catalog).to_toml().expect("text");
    let genuine = sign(text.as_bytes(), &[&parties.publish, &parties.head]).expect("signs");
    let right = node.read_head(&genuine, &layer).expect("it is genuine").head;
    let mut numbers = Numbers(4);

    for round in 0..rounds() {
        // A change of a comment that nothing secures, or of one of two signatures, is harmless.
        let mut damaged = genuine.clone();
        mutate(&mut damaged, &mut numbers);
        if let Ok(read) = node.read_head(&damaged, &layer) {
            assert_eq!(read.head, right, "round {round}");
        }

        let altered = mutated_text(&genuine, text.as_bytes(), &mut numbers);
        let is_accepted = node.read_head(&altered, &layer).is_ok();
        assert!(!is_accepted || altered == genuine, "round {round}");

        // The attacker signs it, and keeps the genuine signatures as well.
        let mut text = text.clone().into_bytes();
        mutate(&mut text, &mut numbers);
        let Some(mut forged) = sign(&text, &[&parties.mallory]) else { continue };
        assert!(node.read_head(&forged, &layer).is_err(), "round {round}");
        if text != right.to_toml().expect("text").as_bytes() {
            forged.extend_from_slice(&genuine[right.to_toml().expect("text").len()..]);
            assert!(node.read_head(&forged, &layer).is_err(), "round {round}");
        }
    }
}

#[test]
fn mutated_catalog_is_refused() {
    let parties = Parties::new();
    let (node, layer) = (&parties.node, layer());
    let genuine = sign(CATALOG, &[&parties.publish]).expect("signs");
    let right = Catalog::parse(CATALOG, &layer).expect("parses");
    let head = head_of(&genuine, &right);
    node.read_catalog(&genuine, &head).expect("it is genuine");
    let mut numbers = Numbers(5);

    for round in 0..rounds() {
        // The caller has compared the digest; the signature alone is enough.
        let mut damaged = genuine.clone();
        mutate(&mut damaged, &mut numbers);
        if let Ok((catalog, _)) = node.read_catalog(&damaged, &head) {
            assert_eq!(catalog, right, "round {round}");
        }

        let altered = mutated_text(&genuine, CATALOG, &mut numbers);
        let is_accepted = node.read_catalog(&altered, &head).is_ok();
        assert!(!is_accepted || altered == genuine, "round {round}");

        // With digests made to match: a stolen head key signs a head that names the altered catalog.
        let mut text = CATALOG.to_vec();
        mutate(&mut text, &mut numbers);
        for keys in [&[&parties.mallory][..], &[&parties.head, &parties.mallory]] {
            let Some(forged) = sign(&text, keys) else { continue };
            let named = head_of(&forged, &right).to_toml().expect("text");
            let named = sign(named.as_bytes(), &[&parties.head]).expect("signs");
            let head = node.read_head(&named, &layer).expect("the head key is trusted").head;
            assert_eq!(head.catalog, Digest::of(&forged));
            assert!(node.read_catalog(&forged, &head).is_err(), "round {round}");
        }
    }
}

/// Catalogs that the publish key has signed, below heads that describe others.
#[test]
fn mutated_head_of_trusted_key_fits_no_other_catalog() {
    let parties = Parties::new();
    let (node, layer) = (&parties.node, layer());
    let file = sign(CATALOG, &[&parties.publish]).expect("signs");
    let right = Catalog::parse(CATALOG, &layer).expect("parses");
    let text = head_of(&file, &right).to_toml().expect("text").into_bytes();
    let mut numbers = Numbers(6);

    for round in 0..rounds() {
        let mut text = text.clone();
        mutate(&mut text, &mut numbers);
        let Some(signed) = sign(&text, &[&parties.head]) else { continue };
        let Ok(TrustedHead { head, .. }) = node.read_head(&signed, &layer) else { continue };
        assert!(head.size <= MAX_CATALOG && head.layer == layer, "round {round}");

        let reference: FileRef = head.catalog_file().expect("a path");
        let is_named = reference.sha256 == Digest::of(&file);
        if is_named && node.read_catalog(&file, &head).is_ok() {
            assert_eq!(head.version(), right.version(), "round {round}");
        }
    }

    // Few of the random changes are other numbers.
    let genuine = node.read_head(&sign(&text, &[&parties.head]).expect("signs"), &layer);
    let genuine = genuine.expect("it is genuine").head;
    for (serial, revision) in [
        (genuine.serial + 1, genuine.revision),
        (genuine.serial - 1, genuine.revision),
        (genuine.serial, genuine.revision + 1),
    ] {
        let head = Head { serial, revision, ..genuine.clone() };
        assert!(node.read_catalog(&file, &head).is_err(), "{}", head.version());
    }
    node.read_catalog(&file, &genuine).expect("the right one fits");
}
