//! Each host begins at a time of its own, so that a server is not asked by all of them at once.

use std::path::Path;
use std::time::Duration;

use crate::apply::Untouched;
use crate::cli::signals;
use crate::digest::Digest;
use crate::report::Monitor;
use crate::root::Root;
use crate::update::{self, UpdateError};

/// Waits for this host's time within `most` seconds, or until the run is asked to stop.
pub fn wait(root: &Path, most: u32, monitor: &dyn Monitor) -> Result<(), UpdateError> {
    if most == 0 {
        return Ok(());
    }
    let root = Root::open(root).map_err(Untouched::from)?;
    let host = update::host_name(&root).map_err(Untouched::from)?.unwrap_or_default();
    let seconds = share(&host, most);
    monitor.note(format!(
        "beginning in {seconds} seconds, this host's share of the {most} that are given"
    ));
    if signals::sleep(Duration::from_secs(seconds.into())) {
        Ok(())
    } else {
        Err(UpdateError::Stopped)
    }
}

/// Below `most`: the same at every run, another on another host.
fn share(host: &str, most: u32) -> u32 {
    let digest = Digest::of(host.as_bytes()).0;
    let number = digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
    (number % u64::from(most)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_spread_and_each_keeps_its_time() {
        let shares: Vec<u32> =
            (0..1000).map(|number| share(&format!("node{number:03}"), 3600)).collect();
        assert_eq!(share("node007", 3600), shares[7]);
        for quarter in 0..4 {
            let count = shares.iter().filter(|share| **share / 900 == quarter).count();
            assert!((200..300).contains(&count), "{count} of 1000 in quarter {quarter}");
        }
        assert_eq!(share("anything", 1), 0);
        // SHA-256 begins with 2cf24dba5fb0a30e
        assert_eq!(share("hello", 1000), (0x2cf2_4dba_5fb0_a30e_u64 % 1000) as u32);
    }
}
