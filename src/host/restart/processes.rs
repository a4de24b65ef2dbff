//! Which processes map or run files that were replaced.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::root::{Root, RootError};

/// What the kernel adds to the name of a file that no name leads to any more.
const DELETED: &[u8] = b" (deleted)";
/// Where an update keeps what it displaces: the kernel shows a file that was moved there by its new name.
const KEPT: [&[u8]; 2] = [b".si-undo", b".si-stage"];
/// What programs make and unlink themselves, and what has no file at all.
const OWN: [&[u8]; 12] = [
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
/// Data of these places changes all the time, and who maps it copes: caches, databases, locales.
const DATA: [&[u8]; 3] = [b"/var/", b"/usr/share/", b"/usr/lib/locale/"];

/// What was found.
pub struct Processes {
    /// Those that use replaced files, by id.
    pub stale: Vec<Process>,
    /// Those that we may not look into.
    pub unseen: usize,
}

/// A process that uses replaced files.
pub struct Process {
    pub pid: u32,
    /// What it calls itself.
    pub command: String,
    /// Its program first; never empty.
    pub files: Vec<String>,
    /// Its place in the tree of control groups.
    group: String,
}

/// To what a process belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A service of the system.
    Service(String),
    /// Nothing that could be restarted as such: a session, or a system without services.
    Process { pid: u32, command: String },
}

impl Processes {
    /// Reads what `proc` shows; processes whose root is not `root` are others' (containers).
    pub fn read(proc: &Path, root: &Root) -> Result<Self, RootError> {
        let fail = |source: io::Error| RootError {
            what: "read",
            path: proc.display().to_string(),
            source,
        };
        let top = rustix::fs::fstat(root).map_err(|e| fail(e.into()))?;
        let ourselves = pid(&fs::read_link(proc.join("self")).unwrap_or_default());
        let prefix = match root.shown().as_os_str().as_bytes() {
            b"/" => Vec::new(),
            path => path.to_vec(),
        };
        let mut pids = Vec::new();
        for entry in fs::read_dir(proc).map_err(fail)? {
            pids.extend(pid(Path::new(&entry.map_err(fail)?.file_name())));
        }
        pids.sort_unstable();
        let mut found = Processes { stale: Vec::new(), unseen: 0 };
        for pid in pids.into_iter().filter(|pid| Some(*pid) != ourselves) {
            let place = proc.join(pid.to_string());
            let is_ours =
                |meta: &fs::Metadata| (meta.dev(), meta.ino()) == (top.st_dev, top.st_ino);
            let files = match fs::metadata(place.join("root")) {
                Ok(meta) if !is_ours(&meta) => continue,
                Ok(_) => files(&place, &prefix),
                Err(e) => Err(e),
            };
            match files {
                Ok(files) if files.is_empty() => {}
                Ok(files) => found.stale.push(Process::new(pid, files, &place)),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => found.unseen += 1,
                // It has ended meanwhile.
                Err(_) => {}
            }
        }
        Ok(found)
    }
}

impl Process {
    fn new(pid: u32, files: Vec<String>, place: &Path) -> Self {
        let text = |name: &str| {
            String::from_utf8_lossy(&fs::read(place.join(name)).unwrap_or_default()).into_owned()
        };
        let command = printable(text("comm").trim_end().as_bytes());
        Process { pid, command, files, group: printable(group(&text("cgroup")).as_bytes()) }
    }

    /// To what it belongs.
    pub fn owner(&self) -> Owner {
        let service = self.group.rsplit('/').find(|part| part.ends_with(".service"));
        match service.filter(|_| self.is_of_the_system()) {
            Some(name) => Owner::Service(name.to_owned()),
            None => Owner::Process { pid: self.pid, command: self.command.clone() },
        }
    }

    /// Whether no user's session started it.
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

fn pid(name: &Path) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The group that systemd keeps a process in: of the one hierarchy there is, or of the one of its own.
fn group(text: &str) -> String {
    let of =
        |begin: &str| text.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(begin));
    let own = of("name=systemd:").filter(|group| *group != "/");
    own.or_else(|| of(":")).unwrap_or_default().to_owned()
}

/// The replaced files that a process runs and maps, without the `prefix` of the tree.
fn files(place: &Path, prefix: &[u8]) -> io::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut take = |file: String| {
        if !found.contains(&file) {
            found.push(file);
        }
    };
    // A thread of the kernel has no program, and maps nothing.
    if let Ok(program) = fs::read_link(place.join("exe")) {
        replaced(program.as_os_str().as_bytes(), prefix, Use::Program)
            .into_iter()
            .for_each(&mut take);
    }
    for line in BufReader::new(File::open(place.join("maps"))?).split(b'\n') {
        let line = line?;
        mapping(&line)
            .and_then(|(name, kind)| replaced(name, prefix, kind))
            .into_iter()
            .for_each(&mut take);
    }
    Ok(found)
}

/// How a file is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Program,
    /// As data that nobody changes.
    Data,
    /// As data that is shared with whoever else maps it.
    Shared,
}

/// The name in a line of `maps`, and how the file is used: `BEGIN-END rwxp OFFSET DEVICE INODE   NAME`.
fn mapping(line: &[u8]) -> Option<(&[u8], Use)> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let rights = words.nth(1)?;
    let name = words.nth(3)?.trim_ascii_start();
    let kind = match rights {
        [_, _, b'x', _] => Use::Program,
        [_, _, _, b's'] => Use::Shared,
        _ => Use::Data,
    };
    Some((name, kind))
}

/// The path below the tree of a file that the kernel calls `name`, if it was replaced and whoever uses it is to
/// be told.
fn replaced(name: &[u8], prefix: &[u8], kind: Use) -> Option<String> {
    let path = name.strip_prefix(prefix).filter(|path| path.starts_with(b"/"))?;
    let gone = path.strip_suffix(DELETED);
    let path = gone.unwrap_or(path);
    let kept = path.split(|&byte| byte == b'/').any(|part| KEPT.contains(&part));
    let begins = |places: &[&[u8]]| places.iter().any(|place| path.starts_with(place));
    let own = begins(&OWN) || kind == Use::Shared || kind == Use::Data && begins(&DATA);
    let is_replaced = gone.is_some() || kept;
    (is_replaced && !own).then(|| printable(path))
}

/// Processes choose their names themselves: nothing of them may harm a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
