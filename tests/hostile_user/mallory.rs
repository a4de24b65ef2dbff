//! The hostile user: a process without privileges that owns a directory of the image.
//!
//! He exchanges, renames, links, leases and grows everything that he can reach, as fast as he can.
//! He is this test binary, started again, so that a kill ends him at any moment.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags, fsetxattr, ftruncate, linkat,
    mkdirat, mknodat, openat, renameat_with, symlinkat, unlinkat,
};

use super::{BIRTH, Random, USER};

/// Parameters of the process: tree, directory outside of it, seed.
pub const VARIABLE: &str = "SI_TEST_HOSTILE_USER";
/// Beginning of every file that he writes.
pub const CONTENT: &[u8] = b"MALLORY";

/// Entries of the image in his home directory.
const TRACKED: [&str; 14] = [
    ".profile", "d", "d/f1", "d/f2", "d/sub", "d/sub/f", "e", "e/x", "g", "g/s", "big", "tool",
    "link", "shared",
];
/// Directories that the second generation takes away from him, with set-id bits.
pub const TAKEN: usize = 8;
/// Number of his names for objects that he exchanges with others.
const SPARES: usize = 4;
/// Files that he leases at the same time.
const MAX_LEASES: usize = 3;
/// Size to which he grows files; they are holes.
const GROWN: u64 = 1 << 30;
/// Longest wait for the beginning of the changes.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Whether the user makes FIFOs and leases files.
///
/// The rsync program waits for the writer of a FIFO that takes the place of a file, until its time
/// limit of two minutes, and for each leased file until the kernel breaks the lease, 45 seconds.
/// That is too long for a test.
#[derive(Clone, Copy, Debug)]
pub enum Blockers {
    Made,
    NotMade,
}

