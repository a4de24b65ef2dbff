//! Events of a run for programs: one JSON object per line on standard output.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::console::Output;
use super::signals;
use crate::printable;
use crate::report::{Event, Job, Monitor};

/// Shortest time between two progress events of a job.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Writes each event as a JSON line; progress at most twice per second and job.
#[derive(Default)]
pub struct Json {
    jobs: Mutex<HashMap<Job, Progress>>,
}

struct Progress {
    done: u64,
    total: u64,
    reported: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum JsonProgress {
    Progress { job: Job, done: u64, total: u64 },
}

impl Json {
    fn advance(&self, job: Job, by: u64) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(progress) = jobs.get_mut(&job) else { return };

        progress.done += by;
        if progress.reported.elapsed() >= PROGRESS_INTERVAL {
            progress.reported = Instant::now();
            line(&JsonProgress::Progress { job, done: progress.done, total: progress.total });
        }
    }
}

impl Monitor for Json {
    fn event(&self, event: Event) {
        match event {
            Event::Advanced { job, by } => return self.advance(job, by),
            Event::Started { job, total } => {
                let progress = Progress { done: 0, total, reported: Instant::now() };
                self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(job, progress);
            }
            Event::Finished { .. }
            | Event::Sealed
            | Event::Applied { .. }
            | Event::Note { .. }
            | Event::Warning { .. } => {}
        }
        line(&event);
    }

    fn is_cancelled(&self) -> bool {
        signals::is_cancelled()
    }
}

/// Writes one line. A failure is kept: the run continues without its reader.
pub fn line(value: &impl Serialize) {
    /// Keeps lines of several threads apart.
    static TURN: Mutex<()> = Mutex::new(());

    if let Ok(text) = serde_json::to_string(value) {
        let text = format!("{}\n", printable::json(&text));
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Output::open();
        let _ = out.raw().write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
