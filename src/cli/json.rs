//! How a run looks to a program: one JSON object a line on standard output.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::signals;
use crate::report::{Event, Job, Monitor};

/// Progress of a job is told at most so often.
const PACE: Duration = Duration::from_millis(500);

/// Writes events as they come, progress at a pace.
#[derive(Default)]
pub struct Json {
    jobs: Mutex<HashMap<Job, Progress>>,
}

struct Progress {
    done: u64,
    total: u64,
    told: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum JsonProgress {
    Progress { job: Job, done: u64, total: u64 },
}

impl Monitor for Json {
    fn event(&self, event: Event) {
        match event {
            Event::Started { job, total } => {
                let progress = Progress { done: 0, total, told: Instant::now() };
                self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(job, progress);
            }
            Event::Advanced { job, by } => {
                let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(progress) = jobs.get_mut(&job) else { return };
                progress.done += by;
                if progress.told.elapsed() >= PACE {
                    progress.told = Instant::now();
                    line(&JsonProgress::Progress {
                        job,
                        done: progress.done,
                        total: progress.total,
                    });
                }
                return;
            }
            Event::Finished { .. }
            | Event::Sealed
            | Event::Applied { .. }
            | Event::Note { .. }
            | Event::Warning { .. } => {}
        }
        line(&event);
    }

    fn is_stopped(&self) -> bool {
        signals::is_stopped()
    }
}

/// Writes one line; a reader that has gone away is no reason to stop.
pub fn line(value: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_vec(value) {
        text.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
}
