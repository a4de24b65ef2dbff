//! `tardiff.toml`: the publisher's defaults for all images.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::args::{EffortArgs, KeyArgs};
use super::error::CommandError;
use super::passphrase;
use crate::delta::{Effort, RebuildLimit};
use crate::host::{MAX_FILE, named_file};
use crate::printable::one_line;
use crate::publish::{RepositoryMode, Signing, Validity};
use crate::signing::{SignCommand, Signer, read_public_key};
use crate::tardiff::prune::PRUNE_GRACE;

/// Path of the file, unless the command line names another.
pub const PATH: &str = "/etc/systemimager/tardiff.toml";

/// Content of the file; `etc/tardiff.toml` explains each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TardiffConfig {
    /// Effort for diffs.
    #[serde(deserialize_with = "word")]
    pub effort: Option<Effort>,
    /// Seconds that a diff may cost a node for rebuilding compressed files.
    pub rebuild_seconds: Option<u64>,
    /// Bytes that each of these seconds has to save.
    pub rebuild_gain: Option<u64>,
    /// Readers of the repository; `None` for those of the present head.
    #[serde(deserialize_with = "word")]
    pub repository_mode: Option<RepositoryMode>,
    /// Seconds for which a file remains after the last head that named it.
    pub prune_grace: Option<u64>,
    /// Secret key that signs catalogs.
    pub sign_key: Option<PathBuf>,
    /// Program that signs catalogs.
    pub sign_command: Option<String>,
    /// Public key of that program.
    pub sign_public: Option<PathBuf>,
    /// Secret key that signs heads.
    pub head_key: Option<PathBuf>,
    /// Public keys whose signature of the present head and catalog is accepted as well.
    pub trusted_keys: Vec<PathBuf>,
    /// Validity of heads.
    #[serde(deserialize_with = "word")]
    pub expires: Option<Validity>,
}

/// Effort settings of command line, file and defaults.
#[derive(Clone, Copy, Debug)]
pub struct EffortSettings {
    pub effort: Effort,
    /// Limits of recompression.
    pub rebuild_limit: RebuildLimit,
}

impl TardiffConfig {
    /// Reads the file that is named, which has to exist, or the default file, if it exists.
    pub fn load(named: Option<&PathBuf>) -> Result<Self, CommandError> {
        let path = named.map_or(Path::new(PATH), PathBuf::as_path);
        let text = named_file::read(path, MAX_FILE).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))
        });
        let text = match text {
            Err(e) if e.kind() == ErrorKind::NotFound && named.is_none() => {
                return Ok(TardiffConfig::default());
            }
            result => result
                .map_err(|source| CommandError::Unreadable { path: path.to_owned(), source })?,
        };

        toml::from_str(&text).map_err(|error| CommandError::BadConfig {
            path: path.to_owned(),
            line: error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1),
            reason: one_line(error.message()).into_owned(),
        })
    }

    /// Reads the keys that are named here or on the command line.
    pub fn signing(&self, typed: &KeyArgs) -> anyhow::Result<Signing> {
        // A typed key replaces a configured command, and the reverse.
        let is_typed = typed.sign_key.is_some() || typed.sign_command.is_some();
        let (key, command, public) = if is_typed {
            (&typed.sign_key, &typed.sign_command, &typed.sign_public)
        } else {
            let public = typed.sign_public.as_ref().or(self.sign_public.as_ref());
            (&self.sign_key, &self.sign_command, &public.cloned())
        };
        let publish = match (key, command) {
            (Some(path), _) => Some(Signer::Key(passphrase::unlock(path)?)),
            (None, Some(command)) => {
                let public = public.as_deref().map(read_public_key).transpose()?;
                Some(Signer::Command(SignCommand::new(command, public)?))
            }
            (None, None) => None,
        };
        let head = typed.head_key.as_ref().or(self.head_key.as_ref());
        let head = head.map(|path| passphrase::unlock(path)).transpose()?.map(Signer::Key);
        let validity = self.validity(typed);
        let trusted = self.trusted_keys.iter().chain(&typed.trusted_key);
        let trusted = trusted.map(|path| read_public_key(path)).collect::<Result<_, _>>()?;
        Ok(Signing { publish, head, validity, trusted, image_keys: None })
    }

    /// Validity of heads.
    pub fn validity(&self, typed: &KeyArgs) -> Validity {
        typed.expires.or(self.expires).unwrap_or_default()
    }

    /// Time for which files of replaced heads remain.
    pub fn prune_grace(&self, typed: Option<u64>) -> Duration {
        typed.or(self.prune_grace).map_or(PRUNE_GRACE, Duration::from_secs)
    }

    /// Combines the command line, this file, and the defaults of the effort.
    pub fn resolve(&self, typed: &EffortArgs) -> EffortSettings {
        let effort = typed.effort.or(self.effort).unwrap_or_default();
        let default = effort.rebuild_limit();
        let given = typed.rebuild_seconds.or(self.rebuild_seconds);
        let seconds = given.unwrap_or(default.seconds);
        let seconds_of_file = given.unwrap_or(default.seconds_of_file);
        let gain = typed.rebuild_gain.or(self.rebuild_gain).unwrap_or(default.gain);
        EffortSettings { effort, rebuild_limit: RebuildLimit { seconds, gain, seconds_of_file } }
    }
}

