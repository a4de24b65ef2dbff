//! Processes that run or map replaced files.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::client_paths::{STAGE_DIR, UNDO_DIR};
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Suffix by which the kernel marks a file without a name.
const DELETED: &[u8] = b" (deleted)";
/// Directories of backups: the kernel shows a file that was moved there with its new name.
const BACKUP_DIRS: [&[u8]; 2] = [UNDO_DIR.as_bytes(), STAGE_DIR.as_bytes()];
/// Prefixes of files that programs create and unlink themselves, and of mappings without a file.
const TEMPORARY: [&[u8]; 12] = [
    b"/dev/",
    b"/tmp/",
    b"/run/",
    b"/var/tmp/",
    b"/var/run/",
    b"/proc/",
    b"/memfd:",
    b"/SYSV",
    b"/anon",
    b"/[",
    b"/drm ",
    b"/i915",
];
/// Prefixes of data that changes often, so that programs expect it: caches, databases, locales.
const CHANGING_DATA: [&[u8]; 3] = [b"/var/", b"/usr/share/", b"/usr/lib/locale/"];

/// The processes of a system.
pub struct Processes {
    /// Processes that use replaced files, by pid.
    pub stale: Vec<Process>,
    /// Number of processes that this user may not inspect.
    pub unseen: usize,
}

/// A process that uses replaced files.
pub struct Process {
    pub pid: u32,
    /// Name that the process gives itself.
    pub command: String,
    /// The replaced files, its program first; never empty.
    pub files: Vec<String>,
    /// Path of its control group.
    group: String,
}

/// Unit to restart for a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A service of the system.
    Service(String),
    /// The process itself: it belongs to a session, or the system has no services.
    Process { pid: u32, command: String },
}

impl Processes {
    /// Reads the processes in `proc` whose root directory is `root`; those of containers have
    /// another.
    pub fn read(proc: &Path, root: &Root) -> Result<Self, RootError> {
        let fail = |source: io::Error| RootError {
            operation: "read",
            path: proc.display().to_string(),
            source,
        };
        let top = rustix::fs::fstat(root).map_err(|e| fail(e.into()))?;
        let own_pid = parse_pid(&fs::read_link(proc.join("self")).unwrap_or_default());
        let prefix = match root.location().as_os_str().as_bytes() {
            b"/" => Vec::new(),
            path => path.to_vec(),
        };

        let mut pids = Vec::new();
        for entry in fs::read_dir(proc).map_err(fail)? {
            pids.extend(parse_pid(Path::new(&entry.map_err(fail)?.file_name())));
        }
        pids.sort_unstable();

        let mut processes = Processes { stale: Vec::new(), unseen: 0 };
        for pid in pids.into_iter().filter(|pid| Some(*pid) != own_pid) {
            let dir = proc.join(pid.to_string());
            let files = match fs::metadata(dir.join("root")) {
                Ok(meta) if (meta.dev(), meta.ino()) != (top.st_dev, top.st_ino) => continue,
                Ok(_) => replaced_files(&dir, &Tree { root, prefix: &prefix }),
                Err(e) => Err(e),
            };
            match files {
                Ok(files) if files.is_empty() => {}
                Ok(files) => processes.stale.push(Process::new(pid, files, &dir)),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => processes.unseen += 1,
                // The process has ended since.
                Err(_) => {}
            }
        }
        Ok(processes)
    }
}

impl Process {
    fn new(pid: u32, files: Vec<String>, dir: &Path) -> Self {
        let text = |name: &str| {
            String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).into_owned()
        };
        let command = printable(text("comm").trim_end().as_bytes());
        Process { pid, command, files, group: printable(control_group(&text("cgroup")).as_bytes()) }
    }

    /// The unit to restart for this process.
    pub fn owner(&self) -> Owner {
        let service = self.group.rsplit('/').find(|part| part.ends_with(".service"));
        match service.filter(|_| self.is_of_the_system()) {
            Some(name) => Owner::Service(name.to_owned()),
            None => Owner::Process { pid: self.pid, command: self.command.clone() },
        }
    }

    /// Whether it belongs to the system, and not to a user's session.
    pub fn is_of_the_system(&self) -> bool {
        !self.group.starts_with("/user.slice/")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Service(name) => f.write_str(name),
            Owner::Process { pid, command } => write!(f, "{command} (pid {pid})"),
        }
    }
}

fn parse_pid(name: &Path) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The control group in which systemd puts a process.
///
/// With cgroup v1 systemd has a hierarchy of its own, with cgroup v2 there is only one.
fn control_group(text: &str) -> String {
    let group_of = |hierarchy: &str| {
        text.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(hierarchy))
    };
    let own = group_of("name=systemd:").filter(|group| *group != "/");
    own.or_else(|| group_of(":")).unwrap_or_default().to_owned()
}

