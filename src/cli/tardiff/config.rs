//! `tardiff.toml`: what the publisher decided once for all images.

#![allow(clippy::disallowed_methods, reason = "the publisher's own file, no target tree")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::anyhow;
use serde::{Deserialize, Deserializer};

use super::args::Work;
use crate::delta::{Effort, RebuildLimit};

/// Where the file is, unless the command line says otherwise.
pub const PLACE: &str = "/etc/systemimager/tardiff.toml";

/// What the file says; `etc/tardiff.toml` explains each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TardiffConfig {
    /// How much work goes into diffs.
    #[serde(deserialize_with = "effort")]
    pub effort: Option<Effort>,
    /// Seconds that a diff may cost a node for rebuilding compressed files.
    pub rebuild_seconds: Option<u64>,
    /// Bytes that each of these seconds has to save.
    pub rebuild_gain: Option<u64>,
}

/// What the command line and the file come to.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// How much work goes into diffs.
    pub effort: Effort,
    /// When compressed files are taken apart.
    pub rebuild_limit: RebuildLimit,
}

impl TardiffConfig {
    /// Reads `typed`, which has to be there, or the file at its usual place, which need not.
    pub fn load(typed: Option<&PathBuf>) -> anyhow::Result<Self> {
        let path = typed.map_or(Path::new(PLACE), PathBuf::as_path);
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == ErrorKind::NotFound && typed.is_none() => {
                return Ok(TardiffConfig::default());
            }
            answer => answer.map_err(|e| anyhow!("cannot read {}: {e}", path.display()))?,
        };
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            anyhow!("{}, line {line}: {}", path.display(), error.message())
        })
    }

    /// The command line first, then the file, then what goes with the effort.
    pub fn settle(&self, typed: &Work) -> Settled {
        let effort = typed.effort.or(self.effort).unwrap_or_default();
        let usual = effort.rebuild_limit();
        let seconds = typed.rebuild_seconds.or(self.rebuild_seconds).unwrap_or(usual.seconds);
        let gain = typed.rebuild_gain.or(self.rebuild_gain).unwrap_or(usual.gain);
        Settled { effort, rebuild_limit: RebuildLimit { seconds, gain } }
    }
}

fn effort<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Effort>, D::Error> {
    let word = String::deserialize(from)?;
    Effort::from_str(&word).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(text: &str, typed: Work) -> (Effort, u64, u64) {
        let config: TardiffConfig = toml::from_str(text).expect("good");
        let Settled { effort, rebuild_limit } = config.settle(&typed);
        (effort, rebuild_limit.seconds, rebuild_limit.gain)
    }

    #[test]
    fn the_command_line_counts_before_the_file_before_the_effort() {
        assert_eq!(settled("", Work::default()), (Effort::Normal, 1, 1_000_000));
        let file = "effort = 'best'\nrebuild_seconds = 5\n";
        assert_eq!(settled(file, Work::default()), (Effort::Best, 5, 1_000_000));
        let typed = Work { effort: Some(Effort::Fast), rebuild_gain: Some(7), ..Work::default() };
        assert_eq!(settled(file, typed), (Effort::Fast, 5, 7));
        assert!(toml::from_str::<TardiffConfig>("effort = 'better'").is_err());
        assert!(toml::from_str::<TardiffConfig>("efort = 'best'").is_err());
    }

    #[test]
    fn a_file_that_is_refused_is_told_with_its_line_and_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tardiff.toml");
        for (text, said) in [
            ("# mine\nrebuild_secnds = 3\n", ["line 2", "rebuild_secnds"]),
            ("effort = 'bset'\n", ["line 1", "neither fast, normal nor best"]),
        ] {
            std::fs::write(&file, text).expect("writes");
            let error = TardiffConfig::load(Some(&file)).expect_err("is refused").to_string();
            assert!(said.iter().all(|word| error.contains(word)), "{error}");
        }
        let error = TardiffConfig::load(Some(&dir.path().join("absent")))
            .expect_err("is not there")
            .to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn the_file_that_is_shipped_shows_the_defaults() {
        let shipped = include_str!("../../../etc/tardiff.toml");
        assert_eq!(
            toml::from_str::<TardiffConfig>(shipped).expect("good"),
            TardiffConfig::default()
        );
        let shown: String = shipped
            .lines()
            .filter_map(|l| l.strip_prefix('#').filter(|l| l.contains(" = ")))
            .map(|l| format!("{l}\n"))
            .collect();
        let shown: TardiffConfig = toml::from_str(&shown).expect("good");
        let Settled { effort, rebuild_limit } = TardiffConfig::default().settle(&Work::default());
        assert_eq!(
            (shown.effort, shown.rebuild_seconds, shown.rebuild_gain),
            (Some(effort), Some(rebuild_limit.seconds), Some(rebuild_limit.gain))
        );
    }
}