/// Parses a word of a setting.
fn word<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let word = String::deserialize(from)?;
    T::from_str(&word).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, typed: EffortArgs) -> (Effort, u64, u64) {
        let config: TardiffConfig = toml::from_str(text).expect("a valid file");
        let EffortSettings { effort, rebuild_limit } = config.resolve(&typed);
        (effort, rebuild_limit.seconds, rebuild_limit.gain)
    }

    #[test]
    fn command_line_precedes_file_and_effort() {
        let file = "effort = 'best'\nrebuild_seconds = 5\n";
        let typed =
            EffortArgs { effort: Some(Effort::Fast), rebuild_gain: Some(7), ..Default::default() };

        assert_eq!(resolved("", EffortArgs::default()), (Effort::Normal, 45, 1_000_000));
        assert_eq!(resolved(file, EffortArgs::default()), (Effort::Best, 5, 1_000_000));
        assert_eq!(resolved(file, typed), (Effort::Fast, 5, 7));
        assert!(toml::from_str::<TardiffConfig>("effort = 'better'").is_err());
        assert!(toml::from_str::<TardiffConfig>("efort = 'best'").is_err());
    }

    #[test]
    fn invalid_file_is_reported_with_line_and_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tardiff.toml");

        for (text, words) in [
            ("# mine\nrebuild_secnds = 3\n", ["line 2", "rebuild_secnds"]),
            ("effort = 'bset'\n", ["line 1", "neither fast, normal nor best"]),
            ("repository_mode = '0755'", ["line 1", "neither open, group nor private"]),
        ] {
            std::fs::write(&file, text).expect("writes");
            let error = TardiffConfig::load(Some(&file)).expect_err("is refused").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }

        let absent = dir.path().join("absent");
        let error = TardiffConfig::load(Some(&absent)).expect_err("does not exist").to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn shipped_file_shows_defaults() {
        let shipped = include_str!("../../../etc/tardiff.toml");
        let shown: String = shipped
            .lines()
            .filter_map(|l| l.strip_prefix('#').filter(|l| l.contains(" = ")))
            .map(|l| format!("{l}\n"))
            .collect();

        let read: TardiffConfig = toml::from_str(shipped).expect("a valid file");
        let shown: TardiffConfig = toml::from_str(&shown).expect("valid settings");

        assert_eq!(read, TardiffConfig::default());
        assert_eq!(shown.repository_mode, Some(RepositoryMode::Open));
        assert_eq!(shown.prune_grace(None), TardiffConfig::default().prune_grace(None));
        let default = TardiffConfig::default().resolve(&EffortArgs::default());
        assert_eq!(
            (shown.effort, shown.rebuild_seconds, shown.rebuild_gain),
            (
                Some(default.effort),
                Some(default.rebuild_limit.seconds),
                Some(default.rebuild_limit.gain)
            )
        );
    }
}
