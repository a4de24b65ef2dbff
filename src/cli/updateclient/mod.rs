//! `si_updateclient` as a program.

#![allow(
    clippy::disallowed_methods,
    reason = "files named on the command line are the running system's, not the tree's"
)]

mod args;
mod output;
mod request;
mod settings;
mod splay;
mod tunnel;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::json::Json;
use super::log::{Level, Log, Logged, SOCKET};
use super::signals;
use super::terminal::Terminal;
use crate::allocator;
use crate::autoinstall;
use crate::fetch::FetchOptions;
use crate::host::{Drift, Restart};
use crate::report::Monitor;
use crate::root::freeze;
use crate::rsync::tunnel::{BECOME_SSH, become_ssh};
use crate::update::{self, Report, UpdateError, UpdateRequest};

use request::Follows;
use settings::Settings;
use tunnel::Tunnelled;

pub use args::{Arguments, command};

/// How the program ends. Numbers are never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The node is at the head of its image, or what was asked for was done.
    Done = 0,
    /// A failure of the program itself; nothing was changed.
    Failed = 1,
    /// The command line or the configuration makes no sense; nothing was changed.
    Usage = 2,
    /// What the server offers is not to be trusted; nothing was changed.
    Trust = 3,
    /// The server or the network failed; nothing was changed.
    Fetch = 4,
    /// This node does not take the change; nothing was changed.
    Node = 5,
    /// The tree is between two generations; the next run finishes.
    Interrupted = 6,
    /// Another run works on the tree.
    Locked = 7,
    /// Only a full sync would help, and there is none, or it is forbidden; nothing was changed.
    NoFullSync = 8,
    /// More would be deleted than is allowed; nothing was changed.
    Budget = 9,
    /// The node deviates, and deviations are only reported.
    Deviates = 10,
    /// The run was asked to stop, and did so before anything was changed.
    Stopped = 11,
    /// The head is the generation that a rollback fled from; nothing was changed.
    Held = 12,
    /// The tree was updated, but what follows failed: the boot loader's tool, a post-update hook, or the reboot.
    Afterwards = 13,
    /// A pre-update hook stopped the update; nothing was changed.
    Hook = 14,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    allocator::tune();
    if std::env::args_os().nth(1).is_some_and(|argument| argument == freeze::WATCH) {
        freeze::watch();
        return Exit::Done.into();
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == BECOME_SSH) {
        let (error, code) = become_ssh(std::env::args_os().skip(2));
        let _ = writeln!(std::io::stderr(), "{error}");
        return ExitCode::from(code);
    }
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    signals::receive();
    let json = arguments.json;
    let only_asks =
        arguments.dry_run || arguments.status || arguments.show_config || arguments.why.is_some();
    let log = Log::open(Path::new(SOCKET), !only_asks && !arguments.needs_restarting);
    match run(&arguments, &log) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = exit_of(&error);
            output::text::error(&error, exit, json);
            log.say(Level::Error, &error.to_string(), true);
            exit.into()
        }
    }
}

