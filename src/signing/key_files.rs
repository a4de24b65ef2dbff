//! Key files of the server.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::SigningError;
use crate::host::named_file;
use crate::signature::{
    KeyError, KeyFileError, KeySet, MAX_KEY_FILE, Protection, PublicKey, Role, SecretKey,
    SecretKeyFile,
};

/// Permissions of a secret key.
const SECRET_FILE: u32 = 0o600;
/// Permissions of a public key, which nodes and administrators read.
const PUBLIC_FILE: u32 = 0o644;
/// Permissions of a new directory for keys.
const KEY_DIR: u32 = 0o700;
/// Permission to read for others.
const OTHERS_READ: u32 = 0o004;
/// Keys of one directory; a site has a few.
const MAX_KEYS: usize = 1024;

/// Files of a new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPaths {
    /// `OUT.key`.
    pub secret: PathBuf,
    /// `OUT.pub`.
    pub public: PathBuf,
}

impl KeyPaths {
    /// The files that belong to the name `out`.
    pub fn new(out: &Path) -> Self {
        KeyPaths { secret: with_suffix(out, ".key"), public: with_suffix(out, ".pub") }
    }

    /// Fails if one of the files exists.
    pub fn refuse_existing(&self) -> Result<(), SigningError> {
        for path in [&self.secret, &self.public] {
            match fs::symlink_metadata(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(SigningError::file("create", path, e)),
                Ok(_) => return Err(SigningError::Exists { path: path.clone() }),
            }
        }
        Ok(())
    }
}

/// Makes a key and writes its two files durably; neither replaces a file.
///
/// The secret key is in place first: the public one can be made from it, with `minisign -R`.
pub fn create_key_pair(
    paths: &KeyPaths,
    protection: Protection<'_>,
) -> Result<PublicKey, SigningError> {
    paths.refuse_existing()?;
    let dir = directory_of(&paths.secret);
    DirBuilder::new()
        .recursive(true)
        .mode(KEY_DIR)
        .create(&dir)
        .map_err(|e| SigningError::file("create", &dir, e))?;

    let key = SecretKey::generate()?;
    let secret =
        UnfinishedKey::write(&paths.secret, SECRET_FILE, key.to_file(protection)?.as_bytes())?;
    let public_key = key.public_key();
    let public = UnfinishedKey::write(&paths.public, PUBLIC_FILE, public_key.to_file().as_bytes())?;

    secret.rename_into_place()?;
    public.rename_into_place()?;
    let synced = File::open(&dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| SigningError::file("sync", &dir, e))?;
    Ok(public_key)
}

/// Reads a secret key file; without a passphrase it must not be readable for everyone.
pub fn read_secret_key(path: &Path) -> Result<SecretKeyFile, SigningError> {
    let unreadable = |e| SigningError::file("read", path, e);
    let bytes = zeroize::Zeroizing::new(read_bounded(path)?);
    let key = SecretKeyFile::parse(&bytes).map_err(|source| invalid(path, source))?;

    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if matches!(key, SecretKeyFile::Plain(_)) && mode & OTHERS_READ != 0 {
        return Err(SigningError::OpenToAll { path: path.to_owned() });
    }
    Ok(key)
}

/// Reads a `.pub` file.
pub fn read_public_key(path: &Path) -> Result<PublicKey, SigningError> {
    PublicKey::parse(&read_bounded(path)?).map_err(|source| invalid(path, source))
}

/// Reads `*.pub`, `head/*.pub` and `revoked/*.pub` of a directory of the server.
pub fn read_key_dir(dir: &Path) -> Result<KeySet, SigningError> {
    let mut keys = KeySet::new();
    for path in public_key_files(dir)? {
        keys.insert(Role::Publish, read_public_key(&path)?);
    }
    for path in public_key_files(&dir.join("head"))? {
        keys.insert(Role::Head, read_public_key(&path)?);
    }
    for path in public_key_files(&dir.join("revoked"))? {
        keys.insert_revoked(read_public_key(&path)?);
    }
    Ok(keys)
}

/// The `.pub` files of a directory; none if it does not exist.
fn public_key_files(dir: &Path) -> Result<Vec<PathBuf>, SigningError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| SigningError::file("list", dir, e))?,
    };

    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| SigningError::file("list", dir, e))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            files.push(path);
        }
        if files.len() > MAX_KEYS {
            let error = io::Error::other("it has more than 1,024 keys");
            return Err(SigningError::file("list", dir, error));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a key file, and one byte more than a valid one may have.
fn read_bounded(path: &Path) -> Result<Vec<u8>, SigningError> {
    named_file::read(path, MAX_KEY_FILE + 1).map_err(|e| SigningError::file("read", path, e))
}

fn invalid(path: &Path, source: KeyError) -> SigningError {
    KeyFileError { name: path.display().to_string(), source }.into()
}

/// A durable file beside its final name; removed on drop.
struct UnfinishedKey {
    path: PathBuf,
    place: PathBuf,
}

impl UnfinishedKey {
    fn write(place: &Path, mode: u32, content: &[u8]) -> Result<Self, SigningError> {
        let path = with_suffix(place, &format!(".new-{}", std::process::id()));
        let error = |operation, e| SigningError::file(operation, &path, e);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(SECRET_FILE)
            .open(&path)
            .map_err(|e| error("create", e))?;
        let unfinished = UnfinishedKey { path: path.clone(), place: place.to_owned() };

        file.set_permissions(Permissions::from_mode(mode))
            .map_err(|e| error("set the permissions of", e))?;
        file.write_all(content).map_err(|e| error("write", e))?;
        file.sync_all().map_err(|e| error("sync", e))?;
        Ok(unfinished)
    }

    fn rename_into_place(&self) -> Result<(), SigningError> {
        let renamed = match renameat_with(CWD, &self.path, CWD, &self.place, RenameFlags::NOREPLACE)
        {
            // NFS and old kernels do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(&self.place).is_err() => {
                fs::rename(&self.path, &self.place)
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => SigningError::Exists { path: self.place.clone() },
            _ => SigningError::file("rename a file to", &self.place, e),
        })
    }
}

impl Drop for UnfinishedKey {
    fn drop(&mut self) {
        // Fails after the rename, which moved the name.
        let _ = fs::remove_file(&self.path);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}
