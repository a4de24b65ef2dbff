//! The overrides: those of the command line or `updateclient.toml`, then those of the old file.

use super::picker::{Picker, SettingOrigin};
use super::{CONFIG, read_below};
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::error::ArgumentError;
use crate::host::{self, Config};
use crate::image::ImageName;
use crate::root::Root;
use crate::update::UpdateError;

const FILE: &str = "etc/systemimager/overrides";

/// Returns all overrides in the order in which they are copied over the image.
pub(super) fn resolve(
    arguments: &Arguments,
    config: &Config,
    root: &Root,
    pick: &mut Picker,
) -> Result<Vec<ImageName>, UpdateError> {
    let typed = parse_arguments(arguments)?;
    let (named, origin) = if !typed.is_empty() {
        (typed, SettingOrigin::CommandLine)
    } else if !config.overrides.is_empty() {
        (config.overrides.clone(), SettingOrigin::File(CONFIG))
    } else {
        (Vec::new(), SettingOrigin::Default)
    };
    let listed = match read_below(root, FILE)? {
        Some(bytes) => host::parse_overrides_list(FILE, &bytes).map_err(ArgumentError::from)?,
        None => Vec::new(),
    };

    for (names, origin) in [(&named, origin), (&listed, SettingOrigin::File(FILE))] {
        let words: Vec<&str> = names.iter().map(ImageName::as_str).collect();
        if !words.is_empty() {
            pick.record("overrides", &words.join(" "), origin);
        }
    }
    if named.is_empty() && listed.is_empty() {
        let value = "(from the server's scripts/cluster.txt, unless an image is configured)";
        pick.record("overrides", &value, SettingOrigin::Default);
    }

    Ok(named.into_iter().chain(listed).collect())
}

fn parse_arguments(arguments: &Arguments) -> Result<Vec<ImageName>, ArgumentError> {
    arguments
        .r#override
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| name.parse())
        .collect::<Result<_, _>>()
        .map_err(|source| ArgumentError::Name { option: "--override", source })
}