/// The tree of the system, and its path as processes see it.
struct Tree<'a> {
    root: &'a Root,
    prefix: &'a [u8],
}

/// The replaced files that a process runs or maps, as paths of the tree.
fn replaced_files(dir: &Path, tree: &Tree<'_>) -> io::Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();

    // A kernel thread has no program, and maps no file.
    let exe = dir.join("exe");
    if let Ok(program) = fs::read_link(&exe) {
        let name = program.as_os_str().as_bytes();
        files.extend(tree.replaced_file(name, Use::Program, || {
            fs::metadata(&exe).ok().map(|meta| (meta.dev(), meta.ino()))
        }));
    }
    for line in BufReader::new(File::open(dir.join("maps"))?).split(b'\n') {
        let line = line?;
        let Some(mapping) = parse_mapping(&line) else { continue };
        let file = tree.replaced_file(mapping.name, mapping.usage, || mapping.inode(dir));
        files.extend(file.filter(|file| !files.contains(file)));
    }
    Ok(files)
}

/// Use of a file by a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Program,
    /// A private mapping of data.
    Data,
    /// A shared mapping of data, which programs use to exchange data.
    Shared,
}

/// A mapping of a file.
struct Mapping<'a> {
    /// Its addresses, `BEGIN-END`.
    range: &'a str,
    usage: Use,
    /// Device and inode as the kernel prints them.
    printed: Option<Inode>,
    /// The kernel's name of the file.
    name: &'a [u8],
}

/// Device and inode number of a file.
type Inode = (u64, u64);

impl Mapping<'_> {
    /// The inode that is mapped.
    ///
    /// `map_files` leads to it, also if the file has no name any more, but only for root. The
    /// device in `maps` can be another than that of stat(2), for example on btrfs.
    fn inode(&self, dir: &Path) -> Option<Inode> {
        let link = dir.join("map_files").join(self.range);
        fs::metadata(link).ok().map(|meta| (meta.dev(), meta.ino())).or(self.printed)
    }
}

/// Parses a line of `maps`, which is `BEGIN-END rwxp OFFSET DEVICE INODE   NAME`.
fn parse_mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let range = std::str::from_utf8(words.next()?).ok()?;
    let rights = words.next()?;
    let _offset = words.next()?;
    let (device, inode) = (words.next()?, words.next()?);
    let name = words.next()?.trim_ascii_start();
    let usage = match rights {
        [_, _, b'x', _] => Use::Program,
        [_, _, _, b's'] => Use::Shared,
        _ => Use::Data,
    };
    Some(Mapping { range, usage, printed: parse_inode(device, inode), name })
}

/// Parses `MAJOR:MINOR` in hexadecimal, and the inode number in decimal.
fn parse_inode(device: &[u8], inode: &[u8]) -> Option<Inode> {
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let device = rustix::fs::makedev(number(major)?, number(minor)?);
    Some((device, std::str::from_utf8(inode).ok()?.parse().ok()?))
}

impl Tree<'_> {
    /// The path of a file in the tree, if it was replaced and its user should be restarted.
    ///
    /// `name` is the kernel's name of the file. The kernel marks a name as deleted if another file
    /// was renamed over it, and keeps the mark if a rollback renames the same inode back. So the
    /// inodes decide. A file that was moved to a directory of backups keeps its name there until a
    /// rollback moves it back; as long as it has that name, it is not at its path.
    fn replaced_file(
        &self,
        name: &[u8],
        usage: Use,
        inode: impl FnOnce() -> Option<Inode>,
    ) -> Option<String> {
        let path = name.strip_prefix(self.prefix).filter(|path| path.starts_with(b"/"))?;
        let deleted = path.strip_suffix(DELETED);
        let path = deleted.unwrap_or(path);
        let is_backup = path.split(|&byte| byte == b'/').any(|part| BACKUP_DIRS.contains(&part));
        if deleted.is_none() && !is_backup {
            return None;
        }

        let begins_with =
            |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        let is_harmless = match usage {
            Use::Shared => true,
            Use::Data => begins_with(&TEMPORARY) || begins_with(&CHANGING_DATA),
            Use::Program => begins_with(&TEMPORARY),
        };
        if is_harmless || (!is_backup && self.is_at(path, inode())) {
            return None;
        }
        Some(printable(path))
    }

    /// Whether the file at an absolute path has this inode.
    fn is_at(&self, path: &[u8], inode: Option<Inode>) -> bool {
        let Ok(path) = TreePath::new(&path[1..]) else { return false };
        let stat = self.root.stat(&path).ok().flatten();
        inode.is_some() && stat.map(|stat| (stat.dev, stat.ino)) == inode
    }
}

/// Replaces control characters: processes choose their names, which must not harm a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