fn run(arguments: &Arguments, log: &Log) -> Result<Exit, UpdateError> {
    if arguments.status {
        return output::status::show(&update::status(&arguments.root)?, arguments.json);
    }
    if arguments.needs_restarting {
        return output::restart::needs_restarting(&arguments.root, arguments.json);
    }
    let monitor: Box<dyn Monitor> = if arguments.json {
        Box::new(Json::default())
    } else {
        Box::new(Terminal::new(arguments.quiet))
    };
    let monitor: Box<dyn Monitor + '_> = Box::new(Logged::new(monitor, !arguments.quiet, log));
    if arguments.recover {
        update::recover(&arguments.root, monitor.as_ref())?;
        return Ok(Exit::Done);
    }
    request::refuse_combinations(arguments)?;
    let settings = settings::settle(arguments)?;
    if arguments.show_config {
        output::text::settings(&settings.rows, arguments.json);
        return Ok(Exit::Done);
    }
    if let Some(path) = &arguments.why {
        let request = request::why(arguments, &settings, path)?;
        output::text::why(&update::why(&request)?, arguments.json);
        return Ok(Exit::Done);
    }
    if !settings.syslog {
        log.close();
    }
    if !settings.ignored.is_empty() {
        monitor.note(format!(
            "client.conf says what means nothing here: {}",
            settings.ignored.join(", ")
        ));
    }
    if arguments.rollback {
        let request = request::rollback(arguments, &settings);
        confirm(
            arguments,
            request.dry_run,
            &format!("bring {} back to what it was", request.root.display()),
        )?;
        let done = update::rollback(&request, monitor.as_ref())?;
        let restart =
            done.mixed.and_then(|_| output::restart::after(&request.root, monitor.as_ref()));
        output::text::rolled_back(&done, restart.as_ref(), arguments, log);
        follows_well(&done.afterwards)?;
        return reboot_after(Exit::Done, arguments, &settings, monitor.as_ref());
    }
    if arguments.autoinstall {
        return install_anew(arguments, &settings, monitor.as_ref(), log);
    }
    // Before the server is asked anything; but a person is asked first.
    let splay = || match arguments.dry_run {
        true => Ok(()),
        false => splay::wait(&arguments.root, settings.splay, monitor.as_ref()),
    };
    if arguments.yes {
        splay()?;
    }
    let tunnel = tunnel::open(arguments, &settings, monitor.as_ref())?;
    let follows = follows(arguments, &settings, tunnel.as_ref(), monitor.as_ref())?;
    let request = request::request(arguments, &settings, follows, tunnel.as_ref())?;
    confirm(arguments, request.dry_run || request.adopt_only, &question(&request))?;
    if !arguments.yes {
        splay()?;
    }
    let report = update::run(&request, monitor.as_ref())?;
    let exit = exit_of_report(&report, &request);
    let changed = report.outcome == update::UpdateOutcome::Updated;
    let restart =
        if changed { output::restart::after(&request.root, monitor.as_ref()) } else { None };
    let format = settings.log.as_deref();
    let told = output::text::JsonReport {
        report: &report,
        request: &request,
        restart: restart.as_ref(),
        format,
        exit,
    };
    output::text::report(&told, arguments, log);
    if let Some(refusal) = report.refusal {
        return Err(refusal);
    }
    follows_well(&report.afterwards)?;
    reboot_after(exit, arguments, &settings, monitor.as_ref())
}

/// `--autoinstall`.
fn install_anew(
    arguments: &Arguments,
    settings: &Settings,
    monitor: &dyn Monitor,
    log: &Log,
) -> Result<Exit, UpdateError> {
    let tunnel = tunnel::open(arguments, settings, monitor)?;
    let request = request::autoinstall(arguments, settings, tunnel.as_ref())?;
    let flavor = autoinstall::flavor(&request, monitor)?;
    let question = format!(
        "have {} installed anew at its next boot, which may destroy all that its disks hold, by the boot files {} for {} \
         from {}",
        request.root.display(),
        flavor.name,
        flavor.arch,
        request.server
    );
    confirm(arguments, false, &question)?;
    let arranged = autoinstall::arrange(&request, &flavor, monitor)?;
    output::text::arranged(&flavor, arranged, arguments, log);
    restart_after(Exit::Done, arranged.restart, arguments, settings, monitor)
}

fn reboot_after(
    exit: Exit,
    arguments: &Arguments,
    settings: &Settings,
    monitor: &dyn Monitor,
) -> Result<Exit, UpdateError> {
    restart_after(exit, Restart::Reboot, arguments, settings, monitor)
}

/// Starts the system anew after a success, where that is asked for.
fn restart_after(
    exit: Exit,
    how: Restart,
    arguments: &Arguments,
    settings: &Settings,
    monitor: &dyn Monitor,
) -> Result<Exit, UpdateError> {
    if exit == Exit::Done && arguments.reboot && !arguments.dry_run {
        let longest = Duration::from_secs(settings.program_timeout.into());
        update::reboot(&arguments.root, how, longest, monitor)?;
    }
    Ok(exit)
}

