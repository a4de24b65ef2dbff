//! The monitor of a person: progress bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::signals;
use crate::report::{Event, Job, Monitor};

/// Writes to standard error.
pub struct Terminal {
    /// Without a terminal the bars are hidden and only count.
    attended: bool,
    quiet: bool,
    bars: MultiProgress,
    running: Mutex<HashMap<Job, ProgressBar>>,
}

impl Terminal {
    /// A quiet one says only warnings.
    pub fn new(quiet: bool) -> Self {
        Terminal {
            attended: std::io::stderr().is_terminal() && !quiet,
            quiet,
            bars: MultiProgress::new(),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Job, ProgressBar>> {
        // What a thread that panicked left behind is a number at worst.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, job: Job, total: u64) {
        let bar = if self.attended {
            self.bars.add(ProgressBar::new(total))
        } else {
            ProgressBar::hidden()
        };
        bar.set_length(total);
        bar.set_style(style(job, total));
        bar.set_message(verb(job));
        if self.attended {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.running().insert(job, bar);
    }

    fn finish(&self, job: Job) {
        let Some(bar) = self.running().remove(&job) else { return };
        let amount = match is_bytes(job) {
            true => HumanBytes(bar.position()).to_string(),
            false => {
                format!(
                    "{} {}",
                    HumanCount(bar.position()),
                    if job == Job::Apply { "changes" } else { "entries" }
                )
            }
        };
        let took = bar.elapsed();
        bar.finish_and_clear();
        if !self.quiet {
            self.say(&format!("{} {amount} in {:.1} s", verb(job), took.as_secs_f64()));
        }
    }

    fn say(&self, line: &str) {
        // Nobody is left to be told that standard error is closed, or that the terminal has died, at
        // which `MultiProgress::suspend` would panic.
        if self.attended && !self.bars.is_hidden() {
            drop(self.bars.println(line));
        } else {
            drop(writeln!(std::io::stderr(), "{line}"));
        }
    }
}

impl Monitor for Terminal {
    fn event(&self, event: Event) {
        match event {
            Event::Started { job, total } => self.start(job, total),
            Event::Advanced { job, by } => {
                if let Some(bar) = self.running().get(&job) {
                    bar.inc(by);
                }
            }
            Event::Finished { job } => self.finish(job),
            Event::Note { text } if !self.quiet => self.say(&text),
            Event::Note { .. } | Event::Sealed | Event::Applied { .. } => {}
            Event::Warning { text } => self.say(&format!("warning: {text}")),
        }
    }

    fn is_stopped(&self) -> bool {
        signals::is_stopped()
    }
}

fn verb(job: Job) -> &'static str {
    match job {
        Job::Scan => "scanned",
        Job::Write => "packed",
        Job::Verify => "read back",
        Job::Walk => "compared",
        Job::Download => "fetched",
        Job::Stage => "staged",
        Job::Apply => "applied",
    }
}

fn is_bytes(job: Job) -> bool {
    matches!(job, Job::Write | Job::Verify | Job::Download | Job::Stage)
}

fn style(job: Job, total: u64) -> ProgressStyle {
    let template = match (is_bytes(job), total) {
        (_, 0) => "{msg:10} {spinner} {pos}",
        (true, _) => "{msg:10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (false, _) => "{msg:10} [{bar:30}] {human_pos}/{human_len} {eta}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
