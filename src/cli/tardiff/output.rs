//! Reports of `si_tardiff`.

use std::fmt;
use std::io::{self, Write};

use jiff::{SignedDuration, Timestamp};

use crate::catalog::{ArchiveKind, Head, Publish};
use crate::image::Layer;
use crate::publish::Published;
use crate::report::units::{Count, Number, Size};
use crate::signature::KeyId;
use crate::signature::PublicKey;
use crate::signing::KeyPaths;
use crate::tardiff::build::Built;
use crate::tardiff::cluster::ClusterOutcome;
use crate::tardiff::prune::Pruned;
use crate::tardiff::publish::{PublishOutcome, PublishedArchive};
use crate::tardiff::show::{Contents, Storage};
use crate::tardiff::verify::Findings;

/// Prints the result of a publish, then each archive.
pub(super) fn print_publish(
    layer: &Layer,
    outcome: &PublishOutcome,
    out: &mut impl Write,
) -> io::Result<()> {
    let name = layer_name(layer);
    match outcome {
        PublishOutcome::Unchanged(head) => {
            writeln!(out, "{name} has not changed since {}", publish_name(head))
        }
        PublishOutcome::Published { publish, archives } => {
            let entries = Count::new(publish.entries as usize, "entry", "entries");
            let size = Size(publish.bytes);
            let archive_summary = summarize_archives(archives);
            writeln!(
                out,
                "published {name} {}: {entries}, {size}{archive_summary}",
                publish_name(publish)
            )?;
            for archive in archives {
                writeln!(out, "  {}  {}", archive.file, Size(archive.size))?;
            }
            Ok(())
        }
    }
}

/// Prints the result of a publish of a `cluster.txt`.
pub(super) fn print_cluster(outcome: &ClusterOutcome, out: &mut impl Write) -> io::Result<()> {
    match outcome {
        ClusterOutcome::Unchanged => writeln!(out, "cluster.txt has not changed"),
        ClusterOutcome::Published { serial, size } => {
            writeln!(out, "published cluster.txt serial {serial}: {}", Size(*size))
        }
    }
}

/// Names a publish, such as `serial 2 (generation 7c69fde87750)`.
fn publish_name(publish: &Publish) -> String {
    format!("serial {} (generation {})", publish.serial, publish.generation.short())
}

fn summarize_archives(archives: &[PublishedArchive]) -> String {
    archives
        .iter()
        .map(|archive| match archive.base_serial {
            Some(serial) => format!("; diff from serial {serial}: {}", Size(archive.size)),
            None => format!("; full archive: {}", Size(archive.size)),
        })
        .collect()
}

/// Prints the result of `build`.
pub(super) fn print_build(output: &str, built: &Built, out: &mut impl Write) -> io::Result<()> {
    let changed = Count::new(built.changed as usize, "entry", "entries");
    writeln!(
        out,
        "built {output}: {}, generation {} to {}: {changed} added or changed, {} removed",
        Size(built.size),
        built.base.short(),
        built.target.short(),
        Number(built.removed)
    )
}

/// Prints the result of `prune`.
pub(super) fn print_pruned(pruned: &Pruned, out: &mut impl Write) -> io::Result<()> {
    let generations = Count::new(pruned.generations.len(), "generation", "generations");
    let files = Count::new(pruned.files.len(), "file", "files");
    writeln!(out, "removed {generations}, {files}")
}

/// Prints the faults of a repository.
pub(super) fn print_faults(findings: &Findings, out: &mut impl Write) -> io::Result<()> {
    for fault in &findings.faults {
        writeln!(out, "FAULT: {fault}")?;
    }
    Ok(())
}

/// Prints the result of `verify` in one line.
pub(super) fn print_findings(findings: &Findings, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "verified {}, {} and {} of the head: {}",
        Count::new(findings.manifests, "manifest", "manifests"),
        Count::new(findings.archives, "archive", "archives"),
        Count::new(findings.contents, "content", "contents"),
        Count::new(findings.faults.len(), "fault", "faults")
    )
}

/// Prints the content of an archive or a generation, and its totals.
pub(super) fn print_contents(
    contents: &Contents,
    top: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    for item in contents.items.iter().take(top.unwrap_or(usize::MAX)) {
        writeln!(out, "{:>12}  {:7}  {}", item.size, storage_name(item.storage), item.path)?;
    }
    for (storage, total) in &contents.totals {
        let name = storage_name(*storage);
        writeln!(out, "{:>12}  {name:7}  {} in total", total.bytes, total.count)?;
    }
    Ok(())
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::Whole => "whole",
        Storage::Delta => "delta",
        Storage::Known => "known",
        Storage::Link => "link",
        Storage::Meta => "meta",
        Storage::Removed => "removed",
    }
}

