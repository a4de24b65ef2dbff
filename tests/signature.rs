//! Keys and signatures, with `minisign` and `signify-openbsd` as judges.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::require;
use systemimager::signature::{
    AuthenticText, KeySet, Passphrase, PublicKey, Role, SecretKey, SecretKeyFile, SignatureBlock,
    SignedText,
};
use tempfile::TempDir;

const TEXT: &str = "format = 2\nname = \"node\"\n";
const PASSPHRASE: &str = "correct horse";

/// A directory with a text and keys.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Desk(tempfile::tempdir().expect("a directory"));
        desk.write("text", TEXT);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("writes");
    }

    /// Runs a program in the directory; its standard input is `input`.
    fn run(&self, program: &str, arguments: &str, input: &str) -> Output {
        let mut child = Command::new(program)
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // A program that fails early does not read its input.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("the program ends")
    }

    /// Runs a program, which must succeed.
    #[track_caller]
    fn done(&self, program: &str, arguments: &str, input: &str) {
        let output = self.run(program, arguments, input);
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
    }

    /// Runs commands as a person types them.
    #[track_caller]
    fn shell(&self, commands: &str) {
        crate::common::run(Command::new("sh").args(["-ec", commands]).current_dir(self.0.path()));
    }

    /// Makes the key `site` by `keygen`.
    #[track_caller]
    fn keygen(&self, arguments: &str, input: &str) {
        let arguments = format!("keygen --out site {arguments}");
        self.done(env!("CARGO_BIN_EXE_si_tardiff"), arguments.trim(), input);
    }

    fn public_key(&self) -> PublicKey {
        PublicKey::parse(&fs::read(self.path("site.pub")).expect("a key")).expect("reads")
    }

    fn secret_key(&self) -> SecretKey {
        match SecretKeyFile::parse(&fs::read(self.path("site.key")).expect("a key")) {
            Ok(SecretKeyFile::Plain(key)) => key,
            Ok(SecretKeyFile::Encrypted(key)) => {
                key.decrypt(&Passphrase::new(PASSPHRASE.into())).expect("decrypts")
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether the signature in a file is one of the text by the key `site`.
    fn is_signed_by(&self, signature: &str) -> bool {
        let block = fs::read(self.path(signature)).expect("a signature");
        let block = SignatureBlock::parse(&block).expect("parses");
        let file = SignedText::join(TEXT.as_bytes(), &[block]).expect("joins");
        verify(&file, self.public_key()).is_some_and(|text| text == TEXT.as_bytes())
    }
}

fn verify(file: &[u8], key: PublicKey) -> Option<Vec<u8>> {
    let mut keys = KeySet::new();
    keys.insert(Role::Publish, key);
    let signed = SignedText::split(file).expect("divides");
    let text = signed.verify(&keys, Role::Publish).ok();
    text.as_ref().map(AuthenticText::text).map(<[u8]>::to_vec)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn keys_of_keygen_sign_with_minisign() {
    require!(Program("minisign"));

    for (arguments, input) in [("--no-passphrase", ""), ("", "correct horse\n")] {
        let desk = Desk::new();
        desk.keygen(arguments, input);

        desk.done("minisign", "-S -l -s site.key -m text", input);
        desk.done("minisign", "-R -s site.key -p again.pub", input);

        assert!(desk.is_signed_by("text.minisig"));
        let again = fs::read(desk.path("again.pub")).expect("a key");
        assert_eq!(PublicKey::parse(&again), Ok(desk.public_key()));
        desk.done("minisign", "-V -p site.pub -m text", "");
    }
}

#[test]
fn keys_of_minisign_sign_here() {
    require!(Program("minisign"));

    for (arguments, input) in [("-G -W", ""), ("-G", "correct horse\ncorrect horse\n")] {
        let desk = Desk::new();
        desk.done("minisign", &format!("{arguments} -p site.pub -s site.key"), input);

        let block = desk.secret_key().sign(TEXT.as_bytes(), "image node").expect("signs");

        assert_eq!(desk.secret_key().public_key(), desk.public_key());
        desk.write("text.minisig", block.to_text());
        desk.done("minisign", "-V -p site.pub -m text", "");
    }
}

#[test]
fn both_algorithms_of_minisign_are_accepted() {
    require!(Program("minisign"));
    let desk = Desk::new();
    desk.done("minisign", "-G -W -p site.pub -s site.key", "");

    for (arguments, algorithm) in [("-S -l", "RW"), ("-S", "RU")] {
        desk.done("minisign", &format!("{arguments} -s site.key -m text -t note"), "");

        let block = fs::read_to_string(desk.path("text.minisig")).expect("a signature");
        assert!(block.lines().nth(1).expect("a line").starts_with(algorithm), "{block}");
        assert!(desk.is_signed_by("text.minisig"));
        for (from, to) in
            [("note", "nota"), (algorithm, if algorithm == "RW" { "RU" } else { "RW" })]
        {
            desk.write("text.minisig", block.replacen(from, to, 1));
            assert!(!desk.is_signed_by("text.minisig"), "{from}");
        }
    }
}

#[test]
fn signed_text_is_verified_by_documented_commands() {
    require!(Program("minisign"), Program("signify-openbsd"));
    let desk = Desk::new();
    desk.keygen("--no-passphrase", "");
    let key = desk.secret_key();
    let other = SecretKey::generate().expect("a key");
    let blocks = [&key, &other].map(|key| key.sign(TEXT.as_bytes(), "image node").expect("signs"));
    desk.write("head.toml", SignedText::join(TEXT.as_bytes(), &blocks).expect("joins"));
    let commands = "sed '/^untrusted comment:/,$d' head.toml >head.text
        sed -n '/^untrusted comment:/,$p' head.toml | head -n 4 >head.minisig";

    for (change, is_right) in [("true", true), ("sed -i s/node/mode/ head.toml", false)] {
        desk.shell(&format!("{change}\n{commands}"));
        let judges = [
            desk.run("minisign", "-V -p site.pub -m head.text -x head.minisig", ""),
            desk.run("signify-openbsd", "-V -p site.pub -m head.text -x head.minisig", ""),
        ];

        for output in judges {
            assert_eq!(output.status.success(), is_right, "{output:?}");
        }
        let file = fs::read(desk.path("head.toml")).expect("reads");
        assert_eq!(verify(&file, desk.public_key()).is_some(), is_right);
    }
}

#[test]
fn signify_and_keygen_have_one_form_of_public_key() {
    require!(Program("signify-openbsd"));
    let desk = Desk::new();

    desk.done("signify-openbsd", "-G -n -p site.pub -s site.sec", "");

    let key = desk.public_key();
    assert!(fs::read_to_string(desk.path("site.pub")).expect("reads").contains(&key.to_string()));
}

#[test]
fn keygen_never_replaces_file_and_keeps_secret_private() {
    let desk = Desk::new();
    desk.keygen("--no-passphrase", "");
    let key = fs::read(desk.path("site.key")).expect("reads");

    let again = desk.run(env!("CARGO_BIN_EXE_si_tardiff"), "keygen --out site --no-passphrase", "");

    assert_eq!(again.status.code(), Some(1));
    let message = String::from_utf8_lossy(&again.stderr);
    assert!(message.contains("cannot create site.key: it exists"), "{message}");
    assert_eq!(fs::read(desk.path("site.key")).expect("reads"), key);
    assert_eq!((mode(&desk.path("site.key")), mode(&desk.path("site.pub"))), (0o600, 0o644));
}

#[test]
fn useless_passphrase_makes_no_key() {
    let desk = Desk::new();

    for (input, reason) in [("\n", "is empty"), ("", "is empty"), (&"x".repeat(1025), "1024 bytes")]
    {
        let output = desk.run(env!("CARGO_BIN_EXE_si_tardiff"), "keygen --out site", input);

        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(reason), "{message}");
        assert!(!desk.path("site.key").exists() && !desk.path("site.pub").exists());
    }
}

/// Types two lines at the questions of a program, on a terminal; prints all that it shows.
const TYPIST: &str = r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:2] + ["keygen", "--out", "site"])
shown = b""
for question, line in [(b"new key: ", sys.argv[2]), (b"again: ", sys.argv[3])]:
    while question not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, line.encode())
try:
    while True:
        part = os.read(terminal, 4096)
        if not part: break
        shown += part
except OSError:
    pass
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(shown.decode(), "ended with", status)
"#;

#[test]
fn terminal_is_asked_twice_without_echo() {
    require!(Program("python3"));
    let desk = Desk::new();
    desk.write("typist.py", TYPIST);
    let typed = |first: &str, second: &str| {
        let output = Command::new("python3")
            .arg("typist.py")
            .args([env!("CARGO_BIN_EXE_si_tardiff"), first, second])
            .current_dir(desk.0.path())
            .output()
            .expect("python3 runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    let different = typed("correct horse\n", "correct house\n");
    let interrupted = typed("correct horse\n", "\x03");
    assert!(!desk.path("site.key").exists());
    let same = typed("correct horse\n", "correct horse\n");

    assert!(different.contains("the two passphrases differ"), "{different}");
    assert!(interrupted.contains("ended with -2"), "{interrupted}");
    assert!(same.contains("created key") && same.contains("ended with 0"), "{same}");
    assert!(!format!("{different}{interrupted}{same}").contains("horse"));
    assert_eq!(desk.secret_key().public_key(), desk.public_key());
}
