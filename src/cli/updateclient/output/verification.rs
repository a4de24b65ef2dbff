//! `--verify`: the deviations of a tree, as text or JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::text;
use crate::cli::console::Output;
use crate::cli::json;
use crate::cli::updateclient::args::{Arguments, OutputMode};
use crate::report::units::Count;
use crate::tree_path::TreePath;
use crate::update::{Publication, PublishedSide, Standing, VerifiedDeviation, VerifiedTree};

/// One line of JSON. Events and keys are a format: they are added, never changed.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum VerifyLine<'a> {
    /// A path whose live object differs.
    Deviation {
        change: &'a str,
        path: String,
        /// Target of a symlink, or the path that a hard link refers to.
        #[serde(skip_serializing_if = "str::is_empty")]
        leads: &'a str,
        bytes: u64,
        /// The difference in words.
        differs: &'a str,
        /// Side that the published entry equals: recorded, live or none; absent if not compared.
        #[serde(skip_serializing_if = "Option::is_none")]
        published: Option<&'a str>,
    },
    /// A path that is as recorded, and of which another version is published.
    Superseded { path: String },
    Verified {
        outcome: &'a str,
        image: String,
        overrides: Vec<String>,
        generation: Option<String>,
        serial: Option<u64>,
        against: bool,
        compared: usize,
        deviations: usize,
        hidden: usize,
        proof: Option<String>,
        /// Newest published generation; absent if it was not compared.
        #[serde(skip_serializing_if = "Option::is_none")]
        head: Option<PublishedHead>,
        /// Reason that the published side was not compared.
        #[serde(skip_serializing_if = "Option::is_none")]
        not_compared: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct PublishedHead {
    generation: Option<String>,
    serial: Option<u64>,
    superseded: usize,
}

/// Prints a line for each deviation, then the result.
pub fn print_verification(verification: &VerifiedTree, arguments: &Arguments) {
    match arguments.output_mode() {
        OutputMode::Json => print_json(verification),
        OutputMode::Text => {
            let mut out = Output::open();
            // The end of the program reports a failure of standard output.
            let _ = if arguments.quiet {
                print_quiet(verification, &mut out)
            } else {
                print_text(verification, &mut out)
            };
        }
    }
}

fn print_json(verification: &VerifiedTree) {
    for VerifiedDeviation { item, reason, standing } in &verification.deviations {
        json::line(&VerifyLine::Deviation {
            change: item.change.trim(),
            path: item.path.to_string(),
            leads: item.link_target(),
            bytes: item.bytes,
            differs: reason,
            published: standing.map(|standing| match standing {
                Standing::AsRecorded => "recorded",
                Standing::AsLive => "live",
                Standing::Other => "other",
            }),
        });
    }
    let (head, not_compared) = match &verification.published {
        Some(PublishedSide::Compared { head, superseded }) => {
            superseded.iter().map(TreePath::to_string).for_each(|path| {
                json::line(&VerifyLine::Superseded { path });
            });
            let Publication { generation, serial } = *head;
            let generation = generation.map(|id| id.to_string());
            (Some(PublishedHead { generation, serial, superseded: superseded.len() }), None)
        }
        Some(PublishedSide::NotCompared { reason }) => (None, Some(reason.as_str())),
        None => (None, None),
    };
    let Publication { generation, serial } = verification.reference;
    json::line(&VerifyLine::Verified {
        outcome: if verification.deviations.is_empty() { "equal" } else { "deviates" },
        image: verification.image.to_string(),
        overrides: verification.overrides.iter().map(ToString::to_string).collect(),
        generation: generation.map(|id| id.to_string()),
        serial,
        against: verification.is_against,
        compared: verification.compared,
        deviations: verification.deviations.len(),
        hidden: verification.hidden,
        proof: verification.proof.map(|proof| proof.to_string()),
        head,
        not_compared,
    });
}

/// Prints nothing about an equal tree.
fn print_quiet(verification: &VerifiedTree, out: &mut Output) -> io::Result<()> {
    if !verification.deviations.is_empty() {
        writeln!(out, "{}", summary(verification))?;
    }
    out.flush()
}

fn print_text(verification: &VerifiedTree, out: &mut Output) -> io::Result<()> {
    for VerifiedDeviation { item, reason, standing } in &verification.deviations {
        let remark = match standing {
            Some(Standing::AsLive) => "; it is as published",
            Some(Standing::Other) => "; the published version is another one",
            Some(Standing::AsRecorded) | None => "",
        };
        writeln!(out, "{item}  ({reason}{remark})")?;
    }

    writeln!(out, "{}", summary(verification))?;
    match &verification.published {
        Some(PublishedSide::Compared { head, superseded }) if !superseded.is_empty() => {
            let publish = text::publish(head.generation, head.serial).unwrap_or_default();
            let number = Count::new(superseded.len(), "path has", "paths have");
            writeln!(out, "{number} another version in the published head, {publish}")?;
        }
        Some(PublishedSide::Compared { .. }) | None => {}
        Some(PublishedSide::NotCompared { reason }) => {
            writeln!(out, "the published generation was not compared: {reason}")?;
        }
    }
    if verification.hidden > 0 {
        let number = Count::new(verification.hidden, "tracked path is", "tracked paths are");
        writeln!(out, "{number} hidden by mounts and not compared")?;
    }
    if let Some(proof) = verification.proof {
        writeln!(out, "proof: {proof}")?;
    }
    out.flush()
}

/// The result in one line.
fn summary(verification: &VerifiedTree) -> String {
    let mut object = verification.image.to_string();
    if !verification.overrides.is_empty() {
        let names: Vec<&str> = verification.overrides.iter().map(|name| name.as_str()).collect();
        object = format!("{object} with {}", names.join(", "));
    }
    let Publication { generation, serial } = verification.reference;
    if let Some(publish) = text::publish(generation, serial) {
        object = format!("{object} {publish}");
    }

    let compared = Count::new(verification.compared, "path", "paths");
    match verification.deviations.len() {
        0 => format!("equal to {object}: {compared} compared"),
        number => {
            let deviations = Count::new(number, "deviation", "deviations");
            format!("{deviations} from {object}: {compared} compared")
        }
    }
}
