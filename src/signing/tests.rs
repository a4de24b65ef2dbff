//! Key files and sign commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::signature::{KeySet, Passphrase, Protection, Role, SecretKeyFile};

const TEXT: &[u8] = b"format = 2\n";

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Writes a script, and returns the command that runs it.
///
/// The script is not executable: a child of another test may still have it open for writing.
fn script(dir: &TempDir, body: &str) -> String {
    let path = dir.path().join("sign");
    fs::write(&path, body).expect("writes");
    format!("sh {}", path.display())
}

#[test]
fn key_pair_is_created_once() {
    let dir = scratch();
    let paths = KeyPaths::new(&dir.path().join("keys/site.v1"));

    let public = create_key_pair(&paths, Protection::None).expect("creates");

    let keys = dir.path().join("keys");
    assert_eq!(names(&keys), ["site.v1.key", "site.v1.pub"]);
    assert_eq!((mode(&keys), mode(&paths.secret), mode(&paths.public)), (0o700, 0o600, 0o644));
    assert_eq!(read_public_key(&paths.public).expect("reads"), public);
    let secret = fs::read(&paths.secret).expect("reads");
    for lost in [&paths.public, &paths.secret] {
        let error = create_key_pair(&paths, Protection::None).expect_err("exists");
        assert!(matches!(error, SigningError::Exists { .. }), "{error}");
        fs::rename(lost, dir.path().join("lost")).expect("renames");
        let error = create_key_pair(&paths, Protection::None).expect_err("one exists");
        assert!(matches!(error, SigningError::Exists { .. }), "{error}");
        fs::rename(dir.path().join("lost"), lost).expect("renames");
    }
    assert_eq!(fs::read(&paths.secret).expect("reads"), secret);
}

#[test]
fn open_key_is_refused_unless_encrypted() {
    let dir = scratch();
    let plain = KeyPaths::new(&dir.path().join("plain"));
    let encrypted = KeyPaths::new(&dir.path().join("encrypted"));
    let passphrase = Passphrase::new(b"secret".to_vec());
    create_key_pair(&plain, Protection::None).expect("creates");
    create_key_pair(&encrypted, Protection::Passphrase(&passphrase)).expect("creates");

    assert!(matches!(read_secret_key(&plain.secret), Ok(SecretKeyFile::Plain(_))));
    for paths in [&plain, &encrypted] {
        fs::set_permissions(&paths.secret, PermissionsExt::from_mode(0o644)).expect("chmod");
    }

    let refusal = read_secret_key(&plain.secret).expect_err("is refused");
    assert!(matches!(refusal, SigningError::OpenToAll { .. }), "{refusal}");
    assert!(matches!(read_secret_key(&encrypted.secret), Ok(SecretKeyFile::Encrypted(_))));
}

#[test]
fn key_dir_gives_roles() {
    let dir = scratch();
    let key = |name: &str| {
        create_key_pair(&KeyPaths::new(&dir.path().join(name)), Protection::None).expect("creates")
    };
    let (publish, head, revoked) = (key("site"), key("head/server"), key("revoked/old"));
    fs::write(dir.path().join("README"), "not a key").expect("writes");

    let keys = read_key_dir(dir.path()).expect("reads");

    assert_eq!(keys.publish_keys().collect::<Vec<_>>(), [&publish]);
    assert_eq!(keys.head_keys().collect::<Vec<_>>(), [&head, &publish]);
    assert_eq!(keys.revoked_keys().collect::<Vec<_>>(), [&revoked]);
    assert_eq!(read_key_dir(&dir.path().join("none")).expect("no key"), KeySet::new());
    fs::write(dir.path().join("bad.pub"), "x\n").expect("writes");
    let error = read_key_dir(dir.path()).expect_err("is refused").to_string();
    assert!(error.contains("bad.pub: it is not a key file"), "{error}");
}

#[test]
fn command_signs_text_of_its_standard_input() {
    let dir = scratch();
    let key = SecretKey::generate().expect("a key");
    let (text, block) = (dir.path().join("text"), dir.path().join("block"));
    fs::write(&block, key.sign(TEXT, "by command").expect("signs").to_text()).expect("writes");
    let body = r#"cat >"$1"; printf '%s' "$SI_COMMENT" >"$1.comment"; cat "$2""#;
    let command = format!("{}  {} {}", script(&dir, body), text.display(), block.display());
    let command = SignCommand::new(&command, Some(key.public_key())).expect("a command");

    let file = Signer::Command(command).sign_text(TEXT, "image node").expect("signs");

    let mut keys = KeySet::new();
    keys.insert(Role::Publish, key.public_key());
    let signed = SignedText::split(&file).expect("divides");
    let authentic = signed.verify(&keys, Role::Publish).expect("verifies");
    assert_eq!((authentic.text(), authentic.comment()), (TEXT, "by command"));
    assert_eq!(fs::read(&text).expect("reads"), TEXT);
    assert_eq!(fs::read(dir.path().join("text.comment")).expect("reads"), b"image node");
}

#[test]
fn useless_output_of_command_is_refused() {
    let dir = scratch();
    let (key, other) = (SecretKey::generate().expect("a key"), SecretKey::generate().expect("one"));
    let block = |key: &SecretKey, text| key.sign(text, "c").expect("signs").to_text();
    let output = dir.path().join("output");
    let command = script(&dir, &format!("cat >/dev/null; cat {}", output.display()));
    let sign = |command: &str| {
        let command = SignCommand::new(command, Some(key.public_key())).expect("a command");
        command.sign(TEXT, "c").expect_err("is refused").to_string()
    };

    for (printed, reason) in [
        (block(&other, TEXT), "not trusted here"),
        (block(&key, b"other\n"), "is wrong"),
        (block(&key, TEXT).repeat(2), "more than one signature"),
        ("signed!\n".to_owned(), "line 1"),
        (String::new(), "less than four lines"),
    ] {
        fs::write(&output, printed).expect("writes");
        let error = sign(&command);
        assert!(error.contains(reason), "{error}");
    }
    assert!(sign("false").contains("exit status: 1"));
    assert!(sign("no-such-program-of-the-site").contains("not installed"));
    assert!(SignCommand::new("  ", None).is_err());
}

#[test]
fn text_that_cannot_be_divided_again_reaches_no_command() {
    let dir = scratch();
    let mark = dir.path().join("mark");
    let command = script(&dir, &format!("touch {}", mark.display()));
    let command = SignCommand::new(&command, None).expect("a command");

    let refusal = Signer::Command(command).sign_text(b"a = 1", "c").expect_err("is refused");

    assert!(matches!(refusal, SigningError::Text(_)), "{refusal}");
    assert!(!mark.exists());
}
