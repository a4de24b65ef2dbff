//! Sweeps of a download, which leaves the tree alone, and of a switch, which is a transaction.

use super::*;

impl Scene {
    /// The switch of this scene: the node starts with the downloaded update.
    pub(super) fn into_switch(mut self) -> Self {
        self.restore(&self.start);
        self.perform(Job::Download, "before the switch");
        self.save(&self.start);
        self.name += ", downloaded";
        self.job = Job::Switch;
        self
    }

    /// Dies before a sample of `most` mutations of a download, and fails as many with each fault.
    ///
    /// The tree stays as it was, and both ways to the target remain.
    pub(super) fn sweep_downloads(&self, most: u32, faults: &[Fault]) {
        self.restore(&self.start);
        let (last, _) = self.count(Job::Download);
        for nth in self.sample(last, most) {
            self.restore(&self.start);
            let context = format!("{}: died before mutation {nth} of {last}", self.name);
            assert!(self.kill(Job::Download, nth), "{context}: it did not die");
            self.assert_untouched_by_download(nth, &context);
        }
        self.restore(&self.start);
        assert!(!self.kill(Job::Download, last + 1), "{}: more mutations than counted", self.name);

        for &fault in faults {
            for nth in self.sample(last, most) {
                self.restore(&self.start);
                let (met, done) = self.run_with_fault(Job::Download, nth, fault);
                let context =
                    format!("{}: {fault:?} at {nth} of {last}: {:?}", self.name, done.err());
                assert!(met, "{context}: the fault was not reached");
                self.assert_untouched_by_download(nth, &context);
            }
        }
    }

    /// Asserts that the tree is that from before, and that the next run ends at the target.
    #[track_caller]
    fn assert_untouched_by_download(&self, nth: u32, context: &str) {
        let end = self.recover(context);
        assert!(!self.is_after(end), "{context}: a download has changed the tree");
        if nth.is_multiple_of(2) {
            self.perform(Job::Download, context);
            self.assert_tree(&self.before, context);
            self.perform(Job::Switch, context);
        } else {
            self.perform(Job::Update, context);
        }

        assert!(self.is_after(self.reported_end(context)), "{context}: not at the target");
        self.assert_tidy(&self.after, context);
        self.assert_no_download(context);
    }

    /// Asserts that no part of a downloaded update is left.
    #[track_caller]
    pub(super) fn assert_no_download(&self, context: &str) {
        let left = self.node().join(".si-downloaded");
        assert!(!left.exists(), "{context}: a part of the download was left behind");
    }
}
