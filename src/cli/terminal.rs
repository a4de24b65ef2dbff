//! Output of a run for people: progress bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{console, signals};
use crate::printable::{self, one_line};
use crate::report::units::{Count, Size, seconds};
use crate::report::{Event, Job, Monitor};

/// Interval between two redraws of a bar without progress.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Amount of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Progress, notes, warnings and errors.
    Normal,
    /// Only warnings, errors, and one line about changes.
    Quiet,
}

impl Verbosity {
    /// Whether this is [`Verbosity::Quiet`].
    pub fn is_quiet(self) -> bool {
        self == Verbosity::Quiet
    }
}

/// Writes to standard error.
pub struct Terminal {
    /// Whether bars are drawn. Hidden bars only count.
    draws_bars: bool,
    verbosity: Verbosity,
    bars: MultiProgress,
    running: Mutex<HashMap<Job, ProgressBar>>,
}

impl Terminal {
    /// Draws bars if standard error is a terminal and the verbosity allows it.
    pub fn new(verbosity: Verbosity) -> Self {
        Terminal {
            draws_bars: std::io::stderr().is_terminal() && !verbosity.is_quiet(),
            verbosity,
            bars: MultiProgress::new(),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Job, ProgressBar>> {
        // A panic of another thread leaves at worst a wrong number here.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, job: Job, total: u64) {
        let bar = if self.draws_bars {
            self.bars.add(ProgressBar::new(total))
        } else {
            ProgressBar::hidden()
        };
        bar.set_length(total);
        bar.set_style(style(job, total));
        bar.set_message(verb(job));
        if self.draws_bars {
            bar.enable_steady_tick(REDRAW_INTERVAL);
        }

        self.running().insert(job, bar);
    }

    fn finish(&self, job: Job) {
        let Some(bar) = self.running().remove(&job) else { return };
        let duration = bar.elapsed();
        bar.finish_and_clear();
        // A run that finds all bytes on this node downloads none; a line for that is noise.
        let nothing_fetched = matches!(job, Job::Download) && bar.position() == 0;
        if self.verbosity.is_quiet() || nothing_fetched {
            return;
        }

        let duration = seconds(duration).map(|text| format!(" in {text}")).unwrap_or_default();
        self.print(&format!("{} {}{duration}", verb(job), amount(job, bar.position())));
    }

    /// Prints a line above the bars. Errors are ignored, since there is no other output for them.
    fn print(&self, line: &str) {
        // `MultiProgress::println` fails if the terminal is closed, and would panic in `suspend`.
        if self.draws_bars && !self.bars.is_hidden() {
            let _ = self.bars.println(printable::text(line));
        } else {
            console::print_error_line(line);
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
            Event::Note { text } if !self.verbosity.is_quiet() => self.print(&one_line(&text)),
            Event::Note { .. } | Event::Sealed | Event::Applied { .. } => {}
            Event::Warning { text } => self.print(&format!("warning: {}", one_line(&text))),
        }
    }

    fn is_cancelled(&self) -> bool {
        signals::is_cancelled()
    }
}

fn verb(job: Job) -> &'static str {
    match job {
        Job::Scan => "scanned",
        Job::Write => "packed",
        Job::Verify => "verified",
        Job::Walk => "compared",
        Job::Download => "fetched",
        Job::Stage => "staged",
        Job::Apply => "applied",
    }
}

fn amount(job: Job, position: u64) -> String {
    match job {
        Job::Write | Job::Verify | Job::Download | Job::Stage => Size(position).to_string(),
        Job::Apply => Count::new(position as usize, "change", "changes").to_string(),
        Job::Scan | Job::Walk => Count::new(position as usize, "entry", "entries").to_string(),
    }
}

fn style(job: Job, total: u64) -> ProgressStyle {
    let is_bytes = matches!(job, Job::Write | Job::Verify | Job::Download | Job::Stage);
    let template = match total {
        0 => "{msg:10} {spinner} {pos}",
        _ if is_bytes => "{msg:10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        _ => "{msg:10} [{bar:30}] {human_pos}/{human_len} {eta}",
    };

    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