/// Starts the process, and waits until it attacks.
pub fn start(node: &Path, outside: &Path, seed: u64, blockers: Blockers) -> Child {
    let tests = std::env::current_exe().expect("this program");
    // A lease that another process breaks sends SIGIO, which would end him.
    let script = "trap '' IO; exec \"$0\" --exact mallory::mallory --nocapture";
    let ready = node.with_file_name("ready");
    let _ = std::fs::remove_file(&ready);
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(tests)
        .env(VARIABLE, format!("{}\n{}\n{seed}\n{blockers:?}", node.display(), outside.display()))
        .stdin(Stdio::null())
        .stdout(File::create(&ready).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");

    super::common::wait_until("the hostile user starts", || {
        std::fs::read_to_string(&ready).is_ok_and(|text| text.contains("attacking"))
    });
    child
}

/// Not a test, but the hostile user, if the variable is set.
#[test]
fn mallory() {
    let Ok(parameters) = std::env::var(VARIABLE) else { return };
    let words: Vec<&str> = parameters.lines().collect();
    let [node, outside, seed, blockers] = words[..] else { panic!("{parameters}") };

    let mut mallory =
        Mallory::new(Path::new(node), Path::new(outside), seed.parse().expect("a number"));
    let mut stdout = std::io::stdout();
    stdout.write_all(b"attacking\n").and_then(|()| stdout.flush()).expect("prints");
    mallory.has_blockers = blockers == format!("{:?}", Blockers::Made);
    mallory.attack();
}

struct Mallory {
    home: OwnedFd,
    tmp: OwnedFd,
    outside: PathBuf,
    /// A file of root that the update changes.
    watched: PathBuf,
    random: Random,
    leases: Vec<File>,
    has_blockers: bool,
}

impl Mallory {
    fn new(node: &Path, outside: &Path, seed: u64) -> Self {
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, node.join(path), flags, Mode::empty()).expect("a directory")
        };
        let (home, tmp) = (open("home/mallory"), open("tmp"));

        // The identity belongs to this thread, which alone works.
        let (uid, gid) =
            (rustix::process::Uid::from_raw(USER), rustix::process::Gid::from_raw(USER));
        rustix::thread::set_thread_groups(&[]).expect("is root");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("is root");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("is root");
        assert!(openat(CWD, node.join("etc/version"), OFlags::WRONLY, Mode::empty()).is_err());

        Mallory {
            home,
            tmp,
            outside: outside.to_owned(),
            watched: node.join("etc/version"),
            random: Random(seed),
            leases: Vec::new(),
            has_blockers: true,
        }
    }

    /// Attacks until the process is killed.
    fn attack(&mut self) {
        self.prepare_files();
        if self.random.below(2) == 0 {
            self.wait_for_change();
            self.exchange_taken_directories();
        }

        loop {
            match self.random.below(16) {
                0..=5 => self.exchange_once(),
                6 => self.exchange_taken_directories(),
                7 => self.rename_away(),
                8 => self.link(),
                9 if self.has_blockers => self.lease(),
                10 => self.grow(),
                11 => self.change_metadata(),
                12 => self.litter(),
                13 => self.write_in_place(),
                14 => std::thread::sleep(Duration::from_millis(self.random.below(5))),
                _ => self.exchange_outside_file(),
            }
        }
    }

    /// Own executable files, for exchanges.
    fn prepare_files(&mut self) {
        for number in 0..TAKEN {
            self.create_file(&format!(".f{number}"));
        }
    }

    /// Waits until the update has begun to change the tree.
    fn wait_for_change(&self) {
        let inode = || rustix::fs::stat(&self.watched).map(|stat| stat.st_ino);
        let (first, begin) = (inode(), Instant::now());
        while inode() == first && begin.elapsed() < MAX_WAIT {}
    }

    fn exchange(&self, one: &str, other: &str) {
        let _ = renameat_with(&self.home, one, &self.home, other, RenameFlags::EXCHANGE);
    }

    /// Exchanges each directory that root is about to take with an own file, again and again.
    fn exchange_taken_directories(&mut self) {
        for _ in 0..200 {
            for number in 0..TAKEN {
                self.exchange(&format!("s{number}"), &format!(".f{number}"));
            }
        }
    }

    /// Puts an object in place of a tracked one; most times he restores it soon.
    fn exchange_once(&mut self) {
        let tracked = self.tracked();
        let spare = format!(".x{}", self.random.below(SPARES as u64));
        self.make_object(&spare);
        self.exchange(&tracked, &spare);
        if self.random.below(4) > 0 {
            let begin = Instant::now();
            let pause = Duration::from_micros(self.random.below(300));
            while begin.elapsed() < pause {}
            self.exchange(&tracked, &spare);
        }
    }

    fn exchange_outside_file(&mut self) {
        let tracked = self.tracked();
        self.remove(".out");
        // Succeeds only if the kernel lets users link files that they do not own.
        let _ = linkat(CWD, self.outside.join("setid"), &self.home, ".out", AtFlags::empty());
        self.exchange(&tracked, ".out");
        self.exchange(&tracked, ".out");
    }

    /// Makes an object of a random kind.
    fn make_object(&mut self, name: &str) {
        self.remove(name);
        let mode = Mode::from_raw_mode(0o755);
        match self.random.below(7) {
            0 => drop(symlinkat(&self.outside, &self.home, name)),
            1 => drop(symlinkat(self.outside.join("file"), &self.home, name)),
            2 => drop(symlinkat("../../etc/version", &self.home, name)),
            3 => drop(mkdirat(&self.home, name, mode)),
            4 if self.has_blockers => drop(mknodat(&self.home, name, FileType::Fifo, mode, 0)),
            5 => drop(mknodat(&self.home, name, FileType::Socket, mode, 0)),
            _ => self.create_file(name),
        }
    }

    fn create_file(&self, name: &str) {
        // He must not wait for his own lease.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.home, name, flags, Mode::from_raw_mode(0o755));
        if let Ok(file) = file {
            let _ = rustix::io::write(&file, CONTENT);
        }
    }

    fn rename_away(&mut self) {
        let tracked = self.tracked();
        let other = format!(".away{}", self.random.below(SPARES as u64));
        let _ = rustix::fs::renameat(&self.home, &tracked, &self.home, &other);
        if self.random.below(4) > 0 {
            let _ = rustix::fs::renameat(&self.home, &other, &self.home, &tracked);
        }
    }

    fn link(&mut self) {
        let tracked = self.tracked();
        let name = format!(".l{}", self.random.below(20));
        let into = if self.random.below(3) == 0 { &self.tmp } else { &self.home };
        let _ = linkat(&self.home, &tracked, into, &name, AtFlags::empty());
    }

    /// Leases a file, so that others wait until he gives it back; gives back an older one.
    #[allow(unsafe_code, reason = "no crate has this command of fcntl, which takes two numbers")]
    fn lease(&mut self) {
        if self.leases.len() >= MAX_LEASES {
            self.leases.remove(0);
            return;
        }
        let tracked = self.tracked();
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(file) = openat(&self.home, tracked, flags, Mode::empty()) {
            // SAFETY: the command reads and writes no memory of this process.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
            self.leases.push(file.into());
        }
    }

    fn open_for_writing(&mut self) -> Option<OwnedFd> {
        let tracked = self.tracked();
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.home, tracked, flags, Mode::empty()).ok()
    }

    fn grow(&mut self) {
        let Some(file) = self.open_for_writing() else { return };
        let size = [0, 1, 4096, 100_000, GROWN][self.random.below(5) as usize];
        let _ = ftruncate(file, size);
    }

    fn write_in_place(&mut self) {
        let Some(file) = self.open_for_writing() else { return };
        // The agent must not take these bytes for those that it has compared.
        let _ = rustix::io::pwrite(file, CONTENT, 0);
    }

    fn change_metadata(&mut self) {
        let tracked = self.tracked();
        let mode = [0, 0o700, 0o755, 0o777, 0o4755, 0o6755][self.random.below(6) as usize];
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(&self.home, tracked, flags, Mode::empty()) else { return };
        let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(mode));
        let name: &CStr = c"user.mallory";
        let _ = fsetxattr(&file, name, b"x", XattrFlags::empty());
        if self.random.below(2) == 0 {
            let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(0o755));
        }
    }

    /// Creates names in the sticky directory, among them those of the agent.
    fn litter(&mut self) {
        let names = [".si-stage", ".si-undo", ".si-full", "new", "readme.new"];
        let name = match self.random.below(4) {
            0 => names[self.random.below(names.len() as u64) as usize].to_owned(),
            _ => format!("litter-{}", self.random.below(200)),
        };
        let mode = Mode::from_raw_mode(0o755);
        match self.random.below(3) {
            0 => drop(mkdirat(&self.tmp, &name, mode)),
            1 => drop(symlinkat(&self.outside, &self.tmp, &name)),
            _ => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                drop(openat(&self.tmp, &name, flags, mode));
            }
        }
    }

    fn tracked(&mut self) -> String {
        let number = self.random.below((TRACKED.len() + TAKEN) as u64) as usize;
        match TRACKED.get(number) {
            Some(path) => (*path).to_owned(),
            None => format!("s{}", number - TRACKED.len()),
        }
    }

    fn remove(&self, name: &str) {
        if unlinkat(&self.home, name, AtFlags::empty()).is_err() {
            let _ = unlinkat(&self.home, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Sets the time of a path to a fixed one, for comparisons.
pub fn set_birth(path: &Path) {
    let time = rustix::fs::Timespec { tv_sec: BIRTH, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets the time");
}
