//! The command line of `si_tardiff`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::delta::Effort;
use crate::image::{ImageName, Layer};
use crate::publish::Validity;

/// Builds, publishes and verifies image diffs.
///
/// A generation is one immutable state of an image. `publish` writes a new generation into the
/// repository, with the diffs that lead to it. Nodes download them from any web server that serves
/// the repository.
#[derive(Debug, Parser)]
#[command(
    name = "si_tardiff",
    version,
    infer_long_args = true,
    infer_subcommands = false,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub struct TardiffArgs {
    /// Print only warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: TardiffCommand,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or there was nothing to do
  1  failed, perhaps on some of several images only, or `verify` found a fault
  2  invalid command line";

/// Subcommands; the names of the variants are their names.
#[derive(Debug, Subcommand)]
pub enum TardiffCommand {
    /// Build one diff from a base to the tree of an image
    Build(BuildArgs),
    /// Publish an image, an override or a cluster.txt, if it has changed
    Publish(PublishArgs),
    /// Show the content of an archive or a generation, largest files first
    Show(ShowArgs),
    /// Write a manifest for `mtree -f`, which checks a node without this program
    Manifest(ManifestArgs),
    /// Print the proof digest of a node that has a generation, as its --verify prints it
    Proof(ProofArgs),
    /// List generations and archives of a repository
    List(OptionalLayerArgs),
    /// Verify a repository: each size, digest, content and chain
    Verify(VerifyArgs),
    /// Remove old generations, and the archives that only they need
    Prune(PruneArgs),
    /// Serve a repository over HTTP, for small sites, demonstrations and tests
    Serve(ServeArgs),
    /// Make a key for signatures, in the format of minisign
    Keygen(KeygenArgs),
    /// Sign a repository that was published without a key, or with another one
    Sign(SignArgs),
    /// Issue heads again before they expire; for a timer
    Refresh(RefreshArgs),
}

/// A repository.
#[derive(Debug, Args)]
pub struct RepoArgs {
    /// Directory of the repository
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/repository")]
    pub repo: PathBuf,
}

/// An image, an override or the cluster.txt of a repository.
#[derive(Debug, Args)]
#[group(id = "one", required = true, multiple = false)]
pub struct LayerArgs {
    /// Name of the image
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Name of the override, a small tree that nodes copy over an image
    #[arg(long, value_name = "NAME")]
    r#override: Option<ImageName>,
    /// The published cluster.txt
    #[arg(long)]
    cluster: bool,
}

impl LayerArgs {
    /// The layer; `None` only for a command line that clap refuses.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override).or(self.cluster.then_some(Layer::Cluster))
    }
}

/// A tree or a file to be published.
#[derive(Debug, Args)]
#[group(id = "one", required = true, multiple = false)]
pub struct InputArgs {
    /// Name of the image
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Name of the override, a small tree that nodes copy over an image
    #[arg(long, value_name = "NAME")]
    r#override: Option<ImageName>,
    /// File that assigns image and overrides to each host, as si_clusterconfig writes it
    ///
    /// Nodes that require signatures use it in place of the file of the rsync daemon.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["keep", "label", "plain", "read_all"]
    )]
    pub cluster: Option<PathBuf>,
}

impl InputArgs {
    /// The image or override, if one is named.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override)
    }
}

/// One layer of a repository, or all of them.
#[derive(Debug, Args)]
pub struct OptionalLayerArgs {
    /// Only this image
    #[arg(long, value_name = "NAME", conflicts_with = "override")]
    image: Option<ImageName>,
    /// Only this override
    #[arg(long, value_name = "NAME")]
    r#override: Option<ImageName>,
    /// Only the published cluster.txt
    #[arg(long, conflicts_with_all = ["image", "override"])]
    cluster: bool,
    #[command(flatten)]
    pub repo: RepoArgs,
}

impl OptionalLayerArgs {
    /// The layer, if one is named.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override).or(self.cluster.then_some(Layer::Cluster))
    }
}

