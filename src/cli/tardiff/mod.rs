//! `si_tardiff`: from what was typed to the jobs of the image server.

mod args;
mod config;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use indicatif::HumanBytes;

use self::args::{TardiffCommand, Typed, Which};
use self::config::{Settled, TardiffConfig};
use super::terminal::Terminal;
use crate::catalog::{ArchiveKind, Catalog, Publish};
use crate::diff_archive::{FrameCompression, WriteOptions};
use crate::image::Layer;
use crate::manifest::Manifest;
use crate::publish::{LockedStore, PublishError, PublishPolicy, Store};
use crate::report::Monitor;
use crate::root::Root;
use crate::scan::{Cache, scan};
use crate::tardiff::artifact::{self, Artifact};
use crate::tardiff::show::{Contents, How};
use crate::tardiff::{build, list, prune, publish, serve, verify};

/// clap lets no such command line pass.
const UNNAMED: &str = "neither an image nor an override is named";

/// The command line as clap knows it: for help, man pages and completions.
pub fn command() -> clap::Command {
    Typed::command()
}

/// Runs the program with its arguments; the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let typed = match Typed::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(refusal) => {
            // Help and version are answers, everything else is code 2; neither can be told if nobody listens.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
        }
    };
    let monitor = Terminal::new(crate::cli::terminal::Verbosity::from_flag(typed.quiet));
    match run_command(typed.command, typed.quiet, &monitor) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "si_tardiff: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has had enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether everything is well.
fn run_command(
    command: TardiffCommand,
    quiet: bool,
    monitor: &dyn Monitor,
) -> anyhow::Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    match command {
        TardiffCommand::Build(typed) => build_diff(typed, quiet, &mut out, monitor)?,
        TardiffCommand::Publish(typed) => publish_image(typed, quiet, &mut out, monitor)?,
        TardiffCommand::Show(typed) => {
            let contents = contents(&typed.which, monitor)?;
            print_contents(&contents, typed.top, &mut out)?;
        }
        TardiffCommand::Manifest(typed) => {
            let manifest = manifest(&typed.which, monitor)?;
            if typed.canonical {
                manifest.write_to(&mut out)?
            } else {
                manifest.export_mtree(&mut out)?
            }
        }
        TardiffCommand::List(typed) => {
            for (layer, catalog) in list::list(&typed.repo.repo, typed.layer().as_ref())? {
                print_catalog(&layer, &catalog, &mut out)?;
            }
        }
        TardiffCommand::Verify(typed) => {
            return verify_repository(&typed, quiet, &mut out, monitor);
        }
        TardiffCommand::Prune(typed) => {
            let layer = typed.one.layer().context(UNNAMED)?;
            // A name that is mistyped must not make directories.
            list::list(&typed.repo.repo, Some(&layer))?;
            let locked = LockedStore::lock(Store::open(&typed.repo.repo, &layer))?;
            let pruned = prune::prune(&locked, typed.keep as usize, monitor)?;
            if !quiet {
                writeln!(
                    out,
                    "removed {} generations, {} files",
                    pruned.generations.len(),
                    pruned.files.len()
                )?;
            }
        }
        TardiffCommand::Serve(typed) => {
            drop(out);
            serve::serve(&typed.repo.repo, typed.listen, |address| {
                let mut out = io::stdout().lock();
                // The server serves, whoever may or may not read this.
                let _ = writeln!(out, "listening on http://{address}/").and_then(|()| out.flush());
            })?;
            return Ok(true);
        }
    }
    out.flush()?;
    Ok(true)
}

fn build_diff(
    typed: args::Build,
    quiet: bool,
    out: &mut impl Write,
    monitor: &dyn Monitor,
) -> anyhow::Result<()> {
    let args::Build { base, image_dir, output, image, deltas, work } = typed;
    let Settled { effort, rebuild_limit } =
        TardiffConfig::load(work.config.as_ref())?.settle(&work);
    let level = work.level;
    let shown = output.display().to_string();
    let built = build::build(
        &build::BuildRequest {
            base,
            image_dir,
            output,
            image,
            deltas,
            effort,
            rebuild_limit,
            level,
        },
        monitor,
    )?;
    if !quiet {
        let build::Built { base, target, removed, changed, size } = built;
        writeln!(out, "{shown}: {} from {} to {}", HumanBytes(size), base.short(), target.short())?;
        writeln!(out, "{changed} entries come or change, {removed} go")?;
    }
    Ok(())
}

fn publish_image(
    typed: args::PublishArgs,
    quiet: bool,
    out: &mut impl Write,
    monitor: &dyn Monitor,
) -> anyhow::Result<()> {
    let compression = match typed.compression {
        args::CompressionArg::Zstd => FrameCompression::Zstd,
        args::CompressionArg::Gzip => FrameCompression::Gzip,
    };
    let Settled { effort, rebuild_limit } =
        TardiffConfig::load(typed.work.config.as_ref())?.settle(&typed.work);
    let policy = PublishPolicy {
        diffs: typed.diffs as usize,
        full_share: typed.full_share,
        deltas: !typed.plain,
        options: WriteOptions::new(compression, effort, typed.work.level),
        effort,
        rebuild_limit,
    };
    let layer = typed.one.layer().context(UNNAMED)?;
    let trees = match layer {
        Layer::Image(_) => typed.images_dir,
        Layer::Override(_) => typed.overrides_dir,
    };
    let request = publish::PublishRequest {
        tree: trees.join(layer.name().as_str()),
        layer,
        repo: typed.repo.repo,
        label: typed.label,
        policy,
        keep: typed.keep.map(|keep| keep as usize),
        read_all: typed.read_all,
    };
    let outcome = publish::publish(&request, monitor)?;
    if quiet {
        return Ok(());
    }
    let shown = shown(&request.layer);
    match outcome {
        publish::PublishOutcome::Unchanged(head) => {
            let (serial, id) = (head.serial, head.generation.short());
            writeln!(out, "{shown} has not changed since publish {serial} (generation {id})")?;
        }
        publish::PublishOutcome::Published(published) => {
            let Publish { serial, generation, entries, bytes, .. } = &published.publish;
            let (id, bytes) = (generation.short(), HumanBytes(*bytes));
            writeln!(
                out,
                "published {shown} {serial}: generation {id}, {entries} entries, {bytes}"
            )?;
            for archive in &published.new_archives {
                writeln!(out, "  {}  {}", archive.file.file, HumanBytes(archive.file.size))?;
            }
        }
    }
    Ok(())
}

