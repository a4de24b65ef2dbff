//! One content on its way to its receiver: it ends without an error only if its digest is right.

use std::io::{self, Read};
use std::sync::Arc;

use super::error::{ContentError, ContentFault, FrameError};
use crate::digest::{Digest, Hasher};

/// Receiver of a content, which is valid only if its reader reaches the end without an error.
///
/// After an error it may be called again for the same content, and has to discard the first bytes.
/// Several threads call it at once, each for another content.
pub type Sink<'f> = dyn Fn(&mut VerifyingReader<'_>) -> io::Result<()> + Sync + 'f;

/// Passes one content to `sink`; distinguishes a fault of the frame from a failure of the sink.
pub(super) fn pass_on(
    digest: Digest,
    size: u64,
    frame: &mut dyn Read,
    sink: &Sink<'_>,
) -> Result<(), FrameError> {
    let mut content = VerifyingReader {
        source: frame,
        remaining: size,
        hasher: Some(Hasher::new()),
        digest,
        fault: None,
    };

    match (sink(&mut content), content.fault.clone()) {
        (Ok(()), _) => {
            // A fault in bytes that the sink did not read: it has accepted a wrong content.
            let rest = io::copy(&mut content, &mut io::sink());
            match (rest, content.fault) {
                (Err(_), Some(fault)) => Err(sink_error(digest, fault.into())),
                _ => Ok(()),
            }
        }
        (Err(_), Some(fault)) => Err(fault.into()),
        (Err(error), None) => Err(sink_error(digest, error)),
    }
}

fn sink_error(digest: Digest, source: io::Error) -> FrameError {
    FrameError::Final(ContentError::Sink { digest, source })
}

/// Reader of a content that reports the end only if the digest is right.
pub struct VerifyingReader<'r> {
    source: &'r mut dyn Read,
    remaining: u64,
    /// `None` after the digest was checked.
    hasher: Option<Hasher>,
    digest: Digest,
    fault: Option<ContentFault>,
}

impl VerifyingReader<'_> {
    /// The digest that the content must have.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    fn fail(&mut self, fault: ContentFault) -> io::Error {
        self.fault = Some(fault.clone());
        fault.into()
    }
}

impl Read for VerifyingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone().into());
        }

        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            let is_wrong = self.remaining == 0
                && self.hasher.take().is_some_and(|hasher| hasher.finish() != self.digest);
            if is_wrong {
                return Err(self.fail(ContentFault::WrongDigest { digest: self.digest }));
            }
            return Ok(0);
        }

        match self.source.read(&mut buffer[..wanted]) {
            Ok(0) => Err(self.fail(ContentFault::Truncated)),
            Ok(count) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..count]);
                }
                self.remaining -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.fail(ContentFault::Read(Arc::new(error)))),
        }
    }
}
