//! Processes that run or map replaced files.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::client_paths::{STAGE_DIR, UNDO_DIR};
use crate::root::{Root, RootError};

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
                Ok(_) => replaced_files(&dir, &prefix),
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

/// The replaced files that a process runs or maps, as paths of the tree at `prefix`.
fn replaced_files(dir: &Path, prefix: &[u8]) -> io::Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();

    // A kernel thread has no program, and maps no file.
    if let Ok(program) = fs::read_link(dir.join("exe")) {
        files.extend(replaced_file(program.as_os_str().as_bytes(), prefix, Use::Program));
    }
    for line in BufReader::new(File::open(dir.join("maps"))?).split(b'\n') {
        let line = line?;
        let Some((name, usage)) = parse_mapping(&line) else { continue };
        let file = replaced_file(name, prefix, usage);
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

/// Parses a line of `maps`, which is `BEGIN-END rwxp OFFSET DEVICE INODE   NAME`.
fn parse_mapping(line: &[u8]) -> Option<(&[u8], Use)> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let rights = words.nth(1)?;
    let name = words.nth(3)?.trim_ascii_start();
    let usage = match rights {
        [_, _, b'x', _] => Use::Program,
        [_, _, _, b's'] => Use::Shared,
        _ => Use::Data,
    };
    Some((name, usage))
}

/// The path of a file in the tree, if it was replaced and its user should be restarted.
///
/// `name` is the kernel's name of the file.
fn replaced_file(name: &[u8], prefix: &[u8], usage: Use) -> Option<String> {
    let path = name.strip_prefix(prefix).filter(|path| path.starts_with(b"/"))?;
    let deleted = path.strip_suffix(DELETED);
    let path = deleted.unwrap_or(path);
    let is_backup = path.split(|&byte| byte == b'/').any(|part| BACKUP_DIRS.contains(&part));
    if deleted.is_none() && !is_backup {
        return None;
    }

    let begins_with = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    let is_harmless = match usage {
        Use::Shared => true,
        Use::Data => begins_with(&TEMPORARY) || begins_with(&CHANGING_DATA),
        Use::Program => begins_with(&TEMPORARY),
    };
    (!is_harmless).then(|| printable(path))
}

/// Replaces control characters: processes choose their names, which must not harm a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
