//! Files that break each clause of the format, one by one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// The block of [`signed_by`], by its lines without newlines.
fn block_lines(key: &SecretKey) -> [String; 4] {
    let text = key.sign(TEXT, "image node").expect("a signature").to_text();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.try_into().expect("four lines")
}

/// The text with one block of these lines.
fn file_of(lines: &[String]) -> Vec<u8> {
    let block: String = lines.iter().map(|line| format!("{line}\n")).collect();
    [TEXT, block.as_bytes()].concat()
}

/// The file after a change of one line of its block.
fn with_line(key: &SecretKey, index: usize, change: impl Fn(&str) -> String) -> Vec<u8> {
    let mut lines = block_lines(key);
    lines[index] = change(&lines[index]);
    file_of(&lines)
}

/// Changes one byte of a base64 line.
fn flip(line: &str, byte: usize) -> String {
    let mut bytes = STANDARD.decode(line).expect("base64");
    bytes[byte] ^= 1;
    STANDARD.encode(bytes)
}

/// A secret key file with a checksum of zeros.
fn without_checksum(file: &str) -> String {
    let (comment, line) = file.split_once('\n').expect("two lines");
    let mut bytes = STANDARD.decode(line.trim_end()).expect("base64");
    bytes[126..].fill(0);
    format!("{comment}\n{}\n", STANDARD.encode(bytes))
}

#[test]
fn altered_signed_bytes_are_refused() {
    let key = secret_key();
    let keys = trusting(Role::Publish, &key);
    let id = key.public_key().id();
    let mut text = signed_by(&[&key]);
    text[0] ^= 1;

    for (case, file) in [
        ("text", text),
        ("signature", with_line(&key, 1, |line| flip(line, 10))),
        ("last byte of the signature", with_line(&key, 1, |line| flip(line, 73))),
        ("trusted comment", with_line(&key, 2, |line| format!("{line}2"))),
        ("global signature", with_line(&key, 3, |line| flip(line, 0))),
        ("algorithm", with_line(&key, 1, |line| line.replacen("RW", "RU", 1))),
    ] {
        assert_eq!(
            SignedText::split(&file).expect(case).verify(&keys, Role::Publish),
            Err(SignatureError::Wrong { id }),
            "{case}"
        );
    }
    let other_id = with_line(&key, 1, |line| flip(line, 2));
    let refusal = SignedText::split(&other_id).expect("a form").verify(&keys, Role::Publish);
    assert!(matches!(refusal, Err(SignatureError::UnknownKeys { .. })), "{refusal:?}");
}

#[test]
fn key_id_of_other_key_does_not_help() {
    let (key, stranger) = (secret_key(), secret_key());
    let keys = trusting(Role::Publish, &key);
    let mut block = stranger.sign(TEXT, "image node").expect("a signature");
    block.key_id = key.public_key().id();

    let file = SignedText::join(TEXT, &[block]).expect("a file");

    let refusal = SignatureError::Wrong { id: key.public_key().id() };
    assert_eq!(verify(&file, &keys, Role::Publish), Err(refusal));
}

#[test]
fn files_that_break_form_are_refused() {
    let key = secret_key();
    let whole = signed_by(&[&key]);
    let lines = block_lines(&key);
    let long = "x".repeat(1024);
    let base64 = |bytes| FormFault::Base64 { bytes };
    let prefix = |expected| FormFault::Prefix { expected };

    for (case, file, line, fault) in [
        ("truncated block", file_of(&lines[..3]), 6, FormFault::ShortBlock),
        ("no last newline", whole[..whole.len() - 1].to_vec(), 6, FormFault::NoNewline),
        ("CR in the text", [b"a\r\n", &whole[..]].concat(), 1, FormFault::CarriageReturn),
        ("CR in a block", with_line(&key, 1, |l| format!("{l}\r")), 4, FormFault::CarriageReturn),
        (
            "no space",
            with_line(&key, 0, |_| "untrusted comment:".into()),
            3,
            prefix("untrusted comment: "),
        ),
        (
            "other prefix",
            with_line(&key, 2, |_| "comment: x".into()),
            5,
            prefix("trusted comment: "),
        ),
        ("text after a block", [&whole[..], b"x = 1\n"].concat(), 7, prefix("untrusted comment: ")),
        ("empty line", [&whole[..], b"\n"].concat(), 7, prefix("untrusted comment: ")),
        (
            "long comment",
            with_line(&key, 0, |l| format!("{l}{long}")),
            3,
            FormFault::LongLine { limit: 1024 },
        ),
        (
            "long base64",
            with_line(&key, 3, |_| long.repeat(2)),
            6,
            FormFault::LongLine { limit: 1024 },
        ),
        (
            "escape in a comment",
            with_line(&key, 0, |l| format!("{l}\x1b[1m")),
            3,
            FormFault::Comment,
        ),
        ("truncated base64", with_line(&key, 1, |l| l[..96].into()), 4, base64(74)),
        ("no padding", with_line(&key, 1, |l| l.trim_end_matches('=').into()), 4, base64(74)),
        ("bits after the end", with_line(&key, 3, |l| l.replace("==", "=A")), 6, base64(64)),
        ("space in base64", with_line(&key, 3, |l| format!(" {}", &l[1..])), 6, base64(64)),
        ("short signature", with_line(&key, 3, |_| "AAAA".into()), 6, base64(64)),
        (
            "unknown algorithm",
            with_line(&key, 1, |l| l.replacen("RW", "RX", 1)),
            4,
            FormFault::Algorithm,
        ),
        ("17 blocks", signed_17_times(&key), 67, FormFault::ManyBlocks { limit: 16 }),
    ] {
        let refusal = SignedText::split(&file).map(|_| ());
        assert_eq!(refusal, Err(SignatureError::BadForm { line, fault }), "{case}");
    }
}

