//! A whole site in one directory: an image server with its repository and rsync daemon, and nodes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use systemimager::catalog::{ArchiveKind, Catalog, Head};
use systemimager::digest::Digest;
use systemimager::image::Layer;
use tempfile::TempDir;

use super::trees::{self, Tree};
use super::{copy_tree, free_port, judge, scratch, tardiff, updateclient, wait_for_server};

/// The site; its daemons stop on drop.
pub struct Site {
    pub dir: TempDir,
    /// Address of the repository for nodes.
    pub repo_url: String,
    rsync: Option<Daemon>,
}

/// A private daemon on a port of the loopback interface.
struct Daemon {
    child: Child,
    port: u16,
}

/// Exit code and output of a run.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Site {
    /// Makes a site whose nodes read the repository as local files.
    pub fn new() -> Self {
        let dir = scratch();
        std::fs::create_dir(dir.path().join("images")).expect("images");
        let repo_url = format!("file://{}/", dir.path().join("repo").display());
        Site { dir, repo_url, rsync: None }
    }

    /// Makes a site with a node that has `tree` as its recorded first generation.
    #[track_caller]
    pub fn at(tree: &Tree) -> Self {
        let site = Site::new();
        site.publish(tree);
        site.install_node();
        site.updated(&["--adopt"]);
        site
    }

    /// The image tree on the server.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("images/node")
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn node(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Makes `tree` the image and publishes it.
    pub fn publish(&self, tree: &Tree) {
        let _ = std::fs::remove_dir_all(self.image());
        trees::write(tree, &self.image());
        self.publish_image(&[]);
    }

    /// Publishes the image tree as it is.
    #[track_caller]
    pub fn publish_image(&self, more: &[&str]) -> String {
        let images = self.dir.path().join("images");
        let mut command = Command::new(tardiff());
        command.args(["publish", "--image", "node", "--quiet", "--images-dir"]).arg(images);
        command.arg("--repo").arg(self.repo()).args(more);
        super::run(&mut command)
    }

    /// Makes the node a copy of the current image.
    pub fn install_node(&self) {
        let _ = std::fs::remove_dir_all(self.node());
        copy_tree(&self.image(), &self.node());
    }

    /// Starts an rsync daemon for full syncs.
    pub fn with_rsync(mut self) -> Self {
        self.rsync = Some(Daemon::rsync(self.dir.path()));
        self
    }

    /// Starts an rsync daemon, and makes it the repository of the nodes.
    pub fn with_rsync_repository(mut self) -> Self {
        self = self.with_rsync();
        self.repo_url =
            format!("rsync://127.0.0.1:{}/repo/", self.rsync.as_ref().expect("the daemon").port);
        self
    }

    /// Port of the rsync daemon, if there is one.
    pub fn rsync_port(&self) -> Option<u16> {
        self.rsync.as_ref().map(|daemon| daemon.port)
    }

    /// Stops the rsync daemon; the command line of nodes still names it.
    pub fn stop_rsync(&mut self) {
        let daemon = self.rsync.as_mut().expect("the daemon");
        daemon.child.kill().and_then(|()| daemon.child.wait()).expect("the daemon ends");
    }

    /// Path of the head of the image.
    pub fn head_path(&self) -> PathBuf {
        self.repo().join("node/head.toml")
    }

    /// The head of the image.
    pub fn head(&self) -> Head {
        let bytes = std::fs::read(self.head_path()).expect("a head");
        Head::parse(&bytes, &image()).expect("a good head")
    }

    /// Text of the catalog of the image.
    pub fn catalog_text(&self) -> String {
        let file = self.head().catalog_file().expect("a path").file;
        let path = self.repo().join("node").join(file.as_str());
        std::fs::read_to_string(path).expect("a catalog")
    }

    /// The catalog of the image.
    pub fn catalog(&self) -> Catalog {
        Catalog::parse(self.catalog_text().as_bytes(), &image()).expect("a good catalog")
    }

    /// Makes `text` the catalog of the image: the head names it by its digest.
    pub fn replace_catalog(&self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let sha256 = Digest::of(text);
        let path = self.repo().join(format!("node/catalogs/{sha256}.toml"));
        std::fs::write(path, text).expect("writes");
        let mut head = self.head();
        (head.catalog, head.size) = (sha256, text.len() as u64);
        if let Ok(catalog) = Catalog::parse(text, &image()) {
            (head.serial, head.revision) = (catalog.serial, catalog.revision);
        }
        std::fs::write(self.head_path(), head.to_toml().expect("text")).expect("writes");
    }

    /// Path of the diff between two publishes, given by their serials.
    pub fn diff(&self, base: u64, target: u64) -> PathBuf {
        let catalog = self.catalog();
        let id = |serial| {
            catalog.publishes.iter().find(|p| p.serial == serial).expect("a publish").generation
        };
        let kind = ArchiveKind::Diff { base: id(base), target: id(target) };
        let archive = catalog.archives.iter().find(|archive| archive.kind == kind).expect("a diff");
        self.repo().join("node").join(archive.file.file.as_str())
    }

    /// URL path of the diff from publish 1 to publish 2.
    pub fn served_diff(&self) -> String {
        let diff = self.diff(1, 2);
        format!("/{}", diff.strip_prefix(self.repo()).expect("a file of the repository").display())
    }

    /// Copies the node, for a later comparison.
    pub fn snapshot(&self) -> PathBuf {
        let copy = self.dir.path().join("snapshot");
        let _ = std::fs::remove_dir_all(&copy);
        copy_tree(&self.node(), &copy);
        copy
    }

    /// Asserts that the node equals its snapshot, and that no part of an update is left.
    #[track_caller]
    pub fn unchanged_since(&self, snapshot: &Path) {
        judge::same(snapshot, &self.node(), &[]);
        self.nothing_left();
        // The judge ignores the top, because the agent makes its own files there.
        let time = |path: &Path| {
            std::fs::metadata(path).expect("is there").modified().expect("has a time")
        };
        assert_eq!(time(snapshot), time(&self.node()), "the top has another time");
    }

    /// Asserts that no part of an update is left except the undo set.
    #[track_caller]
    pub fn nothing_left(&self) {
        for left in [".si-stage", ".si-full"] {
            assert!(!self.node().join(left).exists(), "{left} was left behind");
        }
        let undo = self.node().join(".si-undo");
        let whole = undo.join("way-back").exists() || undo.join("displaced").exists();
        assert!(!undo.exists() || whole, ".si-undo is no undo set");
    }

    /// The command that updates the node without exclude rules.
    pub fn command(&self) -> Command {
        let mut command = self.command_with_node_excludes();
        command.args(["--exclude-file", "/dev/null"]);
        command
    }

    /// The command that updates the node with the exclude rules of the node.
    pub fn command_with_node_excludes(&self) -> Command {
        let mut command = Command::new(updateclient());
        command
            .args(["--diff", "--yes", "--image", "node", "--repo", &self.repo_url, "--root"])
            .arg(self.node());
        if let Some(rsync) = &self.rsync {
            command.args(["--server", "127.0.0.1", "--rsync-port", &rsync.port.to_string()]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Updates the node.
    pub fn update(&self, more: &[&str]) -> Run {
        Run::from_output(self.command().args(more).output().expect("si_updateclient runs"))
    }

    /// Updates the node, which must succeed.
    #[track_caller]
    pub fn updated(&self, more: &[&str]) -> Run {
        let run = self.update(more);
        assert_eq!(run.code, 0, "{run:#?}");
        run
    }

    /// Tries an update, which must end with `code` and print `words`.
    ///
    /// The tree must be unchanged, and no part of the update may be left.
    #[track_caller]
    pub fn refused(&self, more: &[&str], code: i32, words: &[&str]) {
        let before = self.dir.path().join("before");
        let _ = std::fs::remove_dir_all(&before);
        copy_tree(&self.node(), &before);
        self.update(more).ended(code, words);
        self.unchanged_since(&before);
    }

    /// The command that rolls back the last update of the node.
    pub fn rollback_command(&self) -> Command {
        let mut command = Command::new(updateclient());
        command.args(["--rollback", "--yes", "--root"]).arg(self.node()).stdin(Stdio::null());
        command
    }

    /// Rolls back the last update of the node.
    pub fn rollback(&self, more: &[&str]) -> Run {
        Run::from_output(self.rollback_command().args(more).output().expect("si_updateclient runs"))
    }

    /// Asserts that the node equals the image.
    #[track_caller]
    pub fn same(&self) {
        self.same_except(&[]);
    }

    /// Asserts that the node equals the image under exclude rules.
    #[track_caller]
    pub fn same_except(&self, excludes: &[&str]) {
        judge::same(&self.image(), &self.node(), excludes);
        self.nothing_left();
    }

    /// Output of `--status` on the node.
    pub fn status(&self) -> String {
        let mut command = Command::new(updateclient());
        let output = command
            .arg("--status")
            .arg("--root")
            .arg(self.node())
            .output()
            .expect("si_updateclient runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Files in a directory of the repository.
    pub fn archives(&self, kind: &str) -> Vec<PathBuf> {
        let listed =
            std::fs::read_dir(self.repo().join("node").join(kind)).expect("the repository");
        let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }
}

impl Run {
    pub fn from_output(output: Output) -> Self {
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts that the run ended with `code` and printed all of `words`.
    #[track_caller]
    pub fn ended(&self, code: i32, words: &[&str]) -> &Self {
        let output = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{self:#?}");
        for word in words {
            assert!(output.contains(word), "{word:?} is missing: {self:#?}");
        }
        self
    }
}

impl Daemon {
    fn rsync(dir: &Path) -> Self {
        let port = free_port();
        let config = dir.join("rsyncd.conf");
        let images = dir.join("images/node");
        let mut text = format!(
            "use chroot = no\nuid = 0\ngid = 0\nmax connections = 0\nlog file = {}\n\
             [node]\npath = {}\nread only = yes\n",
            dir.join("rsyncd.log").display(),
            images.display(),
        );

        // The last three are modules of SystemImager's own server; some tests make their
        // directories.
        for module in ["repo", "overrides", "scripts", "boot"] {
            text +=
                &format!("[{module}]\npath = {}\nread only = yes\n", dir.join(module).display());
        }

        std::fs::write(&config, text).expect("rsyncd.conf");
        let child = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the rsync daemon starts");
        let daemon = Daemon { child, port };
        wait_for_server(port);

        daemon
    }
}

/// The image of a site.
fn image() -> Layer {
    Layer::Image("node".parse().expect("a name"))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
