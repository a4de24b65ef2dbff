//! Mutations after the commit point that a path refuses: once, and at each attempt.
//!
//! A refusal that passes must leave no trace. One that lasts must end in the new tree without the
//! path, or in the old tree, and never between them.

use std::collections::BTreeMap;

use systemimager::root::fault::Site;

use super::*;

/// Attempts of the roll forward at one change.
pub const ATTEMPTS: u32 = 4;

/// Errors by which a path refuses a change.
const REFUSALS: [Errno; 17] = [
    Errno::PERM,
    Errno::ACCESS,
    Errno::NOENT,
    Errno::NOTDIR,
    Errno::LOOP,
    Errno::EXIST,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::BUSY,
    Errno::XDEV,
    Errno::STALE,
    Errno::NOTCONN,
    Errno::MLINK,
    Errno::NAMETOOLONG,
    Errno::DQUOT,
    Errno::NOKEY,
    Errno::INVAL,
];

/// Answers that the kernel does not give while the object exists: they mean that it is absent.
const MEANS_ABSENT: [Errno; 3] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
/// Answers of rmdir(2) that mean that the directory is in use.
const KEEPS_DIRECTORY: [Errno; 3] = [Errno::EXIST, Errno::NOTEMPTY, Errno::BUSY];

/// Number of errors that are tried at each place in the code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Errors {
    All,
    /// Another part at each place.
    Some(usize),
}

impl Scene {
    /// Refuses mutations after the commit point: at each place in the code, or all of them.
    pub fn sweep_refusals(&self, errors: Errors) {
        self.restore(&self.start);
        let (last, commit) = self.count(self.job);
        let chosen = self.mutations_by_site(commit, last);

        let mut ends = [0; 3];
        for (at, (&nth, &site)) in chosen.iter().enumerate() {
            for error in errors_at(at, errors) {
                if is_true_answer(site, error) {
                    continue;
                }
                self.refuse_once(nth, error, site);
                ends[self.refuse_always(nth, error, site)] += 1;
            }
        }
        eprintln!("{}: {} places, ends {ends:?}", self.name, chosen.len());
        assert!(ends[0] + ends[1] > 0 && ends[1] > 0, "{}: no reversal: {ends:?}", self.name);
    }

    /// The first mutation of each place in the code after the commit point; in a full run all.
    fn mutations_by_site(&self, commit: u32, last: u32) -> BTreeMap<u32, Site> {
        self.restore(&self.start);
        fault::take_sites();
        fault::arm(1, Fault::Record);
        self.perform(self.job, "recording");
        fault::disarm();
        let sites = fault::take_sites();
        assert_eq!(sites.len(), last as usize, "each mutation has a site");

        let later = sites.into_iter().zip(1..).skip(commit as usize);
        let mut first: BTreeMap<String, u32> = BTreeMap::new();
        let is_full = steps(0, 1) == 1;
        later
            .filter(|(site, nth)| is_full || *first.entry(site.to_string()).or_insert(*nth) == *nth)
            .map(|(site, nth)| (nth, site))
            .collect()
    }

    /// A refusal that passes: the next attempt succeeds.
    fn refuse_once(&self, nth: u32, error: Errno, site: Site) {
        self.restore(&self.start);
        let (met, done) = self.run_with_fault(self.job, nth, Fault::Fail(error));
        let context = format!("{}: {error:?} once at mutation {nth}, {site}", self.name);

        assert!(met, "{context}: the fault was not reached");
        if let Err(failure) = &done {
            panic!("{context}: {failure}");
        }
        assert!(self.is_after(self.reported_end(&context)), "{context}");
    }

    /// A refusal that lasts; returns 0 for the new tree, 1 for the old one, 2 for an interruption.
    fn refuse_always(&self, nth: u32, error: Errno, site: Site) -> usize {
        self.restore(&self.start);
        let fault = Fault::FailFor { error, times: ATTEMPTS };
        let (met, done) = self.run_with_fault(self.job, nth, fault);
        let outcome = match &done {
            Ok(report) => format!("{:?}", report.as_ref().map(|report| &report.left_out)),
            Err(failure) => failure.to_string(),
        };
        let context = format!(
            "{}: {error:?} at each attempt at mutation {nth}, {site}: {outcome}",
            self.name
        );
        assert!(met, "{context}: the fault was not reached");

        let end = match done {
            // A path that is left out is in a directory of a user; the others are as they should.
            Ok(Some(report)) if !report.left_out.is_empty() => 0,
            Ok(_) => {
                self.assert_tree(&self.after, &context);
                0
            }
            Err(UpdateError::Reversed(_)) => {
                assert!(!update::status(self.node()).expect("a status").interrupted, "{context}");
                self.assert_tree(&self.before, &context);
                self.assert_tidy(&self.before, &context);
                1
            }
            // Everything is changed and recorded; only the journal could not be closed.
            Err(UpdateError::Interrupted(_)) => {
                self.assert_tree(&self.after, &context);
                2
            }
            Err(failure) => panic!("{context}: {failure}"),
        };

        let recovered = self.recover(&context);
        if end != 0 {
            self.assert_usable(recovered, &context);
        } else {
            // The next run tries the paths that were left out.
            let job = if self.job == Job::Rollback { Job::Recover } else { self.job };
            self.perform(job, &context);
            if self.job == Job::Update {
                assert!(self.is_after(self.reported_end(&context)), "{context}");
            }
        }
        end
    }