fn signed_17_times(key: &SecretKey) -> Vec<u8> {
    let block = key.sign(TEXT, "image node").expect("a signature").to_text();
    [TEXT, block.repeat(17).as_bytes()].concat()
}

#[test]
fn text_that_cannot_be_divided_again_is_not_joined() {
    let key = secret_key();
    let block = key.sign(TEXT, "image node").expect("a signature");

    for (text, line, fault) in [
        (&b"a = '''\nuntrusted comment: x\n'''\n"[..], 2, FormFault::CommentInText),
        (b"untrusted comment:\n", 1, FormFault::CommentInText),
        (b"a = 1", 1, FormFault::NoNewline),
        (b"a = 1\r\n", 1, FormFault::CarriageReturn),
    ] {
        let refusal = SignedText::join(text, std::slice::from_ref(&block));
        assert_eq!(refusal, Err(SignatureError::BadForm { line, fault }));
    }
    let many = vec![block; 17];
    assert!(SignedText::join(TEXT, &many).is_err());
    assert!(SignedText::join(TEXT, &many[..16]).is_ok());
}

#[test]
fn comment_that_breaks_line_is_not_signed() {
    let key = secret_key();

    for comment in ["a\nb", "a\rb", "\x1b[1m", &"x".repeat(1024)] {
        let refusal = key.sign(TEXT, comment);
        assert!(matches!(refusal, Err(SignatureError::BadComment { .. })), "{comment:?}");
    }
    assert!(key.sign(TEXT, "timestamp:1\tfile:head.toml").is_ok());
}

#[test]
fn damaged_key_files_are_refused() {
    let key = secret_key();
    let public = key.public_key().to_file();
    let secret = key.to_file(Protection::None).expect("a file");
    let [comment, line] = secret.lines().collect::<Vec<_>>()[..] else { panic!("two lines") };
    let secret_with = |byte: usize| format!("{comment}\n{}\n", flip(line, byte));
    let plain = without_checksum(&secret);
    assert!(matches!(SecretKeyFile::parse(plain.as_bytes()), Ok(SecretKeyFile::Plain(_))));

    for (case, file) in [
        ("empty", String::new()),
        ("only a key", format!("{}\n", key.public_key())),
        ("three lines", format!("{public}x\n")),
        ("CRLF", public.replace('\n', "\r\n")),
        ("no prefix", public.replacen("untrusted", "trusted", 1)),
        ("truncated", public[..public.len() - 5].to_owned()),
        ("other algorithm", public.replacen("\nRW", "\nRX", 1)),
        ("secret key", secret.to_string()),
        ("long", public.replacen(": ", &format!(": {}", "x".repeat(1024)), 1)),
    ] {
        assert!(PublicKey::parse(file.as_bytes()).is_err(), "{case}");
    }
    for (case, file, expected) in [
        ("algorithm", secret_with(0), KeyError::Algorithm),
        ("encryption", secret_with(2), KeyError::Algorithm),
        ("checksum algorithm", secret_with(4), KeyError::Algorithm),
        ("id", secret_with(54), KeyError::Damaged),
        ("seed", secret_with(62), KeyError::Damaged),
        ("seed without a checksum", without_checksum(&secret_with(62)), KeyError::Mismatch),
        ("checksum", secret_with(157), KeyError::Damaged),
    ] {
        let refusal = SecretKeyFile::parse(file.as_bytes()).map(|_| ());
        assert_eq!(refusal, Err(expected), "{case}");
    }
    let error = KeySet::new().add(Role::Publish, "old.pub", b"x").expect_err("is refused");
    assert!(error.to_string().starts_with("cannot read the key old.pub: it is not a key file"));
}