/// Prints one line about a head that was written.
pub(super) fn print_head(verb: &str, head: &Head, out: &mut impl Write) -> io::Result<()> {
    let name = layer_name(&head.layer);
    writeln!(out, "{verb} the head of {name}: serial {}, {}", head.version(), Validity(head))
}

/// Prints head, publishes and archives of a layer.
pub(super) fn print_published(
    layer: &Layer,
    published: &Published,
    out: &mut impl Write,
) -> io::Result<()> {
    let catalog = &published.catalog;
    let publishes = Count::new(catalog.publishes.len(), "publish", "publishes");
    let archives = Count::new(catalog.archives.len(), "archive", "archives");
    match &catalog.cluster_file {
        Some(file) => writeln!(out, "{}: {}, {}", layer_name(layer), Size(file.size), file.file)?,
        None => writeln!(out, "{}: {publishes}, {archives}", layer_name(layer))?,
    }
    writeln!(out, "  head: {}", Signatures(published))?;

    for publish in &catalog.publishes {
        let Publish { serial, generation, time, label, .. } = publish;
        let label = label.as_deref().map(|label| format!("  {label:?}")).unwrap_or_default();
        writeln!(
            out,
            "  {serial:>5}  {}  {time:.0}  {:>9} entries  {:>10}{label}",
            generation.short(),
            Number(publish.entries),
            Size(publish.bytes)
        )?;
    }
    for archive in &catalog.archives {
        let generations = match archive.kind {
            ArchiveKind::Full { target } => format!("             -> {}", target.short()),
            ArchiveKind::Diff { base, target } => format!("{} -> {}", base.short(), target.short()),
        };
        writeln!(out, "  {generations}  {:>10}  {}", Size(archive.file.size), archive.file.file)?;
    }
    Ok(())
}

/// Prints the files of a new key.
pub(super) fn print_key(paths: &KeyPaths, key: &PublicKey, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "created key {}", key.id())?;
    writeln!(out, "  {}  (secret)", paths.secret.display())?;
    writeln!(out, "  {}  (for /etc/systemimager/keys of the image)", paths.public.display())
}

/// Prints one line about the head of a layer, and the keys that have signed it.
pub(super) fn print_signatures(published: &Published, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}: {}", layer_name(&published.head.layer), Signatures(published))
}

/// Version, validity and keys of a head and its catalog.
struct Signatures<'p>(&'p Published);

impl fmt::Display for Signatures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Published { head, head_keys, catalog_keys, .. } = self.0;
        write!(
            f,
            "serial {}, {}; head {}, catalog {}",
            head.version(),
            Validity(head),
            SignedBy(head_keys),
            SignedBy(catalog_keys)
        )
    }
}

/// The time for which a head is valid.
struct Validity<'h>(&'h Head);

impl fmt::Display for Validity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Validity(Head { issued, expires, .. }) = self;
        write!(f, "issued {issued:.0}, ")?;
        let now = Timestamp::now();
        match expires {
            None => f.write_str("never expires"),
            Some(expires) if *expires < now => {
                write!(f, "EXPIRED {expires:.0}, {} ago", RoughTime(now.duration_since(*expires)))
            }
            Some(expires) => {
                write!(f, "expires {expires:.0}, in {}", RoughTime(expires.duration_since(now)))
            }
        }
    }
}

/// A duration in its largest unit, such as `6 days`.
struct RoughTime(SignedDuration);

impl fmt::Display for RoughTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.as_mins().unsigned_abs() as usize;
        let count = match minutes {
            0..120 => Count::new(minutes, "minute", "minutes"),
            120..2_880 => Count::new(minutes / 60, "hour", "hours"),
            _ => Count::new(minutes / 1_440, "day", "days"),
        };
        count.fmt(f)
    }
}

/// The keys that signatures name.
struct SignedBy<'k>(&'k [KeyId]);

impl fmt::Display for SignedBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("not signed"),
            keys => {
                let keys: Vec<String> = keys.iter().map(KeyId::to_string).collect();
                write!(f, "signed by {}", keys.join(", "))
            }
        }
    }
}

/// Name of a layer; an image is named without the word.
fn layer_name(layer: &Layer) -> String {
    match layer {
        Layer::Image(name) => name.to_string(),
        Layer::Override(_) | Layer::Cluster => layer.to_string(),
    }
}