fn verify_repository(
    typed: &args::Any,
    quiet: bool,
    out: &mut impl Write,
    monitor: &dyn Monitor,
) -> anyhow::Result<bool> {
    let findings = match typed.layer() {
        Some(layer) => verify::verify(&typed.repo.repo, &layer, monitor)?,
        None => verify::verify_all(&typed.repo.repo, monitor)?,
    };
    for fault in &findings.faults {
        writeln!(out, "FAULT: {fault}")?;
    }
    if !quiet {
        let verify::Findings { manifests, archives, contents, faults } = &findings;
        writeln!(
            out,
            "{manifests} manifests, {archives} archives and {contents} contents of the head are sound; {} faults",
            faults.len()
        )?;
    }
    out.flush()?;
    Ok(findings.faults.is_empty())
}

fn contents(which: &Which, monitor: &dyn Monitor) -> anyhow::Result<Contents> {
    if let Some(file) = &which.subject.file
        && let Artifact::Diff(listing) = artifact::read(file, monitor)?
    {
        return Ok(Contents::of_diff(&listing));
    }
    Ok(Contents::of_image(&manifest(which, monitor)?))
}

fn manifest(which: &Which, monitor: &dyn Monitor) -> anyhow::Result<Manifest> {
    if let Some(file) = &which.subject.file {
        if let Ok(root) = Root::open(file) {
            return Ok(scan(&root, &Cache::default(), monitor)?.manifest().clone());
        }
        return match artifact::read(file, monitor)? {
            Artifact::Manifest(manifest) => Ok(manifest),
            Artifact::Image(image) => Ok(image.manifest),
            Artifact::Diff(_) => {
                bail!("{} is a diff, which has no manifest of its own", file.display())
            }
        };
    }
    let layer = which.subject.layer().context(UNNAMED)?;
    let store = Store::open(&which.repo.repo, &layer);
    let catalog = store.catalog()?.ok_or(PublishError::NothingPublished(layer))?;
    Ok(store.manifest(find(store.layer(), &catalog, which.generation.as_deref())?)?)
}

/// The publish that `word` names: by its serial, or by the beginning of the generation's id.
fn find<'c>(
    layer: &Layer,
    catalog: &'c Catalog,
    word: Option<&str>,
) -> anyhow::Result<&'c Publish> {
    let Some(word) = word else { return Ok(catalog.head()) };
    if let Some(publish) =
        catalog.publishes.iter().find(|publish| publish.serial.to_string() == word)
    {
        return Ok(publish);
    }
    let mut matching =
        catalog.publishes.iter().rev().filter(|p| p.generation.to_string().starts_with(word));
    let Some(first) = matching.next() else { bail!("{layer} has no generation {word:?}") };
    if matching.any(|other| other.generation != first.generation) {
        bail!("{word:?} is the beginning of several generations' ids");
    }
    Ok(first)
}

fn print_contents(contents: &Contents, top: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    for item in contents.items.iter().take(top.unwrap_or(usize::MAX)) {
        writeln!(out, "{:>12}  {:7}  {}", item.size, word(item.how), item.path)?;
    }
    for (how, sum) in &contents.totals {
        writeln!(out, "{:>12}  {:7}  {} in total", sum.bytes, word(*how), sum.count)?;
    }
    Ok(())
}

fn word(how: How) -> &'static str {
    match how {
        How::Whole => "whole",
        How::Delta => "delta",
        How::Known => "known",
        How::Link => "link",
        How::Meta => "meta",
        How::Removed => "removed",
    }
}

/// An image is known by its name alone.
fn shown(layer: &Layer) -> String {
    match layer {
        Layer::Image(name) => name.to_string(),
        Layer::Override(_) => layer.to_string(),
    }
}

fn print_catalog(layer: &Layer, catalog: &Catalog, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} publishes, {} archives",
        shown(layer),
        catalog.publishes.len(),
        catalog.archives.len()
    )?;
    for publish in &catalog.publishes {
        let Publish { serial, generation, time, entries, bytes, label, .. } = publish;
        let label = label.as_deref().map(|label| format!("  {:?}", label)).unwrap_or_default();
        let bytes = HumanBytes(*bytes).to_string();
        writeln!(
            out,
            "  {serial:>5}  {}  {time:.0}  {entries:>8} entries  {bytes:>10}{label}",
            generation.short()
        )?;
    }
    for archive in &catalog.archives {
        let size = HumanBytes(archive.file.size).to_string();
        let way = match archive.kind {
            ArchiveKind::Full { target } => format!("             -> {}", target.short()),
            ArchiveKind::Diff { base, target } => format!("{} -> {}", base.short(), target.short()),
        };
        writeln!(out, "  {way}  {size:>10}  {}", archive.file.file)?;
    }
    Ok(())
}