/// The image and its overrides: as they are configured, else as the server's `cluster.txt` says.
fn follows(
    arguments: &Arguments,
    settings: &Settings,
    tunnel: Option<&Tunnelled>,
    monitor: &dyn Monitor,
) -> Result<Follows, UpdateError> {
    let overrides = settings.overrides.clone();
    if let Some(image) = settings.image.clone() {
        return Ok(Follows { image, overrides });
    }
    let unnamed = || settings::usage("You must specify --server.".to_owned());
    let server = request::server(settings, tunnel).ok_or_else(unnamed)?;
    let deadline = Some(Instant::now() + Duration::from_secs(settings.full_sync_timeout.into()));
    let options = FetchOptions { deadline, ..request::fetch_options(arguments, settings) };
    let cluster = update::cluster(&arguments.root, &server, &options)?;
    let overrides = if overrides.is_empty() { cluster.overrides } else { overrides };
    let laid = overrides.iter().map(|name| format!(" and override {name}")).collect::<String>();
    monitor
        .note(format!("the server's cluster.txt: this host follows image {}{laid}", cluster.image));
    Ok(Follows { image: cluster.image, overrides })
}

/// An error, where something `failed` of what follows an update.
fn follows_well(failed: &[String]) -> Result<(), UpdateError> {
    if failed.is_empty() {
        Ok(())
    } else {
        Err(UpdateError::Afterwards(failed.join("; besides, ")))
    }
}

fn question(request: &UpdateRequest) -> String {
    let laid =
        request.overrides.iter().map(|name| format!(", override {name}")).collect::<String>();
    let from = match (&request.way, &request.rsync) {
        (update::SyncMode::Diffs(repo), _) => repo.to_string(),
        (update::SyncMode::Sync(_), Some(server)) => server.to_string(),
        (update::SyncMode::Sync(_), None) => String::new(),
    };
    let place = match &request.way {
        update::SyncMode::Sync(sync) if !sync.directory.is_root() => {
            format!("{} of {}", sync.directory, request.root.display())
        }
        _ => request.root.display().to_string(),
    };
    format!("update {place} to image {}{laid} from {from}", request.image)
}

/// A drift that is only reported is what the administrator has to hear of; what waits for a boot is none.
fn exit_of_report(report: &Report, request: &UpdateRequest) -> Exit {
    let looked = report.outcome == update::UpdateOutcome::UpToDate
        || report.outcome == update::UpdateOutcome::Updated;
    let reported = request.drift == Drift::Report && report.deviations.len() > report.kernels;
    if looked && reported { Exit::Deviates } else { Exit::Done }
}

/// Asks a person, unless `--yes` was given; what is `harmless` needs no answer. Where nobody can be asked,
/// nothing is taken for granted.
fn confirm(arguments: &Arguments, harmless: bool, question: &str) -> Result<(), UpdateError> {
    if arguments.yes || harmless {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let why = format!(
            "nobody can be asked whether to {question}, since this is no terminal: give --yes"
        );
        return Err(UpdateError::Usage(why));
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "{question}? (y / N) ");
    let _ = err.flush();
    let mut answer = String::new();
    if signals::is_input_ready() {
        let _ = std::io::stdin().read_line(&mut answer);
    }
    if answer.trim().starts_with(['y', 'Y']) { Ok(()) } else { Err(UpdateError::Stopped) }
}

fn exit_of(error: &UpdateError) -> Exit {
    match error {
        UpdateError::Usage(_) => Exit::Usage,
        UpdateError::Trust(_) => Exit::Trust,
        UpdateError::Fetch(error) if error.side == crate::fetch::Side::Node => Exit::Node,
        UpdateError::Fetch(_) => Exit::Fetch,
        UpdateError::Locked(_) => Exit::Locked,
        UpdateError::Node(_) => Exit::Node,
        UpdateError::Budget(_) => Exit::Budget,
        UpdateError::Stopped => Exit::Stopped,
        UpdateError::NothingToUndo(_) => Exit::Node,
        UpdateError::Held(_) => Exit::Held,
        UpdateError::Hook(_) => Exit::Hook,
        UpdateError::Afterwards(_) => Exit::Afterwards,
        UpdateError::NoFullSync(_) => Exit::NoFullSync,
        UpdateError::Unfinished(_) | UpdateError::Interrupted(_) => Exit::Interrupted,
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
