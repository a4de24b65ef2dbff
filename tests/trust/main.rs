//! A repository that proves itself: keys, signatures, heads, and the attacks that they stop.
//!
//! Each test is an attack or a situation of an administrator. An attack leaves the tree unchanged
//! and ends with exit code 3.

mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod image_keys;
mod keys;
mod recovery;
mod rotation;
mod routes;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::Site;
use common::trees::{self, Item, Tree};
use systemimager::catalog::{Catalog, Head};
use systemimager::signature::{Protection, SecretKey, SecretKeyFile, SignedText};

/// Directory of a node's keys.
const KEYS: &str = "etc/systemimager/keys";

/// A tree that differs by `round`.
fn tree(round: u64) -> Tree {
    let mut tree = trees::system();
    trees::put(&mut tree, "etc/version", Item::file(format!("version {round}")));
    tree
}

/// The tree of `round` with the public keys, as paths below the directory of keys.
fn with_keys(round: u64, keys: &[(&str, &SiteKey)]) -> Tree {
    let mut tree = tree(round);
    trees::put(&mut tree, KEYS, Item::dir());
    for (path, key) in keys {
        let text = fs::read(key.out.with_extension("pub")).expect("reads");
        trees::put(&mut tree, &format!("{KEYS}/{path}"), Item::file(text));
    }
    trees::with_parents(tree)
}

/// A key of a site: its two files and the key itself.
struct SiteKey {
    /// The files without suffix.
    out: PathBuf,
    key: SecretKey,
}

impl SiteKey {
    fn new(site: &Site, name: &str) -> Self {
        let key = SecretKey::generate().expect("random numbers");
        let out = site.dir.path().join(name);
        let text = key.to_file(Protection::None).expect("writes");
        fs::write(out.with_extension("key"), text.as_bytes()).expect("writes");
        common::run(Command::new("chmod").arg("600").arg(out.with_extension("key")));
        fs::write(out.with_extension("pub"), key.public_key().to_file()).expect("writes");
        SiteKey { out, key }
    }

    /// Path of the secret key.
    fn secret(&self) -> String {
        self.out.with_extension("key").display().to_string()
    }

    /// Path of the public key.
    fn public(&self) -> String {
        self.out.with_extension("pub").display().to_string()
    }

    /// Makes the node trust the key for a role: a directory below that of the keys.
    fn trust(&self, site: &Site, role: &str) {
        let directory = site.node().join(KEYS).join(role);
        fs::create_dir_all(&directory).expect("creates");
        let public = self.out.with_extension("pub");
        fs::copy(&public, directory.join(public.file_name().expect("a name"))).expect("copies");
    }

    /// Removes the key from the node.
    fn distrust(&self, site: &Site) {
        let name = self.out.with_extension("pub");
        let path = site.node().join(KEYS).join(name.file_name().expect("a name"));
        fs::remove_file(path).expect("removes");
    }

    /// The text with a signature.
    fn sign(&self, text: &str) -> Vec<u8> {
        let block = self.key.sign(text.as_bytes(), "a test").expect("signs");
        SignedText::join(text.as_bytes(), &[block]).expect("joins")
    }
}

/// A node with one publish key, at the first of two publishes.
fn signed_site() -> (Site, SiteKey) {
    let site = Site::new();
    let key = SiteKey::new(&site, "site");
    publish(&site, &tree(1), &["--sign-key", &key.secret()]);
    site.install_node();
    key.trust(&site, "");
    site.updated(&["--adopt"]);
    (site, key)
}

fn publish(site: &Site, tree: &Tree, more: &[&str]) {
    let _ = fs::remove_dir_all(site.image());
    trees::write(tree, &site.image());
    site.publish_image(more);
}

/// Runs `si_tardiff` on the repository of the site.
fn tardiff(site: &Site, words: &[&str]) -> common::site::Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_si_tardiff"));
    command.args(words).arg("--repo").arg(site.repo());
    common::site::Run::from_output(command.output().expect("runs"))
}

/// The head; its signature is not verified.
fn read_head(site: &Site) -> Head {
    let bytes = fs::read(site.head_path()).expect("reads");
    let text = SignedText::split(&bytes).expect("divides").unverified_text();
    Head::parse(text, &layer()).expect("parses")
}

/// The newest catalog; its signature is not verified.
fn read_catalog(site: &Site) -> Catalog {
    let bytes = fs::read(catalog_path(site)).expect("reads");
    let text = SignedText::split(&bytes).expect("divides").unverified_text();
    Catalog::parse(text, &layer()).expect("parses")
}

fn catalog_path(site: &Site) -> PathBuf {
    let file = read_head(site).catalog_file().expect("a path").file;
    site.repo().join("node").join(file.as_str())
}

/// Writes a head that `key` signs.
fn write_head(site: &Site, head: &Head, key: &SiteKey) {
    fs::write(site.head_path(), key.sign(&head.to_toml().expect("text"))).expect("writes");
}

/// Replaces catalog and head; each is signed by a key.
fn write_catalog(site: &Site, catalog: &Catalog, (publish, head): (&SiteKey, &SiteKey)) {
    let bytes = publish.sign(&catalog.to_toml().expect("text"));
    let sha256 = systemimager::digest::Digest::of(&bytes);
    fs::write(site.repo().join(format!("node/catalogs/{sha256}.toml")), &bytes).expect("writes");
    let (serial, revision) = (catalog.serial, catalog.revision);
    let size = bytes.len() as u64;
    let issued = jiff::Timestamp::now();
    let new = Head { catalog: sha256, size, serial, revision, issued, ..read_head(site) };
    write_head(site, &new, head);
}

fn layer() -> systemimager::image::Layer {
    systemimager::image::Layer::Image("node".parse().expect("a name"))
}

/// Whether a secret key file is encrypted.
fn is_encrypted(path: &Path) -> bool {
    let bytes = fs::read(path).expect("reads");
    matches!(SecretKeyFile::parse(&bytes), Ok(SecretKeyFile::Encrypted(_)))
}

/// Asserts that the node refuses the repository, and accepts it again after `restore`.
#[track_caller]
fn refused_until(site: &Site, words: &[&str], restore: impl FnOnce()) {
    site.refused(&[], 3, words);
    restore();
    site.updated(&[]);
}
