//! Environments of child processes. `docs/operation.md` has the same list.
//!
//! A child inherits no variable that is not named here. Variables such as `LD_PRELOAD`, `IFS`,
//! `BASH_ENV`, `RSYNC_RSH` or `RSYNC_CONNECT_PROG` make a program run other code, and a variable
//! that a shell has and a timer has not makes their runs differ.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables of a child process.
pub type Environment = Vec<(OsString, OsString)>;

/// Directories in which programs of a tree are searched; also the `PATH` that they receive.
pub const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Environment of hooks, of boot loader tools, and of all other programs of a tree.
pub fn of_tree_programs() -> Environment {
    fixed(&[("PATH", PATH), ("LC_ALL", "C"), ("HOME", "/root"), ("TERM", "dumb")])
}

/// Environment of rsync. Without `HOME` it reads no `~/.popt`, which can redefine its options.
pub fn of_rsync() -> Environment {
    let mut environment = fixed(&[("LC_ALL", "C"), ("TERM", "dumb")]);
    environment.push(("PATH".into(), search_path()));
    // The proxy of the site.
    environment.extend(inherited("RSYNC_PROXY"));
    environment
}

/// Environment of ssh, which may ask a person for a password, or an agent for a key.
pub fn of_ssh() -> Environment {
    let mut environment = fixed(&[("LC_ALL", "C"), ("HOME", "/root")]);
    environment.push(("PATH".into(), search_path()));
    environment.extend(inherited("SSH_AUTH_SOCK"));
    environment.extend(inherited("TERM"));
    environment
}

/// Environment of a program of the site that signs: it may ask an agent, or read a credential.
pub fn of_sign_command() -> Environment {
    let mut environment = fixed(&[("LC_ALL", "C")]);
    environment.push(("PATH".into(), search_path()));
    for name in ["HOME", "TERM", "SSH_AUTH_SOCK", "CREDENTIALS_DIRECTORY"] {
        environment.extend(inherited(name));
    }
    environment
}

fn fixed(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn inherited(name: &str) -> Option<(OsString, OsString)> {
    Some((name.into(), env::var_os(name)?))
}

/// The absolute directories of this process's `PATH`: a site may have rsync in one of its own.
fn search_path() -> OsString {
    absolute_dirs(&env::var_os("PATH").unwrap_or_else(|| PATH.into()))
}

/// Removes empty and relative directories, which depend on the working directory.
fn absolute_dirs(path: &OsStr) -> OsString {
    let dirs = path.as_bytes().split(|&byte| byte == b':').filter(|dir| dir.starts_with(b"/"));
    let dirs: Vec<&[u8]> = dirs.collect();
    if dirs.is_empty() { PATH.into() } else { OsStr::from_bytes(&dirs.join(&b':')).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_directories_of_path_are_removed() {
        for (path, kept) in
            [("/a:/b", "/a:/b"), (":.:/a:bin:/b:", "/a:/b"), (".", PATH), ("", PATH)]
        {
            assert_eq!(absolute_dirs(OsStr::new(path)), OsStr::new(kept), "{path}");
        }
    }
}
