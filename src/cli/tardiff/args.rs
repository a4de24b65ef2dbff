//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::delta::Effort;
use crate::image::{ImageName, Layer};

/// Builds, publishes and checks image diffs.
///
/// A generation is one state of an image. `publish` writes a new one into the repository, together with
/// the diffs that lead to it; nodes fetch them from any web server that serves the repository.
#[derive(Debug, Parser)]
#[command(name = "si_tardiff", version, infer_long_args = true, infer_subcommands = false, after_help = EXIT_CODES)]
pub struct Typed {
    /// Says only warnings and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: TardiffCommand,
}

const EXIT_CODES: &str = "Exit codes:
  0  done; also where there was nothing to do
  1  failed, or `verify` found a fault
  2  the command line is wrong";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum TardiffCommand {
    /// Builds one diff from a base to an image's tree.
    Build(Build),
    /// Publishes an image or an override: a new generation, if it has changed.
    Publish(PublishArgs),
    /// Shows what an archive or a generation holds, the largest first.
    Show(Show),
    /// Writes a manifest for `mtree -f`: a node can be checked without our tools.
    Manifest(ManifestArgs),
    /// Lists generations and archives of a repository.
    List(Any),
    /// Checks a repository: every size, digest, content and chain.
    Verify(Any),
    /// Removes old generations and the archives that only they need.
    Prune(Prune),
    /// Serves a repository over HTTP: for small sites, demonstrations and tests.
    Serve(Serve),
}

/// Where the repository is.
#[derive(Debug, Args)]
pub struct Repo {
    /// The repository.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/repository")]
    pub repo: PathBuf,
}

/// An image or an override of a repository.
#[derive(Debug, Args)]
#[group(id = "one", required = true, multiple = false)]
pub struct One {
    /// The image.
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// The override: a small tree that nodes lay over an image.
    #[arg(long, value_name = "NAME")]
    r#override: Option<ImageName>,
}

/// An image or an override of a repository, or all that it has.
#[derive(Debug, Args)]
pub struct Any {
    /// Only this image.
    #[arg(long, value_name = "NAME", conflicts_with = "override")]
    image: Option<ImageName>,
    /// Only this override.
    #[arg(long, value_name = "NAME")]
    r#override: Option<ImageName>,
    /// The repository.
    #[command(flatten)]
    pub repo: Repo,
}

impl One {
    /// Which; clap sees to it that one is named.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override)
    }
}

impl Any {
    /// Which, if one is named.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override)
    }
}

fn layer(image: &Option<ImageName>, overlaid: &Option<ImageName>) -> Option<Layer> {
    image.clone().map(Layer::Image).or(overlaid.clone().map(Layer::Override))
}

/// Builds one diff.
#[derive(Debug, Args)]
pub struct Build {
    /// What the diff applies to: a directory, an image.tar (.gz, .zst), or a manifest (.mtree, .mtree.zst).
    pub base: PathBuf,
    /// The tree that the diff leads to.
    pub image_dir: PathBuf,
    /// The diff: NAME.tar.zst or NAME.tar.gz.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// The image's name in the diff; the directory's name by default.
    #[arg(long, value_name = "NAME")]
    pub image: Option<ImageName>,
    /// Sends changed files as deltas where that is smaller; plain tar cannot unpack them. BASE must be a directory.
    #[arg(long)]
    pub deltas: bool,
    /// How much work goes into it.
    #[command(flatten)]
    pub work: Work,
}