    /// Dies at a sample of the mutations of a reversal; the next run completes it.
    ///
    /// Before the mark of the reversal is durable, the next run carries out the journal.
    pub fn sweep_deaths_in_reversal(&self, firsts: u32, most: u32) {
        self.restore(&self.start);
        let (last, commit) = self.count(self.job);
        let mut reversals = 0;

        for first in self.sample(last - commit, firsts).into_iter().map(|nth| commit + nth) {
            self.restore(&self.start);
            let fault = Fault::FailFor { error: Errno::PERM, times: ATTEMPTS };
            let (_, done) = self.run_with_fault(self.job, first, fault);
            let Err(UpdateError::Reversed(_)) = done else { continue };
            let more = self.tally().changes.saturating_sub(first + ATTEMPTS - 1).max(1);
            reversals += 1;

            let mut reversed_since = None;
            for later in self.sample(more, most) {
                self.restore(&self.start);
                let context = format!(
                    "{}: refused at {first} of {last}, died {later} of {more} later",
                    self.name
                );
                let refusal = Some((Errno::PERM, later - 1));
                if !self.kill_by(self.job, first, refusal) {
                    continue;
                }
                match perform(Job::Recover, &self.request, &Silent) {
                    Ok(_) | Err(UpdateError::Reversed(_)) => {}
                    Err(failure) => panic!("{context}: then {failure}"),
                }
                let end = self.reported_end(&context);
                assert!(
                    !self.is_after(end) || reversed_since.is_none(),
                    "{context}: reversed since {reversed_since:?}, but not here"
                );
                reversed_since = reversed_since.or((!self.is_after(end)).then_some(later));
                self.assert_tidy(end, &context);
                self.assert_usable(end, &context);
            }
            assert!(reversed_since.is_some_and(|since| since < more / 2), "{}", self.name);
        }
        assert!(reversals > 0, "{}: no refusal led to a reversal", self.name);
    }
}

impl Scene {
    /// Dies in a reversal while a file of another program is at the path of a removed file.
    ///
    /// The removed file is restored, and the other one is kept in the undo directory.
    pub fn sweep_deaths_with_occupant(mut self, path: &str, most: u32) {
        self.occupant = Some(self.node().join(path));
        self.restore(&self.start);
        let (last, commit) = self.count(self.job);
        let refuse = Fault::FailFor { error: Errno::PERM, times: ATTEMPTS };
        let reverses = |nth: &u32| {
            self.restore(&self.start);
            let (_, done) = self.run_with_fault(self.job, *nth, refuse);
            matches!(done, Err(UpdateError::Reversed(_)))
        };
        let first = (commit + 1..=last).rev().find(reverses).expect("a refusal that reverses");
        let more = self.tally().changes.saturating_sub(first + ATTEMPTS - 1);

        let mut continued = 0;
        for later in self.sample(more, most) {
            self.restore(&self.start);
            let killed = self.kill_by(self.job, first, Some((Errno::PERM, later - 1)));
            if killed && !self.node().join(".si-stage/reversed").exists() {
                // Before the mark is durable, the next run carries out the journal.
                continue;
            }
            let context = format!("{path} occupied, died {later} of {more} later");
            match perform(Job::Recover, &self.request, &Silent) {
                Ok(_) | Err(UpdateError::Reversed(_)) => {}
                Err(failure) => panic!("{context}: then {failure}"),
            }

            continued += 1;
            self.assert_tree(&self.before, &context);
            assert!(!self.node().join(".si-stage").exists(), "{context}: a stage was left");
            assert!(holds_occupant(&self.node().join(".si-undo")), "{context}: the file is lost");
        }
        assert!(continued > 10, "only {continued} deaths after the mark");
    }
}

/// Whether any file below a directory is that of the other program.
fn holds_occupant(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        holds_occupant(&path) || fs::read_to_string(path).is_ok_and(|text| text == OCCUPANT)
    })
}

fn errors_at(place: usize, errors: Errors) -> Vec<Errno> {
    let count = match errors {
        Errors::All => REFUSALS.len(),
        Errors::Some(count) => count,
    };
    (0..count).map(|turn| REFUSALS[(place * count + turn) % REFUSALS.len()]).collect()
}

/// Whether an answer is right for a reason that is no refusal, so that the run believes it.
fn is_true_answer(site: Site, error: Errno) -> bool {
    let removes = site.file().ends_with("remove.rs");
    removes && (MEANS_ABSENT.contains(&error) || KEEPS_DIRECTORY.contains(&error))
}
