//! A start delay for each host, so that not all hosts contact the server at once.

use std::path::Path;
use std::time::Duration;

use crate::apply::Untouched;
use crate::cli::signals;
use crate::cli::updateclient::notice::ClientNotice;
use crate::digest::Digest;
use crate::report::Monitor;
use crate::root::Root;
use crate::update::{self, UpdateError};

/// Waits for the delay of this host, which is below `most` seconds. A cancellation ends the run.
pub fn wait(root: &Path, most: u32, monitor: &dyn Monitor) -> Result<(), UpdateError> {
    if most == 0 {
        return Ok(());
    }

    let root = Root::open(root).map_err(Untouched::from)?;
    let host = update::host_name(&root).map_err(Untouched::from)?.unwrap_or_default();
    let seconds = delay(&host, most);
    monitor.note(ClientNotice::Splay { seconds, most });

    if signals::sleep(Duration::from_secs(seconds.into())) {
        Ok(())
    } else {
        Err(UpdateError::Cancelled)
    }
}

/// Seconds below `most`, the same in every run of a host: the hash of its name.
fn delay(host: &str, most: u32) -> u32 {
    let digest = Digest::of(host.as_bytes()).0;
    let number = digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
    (number % u64::from(most)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_distributed_and_constant() {
        let delays: Vec<u32> =
            (0..1000).map(|number| delay(&format!("node{number:03}"), 3600)).collect();

        for quarter in 0..4 {
            let count = delays.iter().filter(|delay| **delay / 900 == quarter).count();
            assert!((200..300).contains(&count), "{count} of 1000 in quarter {quarter}");
        }
        assert_eq!(delay("node007", 3600), delays[7]);
        assert_eq!(delay("anything", 1), 0);
        // SHA-256 of "hello" begins with 2cf24dba5fb0a30e.
        assert_eq!(delay("hello", 1000), (0x2cf2_4dba_5fb0_a30e_u64 % 1000) as u32);
    }
}