/// How much work goes into a diff, and what it may cost a node.
#[derive(Clone, Debug, Default, Args)]
pub struct Work {
    /// How much work goes into deltas and compression: fast, normal or best; with fast a new file finds an old
    /// one by its name alone, never by its content [default: normal].
    #[arg(long, value_name = "EFFORT")]
    pub effort: Option<Effort>,
    /// Seconds of processor time that a diff may cost a node for compressed files that are sent as what is
    /// inside them [default: 0 with fast, 1 with normal, 60 with best].
    #[arg(long, value_name = "N")]
    pub rebuild_seconds: Option<u64>,
    /// Bytes that each of these seconds has to save [default: 1000000].
    #[arg(long, value_name = "BYTES")]
    pub rebuild_gain: Option<u64>,
    /// Level of the compression, if not that of the effort: 1 to 19 for zstd, 1 to 9 for gzip.
    #[arg(long, value_name = "N")]
    pub level: Option<i32>,
    /// What is decided for all images [default: /etc/systemimager/tardiff.toml, where that is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Publishes an image or an override.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// What is published.
    #[command(flatten)]
    pub one: One,
    /// Where.
    #[command(flatten)]
    pub repo: Repo,
    /// Where image trees are: DIR/NAME.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/images")]
    pub images_dir: PathBuf,
    /// Where the trees of overrides are: DIR/NAME.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/overrides")]
    pub overrides_dir: PathBuf,
    /// Keeps so many generations and prunes older ones; all without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// A word about this generation.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Makes diffs from so many of the last generations.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub diffs: u32,
    /// Writes the whole image again when the diffs since have grown past this share of it.
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub full_share: u64,
    /// How archives are compressed.
    #[arg(long, value_enum, default_value_t = CompressionArg::Zstd)]
    pub compression: CompressionArg,
    /// How much work goes into it.
    #[command(flatten)]
    pub work: Work,
    /// Makes diffs without deltas, which plain tar can unpack.
    #[arg(long)]
    pub plain: bool,
    /// Reads every file, also those that look as they did at the last scan.
    #[arg(long)]
    pub read_all: bool,
}

/// How archives are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// .tar.zst
    Zstd,
    /// .tar.gz, for nodes that have nothing else
    Gzip,
}

/// What to show, or to export: a file, a directory, or a generation of a repository.
#[derive(Debug, Args)]
#[group(id = "subject", required = true)]
pub struct Subject {
    /// An archive or a manifest; for `manifest` also an image's tree.
    #[arg(group = "subject")]
    pub file: Option<PathBuf>,
    /// A generation of this image.
    #[arg(long, value_name = "NAME", group = "subject")]
    image: Option<ImageName>,
    /// A generation of this override.
    #[arg(long, value_name = "NAME", group = "subject")]
    r#override: Option<ImageName>,
}

impl Subject {
    /// Whose generation, if it is one of a repository.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override)
    }
}

/// Which generation of an image or an override.
#[derive(Debug, Args)]
pub struct Which {
    /// What it is about.
    #[command(flatten)]
    pub subject: Subject,
    /// Which generation: a serial, or the beginning of an id; the newest by default.
    #[arg(long, value_name = "WHICH", conflicts_with = "file")]
    pub generation: Option<String>,
    /// Where it is published.
    #[command(flatten)]
    pub repo: Repo,
}

/// Shows contents.
#[derive(Debug, Args)]
pub struct Show {
    /// Of what.
    #[command(flatten)]
    pub which: Which,
    /// Shows only the largest N; totals are of all.
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
}

/// Exports a manifest.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Of what.
    #[command(flatten)]
    pub which: Which,
    /// Writes the canonical form instead, with extended attributes and hardlinks; its SHA-256 is the
    /// generation's id.
    #[arg(long)]
    pub canonical: bool,
}

/// Prunes a repository.
#[derive(Debug, Args)]
pub struct Prune {
    /// Of what.
    #[command(flatten)]
    pub one: One,
    /// Where it is published.
    #[command(flatten)]
    pub repo: Repo,
    /// Keeps so many generations.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
}

/// Serves a repository.
#[derive(Debug, Args)]
pub struct Serve {
    /// The repository.
    #[command(flatten)]
    pub repo: Repo,
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8750")]
    pub listen: SocketAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Typed::command().debug_assert();
    }
}
