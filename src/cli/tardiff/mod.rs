//! `si_tardiff`: from the command line to the jobs of the image server.

mod args;
mod config;
mod error;
mod output;
pub mod passphrase;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use self::args::{
    BuildArgs, CompressionArg, GenerationArgs, KeyArgs, KeygenArgs, OptionalLayerArgs, ProofArgs,
    PruneArgs, PublishArgs, RefreshArgs, ServeArgs, SignArgs, TardiffArgs, TardiffCommand,
    VerifyArgs,
};
use self::config::{EffortSettings, TardiffConfig};
use self::error::CommandError;
use super::console::{self, Output};
use super::terminal::{Terminal, Verbosity};
use crate::catalog::Head;
use crate::diff_archive::{FrameCompression, WriteOptions};
use crate::digest::Digest;
use crate::filter::Filter;
use crate::host::{DEFAULT_EXCLUDES, DEFAULT_MAX_HEAD_AGE, MAX_FILE, named_file};
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::process::{randomness, surroundings};
use crate::publish::{LockedStore, PublishError, PublishPolicy, Reuse, Signing, Store};
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{Cache, scan};
use crate::signature::{KeySet, Protection, Role};
use crate::signing::{self, KeyPaths};
use crate::tardiff::artifact::{self, Artifact};
use crate::tardiff::notice::TardiffNotice;
use crate::tardiff::show::Contents;
use crate::tardiff::{build, cluster, list, prune, publish, serve, sign, verify};

/// The command line as clap knows it: for help, man pages and completions.
pub fn command() -> clap::Command {
    TardiffArgs::command()
}

/// Runs the program with its arguments; the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    surroundings::normalize();
    if let Err(error) = randomness::check() {
        console::print_error_line(&format!("si_tardiff: {error}"));
        return ExitCode::FAILURE;
    }
    let arguments = match TardiffArgs::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return print_usage(&error),
    };

    let verbosity = if arguments.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let monitor = Terminal::new(verbosity);
    let out = Output::open();
    let result = (TardiffRun { verbosity, out, monitor: &monitor }).run(arguments.command);
    let error = match (result, console::take_failure()) {
        (Ok(Success::Sound), None) => return ExitCode::SUCCESS,
        (Ok(Success::Faults), None) => return ExitCode::FAILURE,
        (Ok(_), Some(error)) => CommandError::OutputOfComplete(error).into(),
        (Err(_), Some(error)) => CommandError::Output(error).into(),
        (Err(error), None) => error,
    };
    console::print_error_line(&format!("si_tardiff: {error}"));
    ExitCode::FAILURE
}

