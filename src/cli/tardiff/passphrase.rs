//! Passphrases of keys: from the terminal, a credential of systemd, or standard input.
//!
//! Never from the command line or a variable, which other processes can read.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::CommandError;
use crate::cli::console;
use crate::host::named_file;
use crate::signature::{Passphrase, SecretKey, SecretKeyFile};
use crate::signing;

/// Longest passphrase in bytes; that of minisign.
const MAX_PASSPHRASE: usize = 1024;
/// Variable with the directory of a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Asks for the passphrase of a new key, on a terminal twice.
pub fn choose() -> Result<Passphrase, CommandError> {
    let first = ask("passphrase for the new key: ")?;
    if first.is_empty() {
        return Err(CommandError::EmptyPassphrase);
    }
    if io::stdin().is_terminal() && ask("the same passphrase again: ")? != first {
        return Err(CommandError::OtherPassphrase);
    }
    Ok(first)
}

/// Reads a secret key, and its passphrase if it is encrypted.
pub fn unlock(path: &Path) -> anyhow::Result<SecretKey> {
    let encrypted = match signing::read_secret_key(path)? {
        SecretKeyFile::Plain(key) => return Ok(key),
        SecretKeyFile::Encrypted(key) => key,
    };

    let passphrase = match credential(path) {
        Some(file) => read_credential(&file)?,
        None => ask(&format!("passphrase of {}: ", path.display()))?,
    };
    let unusable = |source| CommandError::Locked { path: path.to_owned(), source };
    Ok(encrypted.decrypt(&passphrase).map_err(unusable)?)
}

/// The credential `STEM.passphrase` for the key `STEM.key`, if the service has it.
fn credential(key: &Path) -> Option<PathBuf> {
    let dir = PathBuf::from(env::var_os(CREDENTIALS)?);
    let mut name = key.file_stem()?.to_owned();
    name.push(".passphrase");
    let file = dir.join(name);
    named_file::open(&file).ok().map(|_| file)
}

fn read_credential(file: &Path) -> Result<Passphrase, CommandError> {
    let bytes = named_file::read(file, MAX_PASSPHRASE + 1)
        .map_err(|source| CommandError::Unreadable { path: file.to_owned(), source })?;
    let bytes = Zeroizing::new(bytes);
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if line.len() > MAX_PASSPHRASE {
        return Err(CommandError::LongPassphrase { limit: MAX_PASSPHRASE });
    }
    Ok(Passphrase::new(line.to_vec()))
}

/// Reads a line from standard input; a terminal shows the question and no echo.
fn ask(question: &str) -> Result<Passphrase, CommandError> {
    let input = io::stdin();
    if !input.is_terminal() {
        return read_line();
    }

    let silence = Silence::begin().map_err(CommandError::Passphrase)?;
    console::print_question(question);
    silence.wait().map_err(CommandError::Passphrase)?;
    let line = read_line();
    drop(silence);
    console::print_error_line("");
    line
}

/// Reads bytes up to the first newline, and none after it.
fn read_line() -> Result<Passphrase, CommandError> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE));
    let mut byte = [0];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() == MAX_PASSPHRASE => {
                return Err(CommandError::LongPassphrase { limit: MAX_PASSPHRASE });
            }
            Ok(_) => line.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CommandError::Passphrase(error.into())),
        }
    }
    Ok(Passphrase::new(line.to_vec()))
}

/// A terminal without echo. On drop the echo returns, then signals that arrived are delivered.
struct Silence {
    terminal: Termios,
    blocked: SigSet,
    arrived: SignalFd,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        // A signal that ends the process must not leave the terminal without echo.
        let blocked: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGTSTP]
            .into_iter()
            .collect();
        let arrived = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC)?;
        let terminal = tcgetattr(rustix::stdio::stdin())?;
        blocked.thread_block()?;
        let silence = Silence { terminal, blocked, arrived };

        let mut silent = silence.terminal.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &silent)?;
        Ok(silence)
    }

    /// Waits for a line, or for a signal, which ends the process.
    fn wait(&self) -> io::Result<()> {
        let input = io::stdin();
        loop {
            let mut ready = [
                PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.arrived.as_fd(), PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            if ready[1].revents().is_empty() {
                return Ok(());
            }
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.terminal);
        let _ = self.blocked.thread_unblock();
    }
}
