//! Signatures and keys, in memory. `tests/signature.rs` compares them with minisign and signify.

mod hostile;

use super::*;

const TEXT: &[u8] = b"format = 2\nname = \"node\"\n";

fn secret_key() -> SecretKey {
    SecretKey::generate().expect("a key")
}

fn trusting(role: Role, key: &SecretKey) -> KeySet {
    let mut keys = KeySet::new();
    keys.insert(role, key.public_key());
    keys
}

fn signed_by(keys: &[&SecretKey]) -> Vec<u8> {
    let blocks: Vec<SignatureBlock> =
        keys.iter().map(|key| key.sign(TEXT, "image node").expect("a signature")).collect();
    SignedText::join(TEXT, &blocks).expect("a file")
}

fn verify(file: &[u8], keys: &KeySet, role: Role) -> Result<KeyId, SignatureError> {
    let signed = SignedText::split(file)?;
    let authentic = signed.verify(keys, role)?;
    assert_eq!((authentic.text(), authentic.comment()), (TEXT, "image node"));
    Ok(authentic.key().id())
}

#[test]
fn signed_text_is_verified_and_divided() {
    let key = secret_key();
    let file = signed_by(&[&key]);

    let signed = SignedText::split(&file).expect("a signed text");

    assert_eq!(signed.unverified_text(), TEXT);
    assert_eq!(signed.signatures().len(), 1);
    let keys = trusting(Role::Publish, &key);
    assert_eq!(verify(&file, &keys, Role::Publish), Ok(key.public_key().id()));
    let block = signed.signatures()[0].to_text();
    assert_eq!(SignatureBlock::parse(block.as_bytes()).as_ref(), Ok(&signed.signatures()[0]));
}

#[test]
fn one_trusted_key_of_several_is_enough() {
    let (old, new, other) = (secret_key(), secret_key(), secret_key());
    let keys = trusting(Role::Publish, &new);

    assert_eq!(verify(&signed_by(&[&old, &new]), &keys, Role::Publish), Ok(new.public_key().id()));
    assert_eq!(
        verify(&signed_by(&[&old, &other]), &keys, Role::Publish),
        Err(SignatureError::UnknownKeys {
            ids: vec![old.public_key().id(), other.public_key().id()]
        })
    );
    assert_eq!(verify(TEXT, &keys, Role::Publish), Err(SignatureError::Unsigned));
}

#[test]
fn head_key_signs_heads_only() {
    let (publish, head) = (secret_key(), secret_key());
    let mut keys = trusting(Role::Publish, &publish);
    keys.insert(Role::Head, head.public_key());
    let (publish_id, head_id) = (publish.public_key().id(), head.public_key().id());

    assert_eq!(verify(&signed_by(&[&head]), &keys, Role::Head), Ok(head_id));
    assert_eq!(verify(&signed_by(&[&publish]), &keys, Role::Head), Ok(publish_id));
    assert_eq!(
        verify(&signed_by(&[&head]), &keys, Role::Publish),
        Err(SignatureError::HeadKeyOnly { id: head_id })
    );
}

#[test]
fn revoked_key_never_counts() {
    let (key, other) = (secret_key(), secret_key());
    let mut keys = trusting(Role::Publish, &key);
    let id = key.public_key().id();

    keys.insert_revoked(PublicKey { id: KeyId([7; 8]), ..key.public_key() });
    keys.insert(Role::Publish, key.public_key());

    assert!(keys.requires_signature() && keys.publish_keys().next().is_none());
    for role in [Role::Publish, Role::Head] {
        assert_eq!(
            verify(&signed_by(&[&key]), &keys, role),
            Err(SignatureError::UnknownKeys { ids: vec![id] })
        );
    }
    keys.insert_revoked(key.public_key());
    let refusal = Err(SignatureError::Revoked { id });
    assert_eq!(verify(&signed_by(&[&key]), &keys, Role::Head), refusal);
    keys.insert(Role::Publish, other.public_key());
    assert_eq!(verify(&signed_by(&[&key]), &keys, Role::Publish), refusal);
    let both = signed_by(&[&key, &other]);
    assert_eq!(verify(&both, &keys, Role::Publish), Ok(other.public_key().id()));
}

#[test]
fn keys_with_one_id_are_all_tried() {
    let (key, other) = (secret_key(), secret_key());
    let id = key.public_key().id();
    let mut keys = KeySet::new();
    keys.insert(Role::Publish, PublicKey { id, ..other.public_key() });
    keys.insert(Role::Publish, key.public_key());

    assert_eq!(verify(&signed_by(&[&key]), &keys, Role::Publish), Ok(id));
}

#[test]
fn written_keys_are_read_again() {
    let key = secret_key();
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    let public = key.public_key();

    let plain = key.to_file(Protection::None).expect("a file");
    let encrypted = key.to_file(Protection::Passphrase(&passphrase)).expect("a file");

    assert_eq!(PublicKey::parse(public.to_file().as_bytes()), Ok(public));
    assert_eq!(public.to_string().parse(), Ok(public));
    assert!(matches!(
        SecretKeyFile::parse(plain.as_bytes()),
        Ok(SecretKeyFile::Plain(read)) if read.public_key() == public
    ));
    let Ok(SecretKeyFile::Encrypted(locked)) = SecretKeyFile::parse(encrypted.as_bytes()) else {
        panic!("an encrypted key");
    };
    assert_eq!(locked.decrypt(&passphrase).expect("decrypts").public_key(), public);
    let wrong = Passphrase::new(b"correct horses".to_vec());
    assert_eq!(locked.decrypt(&wrong).map(|_| ()), Err(KeyError::WrongPassphrase));
    assert!(!format!("{locked:?}{passphrase:?}{key:?}").contains("horse"));
}