/// Prints the help, the version, or the mistake in the command line.
fn print_usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Err(failure) if !error.use_stderr() => {
            let failure = CommandError::Output(failure);
            console::print_error_line(&format!("si_tardiff: {failure}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

/// Result of a command that ran to its end.
enum Success {
    Sound,
    /// `verify` found faults, or a command failed on some of several layers.
    Faults,
}

/// A command with its output.
struct TardiffRun<'r> {
    verbosity: Verbosity,
    out: Output,
    monitor: &'r dyn Monitor,
}

impl TardiffRun<'_> {
    fn run(mut self, command: TardiffCommand) -> anyhow::Result<Success> {
        match command {
            TardiffCommand::Build(typed) => self.build(typed)?,
            TardiffCommand::Publish(typed) => match &typed.input.cluster {
                Some(file) => self.publish_cluster(file, &typed)?,
                None => self.publish(typed)?,
            },
            TardiffCommand::Show(typed) => {
                let contents = self.contents(typed.stored.file.as_deref(), &typed.which)?;
                output::print_contents(&contents, typed.top, &mut self.out)?;
            }
            TardiffCommand::Manifest(typed) => {
                let manifest = self.manifest(typed.tree.file.as_deref(), &typed.which)?;
                if typed.canonical {
                    manifest.write_to(self.out.raw())?;
                } else {
                    manifest.export_mtree(self.out.raw())?;
                }
            }
            TardiffCommand::Proof(typed) => {
                let proof = proof(&typed)?;
                writeln!(self.out, "{proof}")?;
            }
            TardiffCommand::List(typed) => {
                return self.list(&typed);
            }
            TardiffCommand::Verify(typed) => return self.verify(&typed),
            TardiffCommand::Prune(typed) => self.prune(&typed)?,
            TardiffCommand::Serve(typed) => return self.serve(&typed),
            TardiffCommand::Keygen(typed) => self.keygen(&typed)?,
            TardiffCommand::Sign(typed) => self.sign(&typed)?,
            TardiffCommand::Refresh(typed) => return self.refresh(&typed),
        }

        let _ = self.out.flush();
        Ok(Success::Sound)
    }

    fn build(&mut self, typed: BuildArgs) -> anyhow::Result<()> {
        let BuildArgs { base, image_dir, output, image, deltas, work } = typed;
        let EffortSettings { effort, rebuild_limit } =
            TardiffConfig::load(work.config.as_ref())?.resolve(&work);
        let shown = output.display().to_string();
        let level = work.level;
        let request = build::BuildRequest {
            base,
            image_dir,
            output,
            image,
            deltas,
            effort,
            rebuild_limit,
            level,
        };

        let built = build::build(&request, self.monitor)?;

        if !self.verbosity.is_quiet() {
            // The end of the program reports a failure of the output.
            let _ = output::print_build(&shown, &built, &mut self.out);
        }
        Ok(())
    }

    fn publish(&mut self, typed: PublishArgs) -> anyhow::Result<()> {
        let compression = match typed.compression {
            CompressionArg::Zstd => FrameCompression::Zstd,
            CompressionArg::Gzip => FrameCompression::Gzip,
        };
        let config = TardiffConfig::load(typed.work.config.as_ref())?;
        let EffortSettings { effort, rebuild_limit } = config.resolve(&typed.work);
        let policy = PublishPolicy {
            diffs: typed.diffs as usize,
            full_share: typed.full_share,
            deltas: !typed.plain,
            options: WriteOptions::new(compression, effort, typed.work.level),
            effort,
            rebuild_limit,
        };
        let layer = typed.input.layer().ok_or(CommandError::NoLayer)?;
        let trees = match layer {
            Layer::Override(_) => typed.overrides_dir,
            Layer::Image(_) | Layer::Cluster => typed.images_dir,
        };
        let request = publish::PublishRequest {
            tree: trees.join(layer.name().as_str()),
            layer,
            repo: typed.repo.repo,
            label: typed.label,
            policy,
            keep: typed.keep.map(|keep| keep as usize),
            prune_grace: config.prune_grace(None),
            repository_mode: config.repository_mode,
            serial: typed.serial,
            read_all: typed.read_all,
        };
        let signing = self.signing(&config, &typed.keys)?;

        let outcome = publish::publish(&request, signing, self.monitor)?;

        if !self.verbosity.is_quiet() {
            let _ = output::print_publish(&request.layer, &outcome, &mut self.out);
        }
        Ok(())
    }

    fn publish_cluster(&mut self, file: &Path, typed: &PublishArgs) -> anyhow::Result<()> {
        let config = TardiffConfig::load(typed.work.config.as_ref())?;
        let request = cluster::ClusterRequest {
            file: file.to_owned(),
            repo: typed.repo.repo.clone(),
            prune_grace: config.prune_grace(None),
            repository_mode: config.repository_mode,
            serial: typed.serial,
        };
        let signing = self.signing(&config, &typed.keys)?;

        let outcome = cluster::publish(&request, signing, self.monitor)?;

        if !self.verbosity.is_quiet() {
            let _ = output::print_cluster(&outcome, &mut self.out);
        }
        Ok(())
    }

    fn list(&mut self, typed: &OptionalLayerArgs) -> anyhow::Result<Success> {
        let mut success = Success::Sound;
        for (layer, published) in list::list(&typed.repo.repo, typed.layer().as_ref())? {
            match published {
                Ok(published) => output::print_published(&layer, &published, &mut self.out)?,
                Err(error) => success = print_fault(&layer, &error),
            }
        }
        let _ = self.out.flush();
        Ok(success)
    }

    fn verify(&mut self, typed: &VerifyArgs) -> anyhow::Result<Success> {
        let keys = read_keys(typed)?;
        let repo = &typed.which.repo.repo;
        let findings = match typed.which.layer() {
            Some(layer) => verify::verify(repo, &layer, keys.as_ref(), self.monitor)?,
            None => verify::verify_all(repo, keys.as_ref(), self.monitor)?,
        };

        if !self.verbosity.is_quiet() {
            for published in &findings.heads {
                output::print_signatures(published, &mut self.out)?;
            }
        }
        output::print_faults(&findings, &mut self.out)?;
        if !self.verbosity.is_quiet() {
            output::print_findings(&findings, &mut self.out)?;
        }
        self.out.flush()?;
        Ok(if findings.faults.is_empty() { Success::Sound } else { Success::Faults })
    }

    fn prune(&mut self, typed: &PruneArgs) -> anyhow::Result<()> {
        let layer = typed.layer.layer().ok_or(CommandError::NoLayer)?;
        // The lock creates the directory. A mistyped name must not create one.
        list::read(&typed.repo.repo, &layer)?;
        let config = TardiffConfig::load(typed.config.as_ref())?;
        let signing = self.signing(&config, &typed.keys)?;
        let locked = LockedStore::lock(Store::open(&typed.repo.repo, &layer), None)?;
        let locked = locked.with_signing(signing);

        let grace = config.prune_grace(typed.grace);
        let accepted = locked.accepted(Reuse::NextCatalog)?;
        let pruned = prune::prune(&locked, accepted, typed.keep as usize, grace, self.monitor)?;

        if !self.verbosity.is_quiet() {
            let _ = output::print_pruned(&pruned, &mut self.out);
        }
        Ok(())
    }

    fn serve(self, typed: &ServeArgs) -> anyhow::Result<Success> {
        serve::serve(&typed.repo.repo, typed.listen, |address| {
            console::print_line(&format!("listening on http://{address}/"));
        })?;
        Ok(Success::Sound)
    }

    fn sign(&mut self, typed: &SignArgs) -> anyhow::Result<()> {
        let layer = typed.layer.layer().ok_or(CommandError::NoLayer)?;
        list::read(&typed.repo.repo, &layer)?;
        let config = TardiffConfig::load(typed.config.as_ref())?;
        let signing = self.signing(&config, &typed.keys)?;
        if signing.publish.is_none() {
            return Err(CommandError::NoKey.into());
        }
        let locked = LockedStore::lock(Store::open(&typed.repo.repo, &layer), None)?;
        let locked = locked.with_signing(signing);

        let accepted = locked.accepted(Reuse::FirstSignature)?;
        publish::warn_of_new_keys(locked.signing(), accepted.published(), self.monitor);
        let head = sign::sign(&locked, &accepted)?;

        if !self.verbosity.is_quiet() {
            let _ = output::print_head("signed", &head, &mut self.out);
        }
        Ok(())
    }

    fn refresh(&mut self, typed: &RefreshArgs) -> anyhow::Result<Success> {
        let config = TardiffConfig::load(typed.config.as_ref())?;
        let repo = &typed.which.repo.repo;
        let layer = typed.which.layer();
        if let Some(layer) = &layer {
            list::read(repo, layer)?;
        }
        let layers = layer.map_or_else(|| list::layers(repo), |layer| Ok(vec![layer]))?;

        self.warn_of_validity(&config, &typed.keys);
        // The head of a damaged layer must not keep those of the others from being issued.
        let mut success = Success::Sound;
        for layer in layers {
            let signing = config.signing(&typed.keys)?;
            let refreshed = refresh_layer(repo, &layer, signing, self.monitor);
            match refreshed {
                Ok(_) if self.verbosity.is_quiet() => {}
                Ok(head) => drop(output::print_head("refreshed", &head, &mut self.out)),
                Err(error) => success = print_fault(&layer, &error),
            }
        }
        let _ = self.out.flush();
        Ok(success)
    }

    /// Reads the keys that sign; warns if nothing can verify their signatures.
    fn signing(&self, config: &TardiffConfig, typed: &KeyArgs) -> anyhow::Result<Signing> {
        let signing = config.signing(typed)?;
        if signing.is_unverified() {
            self.monitor.warn(TardiffNotice::SignaturesNotVerified);
        }
        self.warn_of_validity(config, typed);
        Ok(signing)
    }

    fn warn_of_validity(&self, config: &TardiffConfig, typed: &KeyArgs) {
        let limit = Duration::from_secs(DEFAULT_MAX_HEAD_AGE.into());
        if config.validity(typed).is_longer_than(limit) {
            let max_days = DEFAULT_MAX_HEAD_AGE / (24 * 60 * 60);
            self.monitor.warn(TardiffNotice::LongValidity { max_days });
        }
    }

    fn keygen(&mut self, typed: &KeygenArgs) -> anyhow::Result<()> {
        let paths = KeyPaths::new(&typed.out);
        // Before the question for a passphrase.
        paths.refuse_existing()?;
        let passphrase = if typed.no_passphrase { None } else { Some(passphrase::choose()?) };
        let protection = passphrase.as_ref().map_or(Protection::None, Protection::Passphrase);

        let key = signing::create_key_pair(&paths, protection)?;

        if !self.verbosity.is_quiet() {
            let _ = output::print_key(&paths, &key, &mut self.out);
        }
        Ok(())
    }

    fn contents(&self, file: Option<&Path>, which: &GenerationArgs) -> anyhow::Result<Contents> {
        if let Some(file) = file
            && let Artifact::Diff(listing) = artifact::read(file, self.monitor)?
        {
            return Ok(Contents::from_diff(&listing));
        }
        Ok(Contents::from_image(&self.manifest(file, which)?))
    }

    fn manifest(&self, file: Option<&Path>, which: &GenerationArgs) -> anyhow::Result<Manifest> {
        if let Some(file) = file {
            if let Ok(root) = Root::open(file) {
                return Ok(scan(&root, &Cache::default(), self.monitor)?.manifest().clone());
            }
            return match artifact::read(file, self.monitor)? {
                Artifact::Manifest(manifest) | Artifact::Export(manifest) => Ok(manifest),
                Artifact::Image(image) => Ok(image.manifest),
                Artifact::Diff(_) => {
                    Err(CommandError::DiffWithoutManifest { path: file.to_path_buf() }.into())
                }
            };
        }

        let layer = which.subject.layer().ok_or(CommandError::NoLayer)?;
        read_generation(&which.repo.repo, &layer, which.generation.as_deref())
    }
}

/// Reads the manifest of a generation; of the newest one without a `word` that names it.
fn read_generation(repo: &Path, layer: &Layer, word: Option<&str>) -> anyhow::Result<Manifest> {
    let store = Store::open(repo, layer);
    let catalog = store.catalog()?.ok_or_else(|| PublishError::NothingPublished(layer.clone()))?;
    let publish = match word {
        Some(word) => catalog.find_publish(word)?,
        None => catalog.head(),
    };
    Ok(store.manifest(publish)?)
}

/// Computes the proof digest of a node that has a generation without deviations.
fn proof(typed: &ProofArgs) -> anyhow::Result<Digest> {
    let repo = &typed.repo.repo;
    let image = Layer::Image(typed.image.clone());
    let mut composed = read_generation(repo, &image, typed.generation.as_deref())?;
    for word in &typed.r#override {
        let (name, generation) = match word.split_once('=') {
            Some((name, generation)) => (name, Some(generation)),
            None => (word.as_str(), None),
        };
        let layer = Layer::Override(name.parse()?);
        composed = composed.overlaid(&read_generation(repo, &layer, generation)?)?;
    }

    let (name, rules) = match &typed.exclude_file {
        Some(file) => {
            let read = named_file::read(file, MAX_FILE + 1);
            let rules = read.map_err(|source| {
                let path = file.clone();
                CommandError::Unreadable { path, source }
            })?;
            (file.display().to_string(), rules)
        }
        None if typed.default_excludes => {
            ("the built-in excludes".to_owned(), DEFAULT_EXCLUDES.into())
        }
        None => (String::new(), Vec::new()),
    };
    let filter = Filter::builder().exclude_file(&name, &rules)?.build();
    Ok(filter.included_part(&composed).id().0)
}

/// Prints the failure of one of several layers.
fn print_fault(layer: &Layer, error: &PublishError) -> Success {
    console::print_error_line(&format!("si_tardiff: {layer}: {error}"));
    Success::Faults
}

fn refresh_layer(
    repo: &Path,
    layer: &Layer,
    signing: Signing,
    monitor: &dyn Monitor,
) -> Result<Head, PublishError> {
    let locked = LockedStore::lock(Store::open(repo, layer), None)?.with_signing(signing);
    let accepted = locked.accepted(Reuse::NextHead)?;
    publish::warn_of_new_keys(locked.signing(), accepted.published(), monitor);
    sign::refresh(&locked, &accepted)
}

/// Reads the keys by which `verify` checks signatures; `None` without any option for them.
fn read_keys(typed: &VerifyArgs) -> anyhow::Result<Option<KeySet>> {
    if typed.key.is_empty() && typed.key_dir.is_none() {
        return Ok(None);
    }
    let mut keys = match &typed.key_dir {
        Some(directory) => signing::read_key_dir(directory)?,
        None => KeySet::new(),
    };
    for path in &typed.key {
        keys.insert(Role::Publish, signing::read_public_key(path)?);
    }
    Ok(Some(keys))
}
