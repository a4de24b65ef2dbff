//! Programs of the site that sign: for a hardware token, an agent, or a machine without a network.

use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::error::{CommandFault, SigningError};
use crate::process::{self, ProcessCall, ProcessError, ProcessOutput, WriteAccess, environment};
use crate::signature::{KeySet, PublicKey, Role, SignatureBlock, SignatureError, SignedText};

/// Time after which the program is killed; a person may have to confirm.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// Variable with the comment that the program should sign.
const COMMENT: &str = "SI_COMMENT";
/// Lines of a signature block.
const LINES: usize = 4;
/// Characters of standard error in a message.
const MAX_MESSAGE: usize = 300;

/// A program and its arguments; no shell reads them.
///
/// Its standard input is the text, its standard output one signature block.
#[derive(Clone, Debug)]
pub struct SignCommand {
    program: OsString,
    arguments: Vec<OsString>,
    key: Option<PublicKey>,
}

impl SignCommand {
    /// Divides a command at spaces. Its signatures must be by `key`, if that is known.
    pub fn new(command: &str, key: Option<PublicKey>) -> Result<Self, SigningError> {
        let mut words = command.split_ascii_whitespace().map(OsString::from);
        let Some(program) = words.next() else {
            let program = command.to_owned();
            return Err(SigningError::Command { program, fault: CommandFault::Empty });
        };
        Ok(SignCommand { program, arguments: words.collect(), key })
    }

    /// The key of its signatures, if that is known.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.key
    }

    /// Whether only the form of its signatures can be checked.
    pub fn is_unverified(&self) -> bool {
        self.key.is_none()
    }

    /// Runs the program, and verifies its signature.
    pub fn sign(&self, text: &[u8], trusted_comment: &str) -> Result<SignatureBlock, SigningError> {
        let program = self.program.display().to_string();
        self.run(text, trusted_comment).map_err(|fault| SigningError::Command { program, fault })
    }

    fn run(&self, text: &[u8], trusted_comment: &str) -> Result<SignatureBlock, CommandFault> {
        let mut environment = environment::of_sign_command();
        environment.push((COMMENT.into(), trusted_comment.into()));
        // Relative paths in the command refer to the directory of this process.
        let directory = File::open(".").map_err(ProcessError::from)?;
        let call = ProcessCall {
            program: &self.program,
            arguments: &self.arguments,
            environment: &environment,
            working_dir: Some(directory.as_fd()),
            input: text,
            deadline: Some(Instant::now() + TIME_LIMIT),
            max_file_size: None,
            write_access: WriteAccess::Everywhere,
        };

        let mut lines: Vec<Vec<u8>> = Vec::new();
        let result = process::run(&call, &mut |output| match output {
            ProcessOutput::Line(line) => {
                lines.push(line.to_vec());
                if lines.len() > LINES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            ProcessOutput::ErrorLine(_) | ProcessOutput::Tick => ControlFlow::Continue(()),
        });
        let outcome = match result {
            Err(ProcessError::Cancelled) => return Err(CommandFault::Surplus),
            result => result?,
        };
        if !outcome.status.success() {
            let message = outcome.stderr_excerpt.trim().chars().take(MAX_MESSAGE).collect();
            return Err(CommandFault::Status { status: outcome.status, message });
        }

        let block: Vec<u8> =
            lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        self.check(text, &block).map_err(CommandFault::Output)
    }

    /// Parses the output, and verifies it by the expected key.
    fn check(&self, text: &[u8], output: &[u8]) -> Result<SignatureBlock, SignatureError> {
        let block = SignatureBlock::parse(output)?;
        let Some(key) = self.key else { return Ok(block) };

        let mut keys = KeySet::new();
        keys.insert(Role::Publish, key);
        let file = SignedText::join(text, std::slice::from_ref(&block))?;
        SignedText::split(&file)?.verify(&keys, Role::Publish)?;
        Ok(block)
    }
}