fn layer(image: &Option<ImageName>, override_name: &Option<ImageName>) -> Option<Layer> {
    image.clone().map(Layer::Image).or(override_name.clone().map(Layer::Override))
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub which: OptionalLayerArgs,
    /// Public key that has to have signed head and catalog; of several keys any one
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Directory of keys as nodes have it: *.pub, head/*.pub, revoked/*.pub
    #[arg(long, value_name = "DIR")]
    pub key_dir: Option<PathBuf>,
}

/// Arguments of `build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Base of the diff: a directory, an image.tar (.gz, .bz2, .xz, .zst), or a manifest (.mtree, .mtree.zst)
    pub base: PathBuf,
    /// Tree that the diff produces
    pub image_dir: PathBuf,
    /// File to write: NAME.tar.zst or NAME.tar.gz
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Name of the image in the diff [default: the name of the directory]
    #[arg(long, value_name = "NAME")]
    pub image: Option<ImageName>,
    /// Store changed files as deltas if that is smaller; BASE has to be a directory
    ///
    /// Plain tar cannot unpack such a diff.
    #[arg(long)]
    pub deltas: bool,
    #[command(flatten)]
    pub work: EffortArgs,
}

/// Effort for a diff, and its cost on a node.
#[derive(Clone, Debug, Default, Args)]
pub struct EffortArgs {
    /// Effort for deltas and compression: fast, normal or best [default: normal]
    ///
    /// With fast, old files for a delta are found by their names only, not by their content.
    #[arg(long, value_name = "EFFORT")]
    pub effort: Option<Effort>,
    /// Seconds of processor time that a diff may cost a node for rebuilding compressed files
    /// [default: 0 with fast, 45 with normal, 90 with best]
    #[arg(long, value_name = "SECONDS")]
    pub rebuild_seconds: Option<u64>,
    /// Bytes that each of these seconds has to save [default: 1000000]
    #[arg(long, value_name = "BYTES")]
    pub rebuild_gain: Option<u64>,
    /// Compression level: 1 to 19 for zstd, 1 to 9 for gzip [default: by the effort]
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<i32>,
    /// Configuration file [default: /etc/systemimager/tardiff.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Directory of the image trees: DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/images")]
    pub images_dir: PathBuf,
    /// Directory of the override trees: DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "/var/lib/systemimager/overrides")]
    pub overrides_dir: PathBuf,
    /// Number of generations to keep; older ones are pruned [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// Label of this publish, for people
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Number of earlier generations from which diffs are built
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub diffs: u32,
    /// Size of all diffs since the last full archive, relative to it, that needs a new one
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub full_share: u64,
    /// Compression of archives
    #[arg(long, value_enum, default_value_t = CompressionArg::Zstd)]
    pub compression: CompressionArg,
    #[command(flatten)]
    pub work: EffortArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Serial of this publish, larger than the present one by at most 100,000
    ///
    /// For a server that was restored from a backup: nodes refuse serials below those that they have
    /// seen, and larger steps. An unchanged image is published again under the new serial.
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// Build diffs without deltas, so that plain tar can unpack them
    #[arg(long)]
    pub plain: bool,
    /// Read every file, even if it looks unchanged since the last scan
    #[arg(long)]
    pub read_all: bool,
}

/// Compression of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// .tar.zst
    Zstd,
    /// .tar.gz, for nodes without zstd
    Gzip,
}

/// The subject of `show`, if it is a file.
#[derive(Debug, Args)]
pub struct StoredFileArg {
    /// An archive or a manifest
    #[arg(group = "subject")]
    pub file: Option<PathBuf>,
}

/// The subject of `manifest`, if it is a file or a directory.
#[derive(Debug, Args)]
pub struct FileOrTreeArg {
    /// An archive, a manifest, or the tree of an image
    #[arg(group = "subject")]
    pub file: Option<PathBuf>,
}

/// The subject, if it is a generation of a repository.
#[derive(Debug, Args)]
#[group(id = "subject", required = true)]
pub struct SubjectArgs {
    /// A generation of this image
    #[arg(long, value_name = "NAME", group = "subject")]
    image: Option<ImageName>,
    /// A generation of this override
    #[arg(long, value_name = "NAME", group = "subject")]
    r#override: Option<ImageName>,
}

impl SubjectArgs {
    /// The layer, if the subject is a generation of a repository.
    pub fn layer(&self) -> Option<Layer> {
        layer(&self.image, &self.r#override)
    }
}

/// The choice of a generation of a repository.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Serial, or beginning of the id, of the generation [default: the newest]
    #[arg(long, value_name = "GENERATION", conflicts_with = "file")]
    pub generation: Option<String>,
    #[command(flatten)]
    pub repo: RepoArgs,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub stored: StoredFileArg,
    #[command(flatten)]
    pub which: GenerationArgs,
    /// Show only the N largest; totals include all
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
}

/// Arguments of `manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    #[command(flatten)]
    pub tree: FileOrTreeArg,
    #[command(flatten)]
    pub which: GenerationArgs,
    /// Write the canonical form, with extended attributes and hard links
    ///
    /// Its SHA-256 is the id of the generation.
    #[arg(long)]
    pub canonical: bool,
}

/// Arguments of `proof`.
#[derive(Debug, Args)]
pub struct ProofArgs {
    /// Name of the image
    #[arg(long, value_name = "NAME")]
    pub image: ImageName,
    /// Override that the node has, in its order; with =GENERATION an older one than the newest
    #[arg(long, value_name = "NAME[=GENERATION]")]
    pub r#override: Vec<String>,
    /// Serial, or beginning of the id, of the generation [default: the newest]
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// Exclude file of the node [default: nothing is excluded]
    #[arg(long, value_name = "FILE", conflicts_with = "default_excludes")]
    pub exclude_file: Option<PathBuf>,
    /// Exclude by the built-in rules, as a node without a file does
    #[arg(long)]
    pub default_excludes: bool,
    #[command(flatten)]
    pub repo: RepoArgs,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub layer: LayerArgs,
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Number of generations to keep
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
    /// Seconds for which a file remains after the last head that named it [default: 86400]
    ///
    /// A node that has fetched that head may still ask for the file.
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u64>,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Configuration file [default: /etc/systemimager/tardiff.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Keys for signatures, and the validity of heads.
#[derive(Clone, Debug, Default, Args)]
pub struct KeyArgs {
    /// Secret key that signs the catalog, and the head unless --head-key names another
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Program that signs instead: it reads the text on standard input and prints the signature
    ///
    /// The command is divided at spaces; no shell is involved. It is run once for the catalog, and
    /// once for the head unless --head-key is given.
    #[arg(long, value_name = "COMMAND", conflicts_with = "sign_key")]
    pub sign_command: Option<String>,
    /// Public key of that program, by which its output is verified before it is published
    #[arg(long, value_name = "FILE", conflicts_with = "sign_key")]
    pub sign_public: Option<PathBuf>,
    /// Secret key that signs the head
    #[arg(long, value_name = "FILE")]
    pub head_key: Option<PathBuf>,
    /// Public key whose signature of the present head and catalog is accepted as well
    ///
    /// A command that writes a new catalog or head from the present ones verifies them first, by the
    /// keys with which it signs, and by these. May be given several times.
    #[arg(long, value_name = "FILE")]
    pub trusted_key: Vec<PathBuf>,
    /// End of the head's validity: a time, a duration such as 7d, or never [default: as long as the
    /// head before; the first one never ends]
    ///
    /// Nodes refuse heads that are valid for more than 30 days, unless their max_head_age is larger.
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Validity>,
}

/// Arguments of `sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    #[command(flatten)]
    pub layer: LayerArgs,
    #[command(flatten)]
    pub repo: RepoArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Configuration file [default: /etc/systemimager/tardiff.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `refresh`.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    #[command(flatten)]
    pub which: OptionalLayerArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Configuration file [default: /etc/systemimager/tardiff.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub repo: RepoArgs,
    /// Address and port to listen on; port 0 chooses a free port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8750")]
    pub listen: SocketAddr,
}

/// Arguments of `keygen`.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// Name of the key: writes NAME.key, which is secret, and NAME.pub for the nodes
    ///
    /// A file that exists is never replaced.
    #[arg(long, value_name = "NAME")]
    pub out: PathBuf,
    /// Do not encrypt the secret key: everyone who can read the file can use it
    ///
    /// Without this option the passphrase is asked for on the terminal, or read from the first line
    /// of standard input if that is none.
    #[arg(long)]
    pub no_passphrase: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_is_consistent() {
        super::TardiffArgs::command().debug_assert();
    }
}
