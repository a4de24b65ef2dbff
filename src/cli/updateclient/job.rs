//! The jobs that change a node: update, rollback and reinstallation.

use std::time::Instant;

use crate::autoinstall;
use crate::cli::log::Log;
use crate::cli::meter::DownloadMeter;
use crate::cli::updateclient::args::Arguments;
use crate::cli::updateclient::exit::{Effect, Ended, Exit};
use crate::cli::updateclient::notice::ClientNotice;
use crate::cli::updateclient::output::{self, RollbackResult, UpdateResult};
use crate::cli::updateclient::settings::Settings;
use crate::cli::updateclient::tunnel::{self, ServerTunnel};
use crate::cli::updateclient::{prompt, request, splay};
use crate::host::RestartMethod;
use crate::process::confinement;
use crate::report::Monitor;
use crate::update::{self, FollowUpError, UpdateError, UpdateOutcome, UpdateRequest};

/// Arguments, settings and output of a run.
pub struct ClientJob<'j> {
    pub arguments: &'j Arguments,
    pub settings: &'j Settings,
    pub meter: &'j DownloadMeter<'j>,
    pub log: &'j Log,
}

impl ClientJob<'_> {
    /// Updates the tree.
    pub fn update(&self) -> Result<Ended, UpdateError> {
        let ClientJob { arguments, settings, meter, log } = *self;
        // The delay precedes all network access, but a person is asked before the delay.
        if arguments.yes {
            self.wait_for_splay()?;
        }
        let (request, tunnel) = match arguments.from_downloaded {
            false => self.update_request()?,
            true => match self.switch_request()? {
                Some(request) => (request, None),
                None => return Ok(Ended::unchanged(Exit::Done)),
            },
        };
        if !arguments.yes {
            if !request.dry_run && !request.adopt_only && !arguments.download_only {
                prompt::confirm(&prompt::update_question(&request))?;
            }
            self.wait_for_splay()?;
        }

        let start = Instant::now();
        if !request.dry_run && !arguments.download_only && arguments.repair.is_none() {
            autoinstall::remove_leftovers(&request.root, meter);
        }
        let result = update::run(&request, meter);
        report_omission(meter);
        let report = result.inspect_err(|_| report_end(tunnel.as_ref(), meter))?;
        let duration = start.elapsed();

        let exit = Exit::from_report(&report, &request);
        let restart = match report.outcome {
            UpdateOutcome::Updated => output::after_change(&request.root, meter),
            _ => None,
        };
        let result = UpdateResult {
            report: &report,
            request: &request,
            restart: restart.as_ref(),
            format: settings.log.as_deref(),
            exit,
            fetched: meter.bytes(),
            duration,
        };
        output::report_update(&result, arguments, log);
        let effect = match report.outcome {
            _ if !result.is_change() => Effect::Unchanged,
            UpdateOutcome::Downloaded => Effect::Downloaded,
            _ => Effect::Changed,
        };

        if let Some(refusal) = report.refusal {
            return Err(refusal);
        }
        check_follow_ups(report.follow_up_failures)?;
        self.restart(exit, RestartMethod::Reboot)?;
        Ok(Ended { exit, effect })
    }

    /// Request of an update, with the tunnel to its server.
    fn update_request(&self) -> Result<(UpdateRequest, Option<ServerTunnel>), UpdateError> {
        let ClientJob { arguments, settings, meter, .. } = *self;
        let tunnel = tunnel::open(arguments, settings, meter)?;
        let assigned = request::find_assignment(arguments, settings, tunnel.as_ref(), meter)
            .inspect_err(|_| report_end(tunnel.as_ref(), meter))?;
        let request = request::update_request(arguments, settings, assigned, tunnel.as_ref())?;
        Ok((request, tunnel))
    }

    /// Request of a switch; `None` if there is no downloaded update.
    fn switch_request(&self) -> Result<Option<UpdateRequest>, UpdateError> {
        let ClientJob { arguments, settings, meter, .. } = *self;
        let monitor: &dyn Monitor = meter;
        let found = update::downloaded_source(&arguments.root);
        if !matches!(found, Ok(Some(_))) && !arguments.dry_run {
            update::recover_first(&arguments.root, monitor)?;
        }
        let Some(source) = found? else {
            monitor.note(ClientNotice::NothingDownloaded);
            return Ok(None);
        };
        request::switch_request(arguments, settings, source).map(Some)
    }

    /// Undoes the last update.
    pub fn rollback(&self) -> Result<Ended, UpdateError> {
        let ClientJob { arguments, settings, meter, log } = *self;
        let request = request::rollback_request(arguments, settings)?;
        if !arguments.yes && !request.dry_run {
            prompt::confirm(&prompt::rollback_question(&request))?;
        }

        let start = Instant::now();
        let outcome = update::rollback(&request, meter)?;
        let duration = start.elapsed();

        let restart = outcome.switch_time.and_then(|_| output::after_change(&request.root, meter));
        let result = RollbackResult { outcome: &outcome, restart: restart.as_ref(), duration };
        output::report_rollback(&result, arguments, log);

        let effect = if request.dry_run { Effect::Unchanged } else { Effect::Changed };
        check_follow_ups(outcome.follow_up_failures)?;
        let exit = if outcome.left_out.is_empty() { Exit::Done } else { Exit::LeftOut };
        self.restart(exit, RestartMethod::Reboot)?;
        Ok(Ended { exit, effect })
    }

    /// Compares the tree and changes nothing.
    pub fn verify(&self) -> Result<Ended, UpdateError> {
        let ClientJob { arguments, settings, meter, .. } = *self;
        let tunnel = match tunnel::open(arguments, settings, meter) {
            Err(UpdateError::Cancelled) => return Err(UpdateError::Cancelled),
            // The node itself can be verified without a server.
            opened => opened.map_err(|error| error.to_string()),
        };
        let opened = tunnel.as_ref().map(Option::as_ref).map_err(String::clone);
        let request = request::verify_request(arguments, settings, opened)?;

        let verification = update::verify(&request, meter)?;

        output::print_verification(&verification, arguments);
        Ok(Ended::unchanged(Exit::from_verification(&verification)))
    }

    /// Arranges the reinstallation of the node.
    pub fn autoinstall(&self) -> Result<Ended, UpdateError> {
        let ClientJob { arguments, settings, meter, log } = *self;
        let tunnel = tunnel::open(arguments, settings, meter)?;
        let request = request::autoinstall_request(arguments, settings, tunnel.as_ref())?;
        let flavor = autoinstall::flavor(&request, meter)
            .inspect_err(|_| report_end(tunnel.as_ref(), meter))?;
        if !arguments.yes {
            prompt::confirm(&prompt::autoinstall_question(&request, &flavor))?;
        }

        let result = autoinstall::arrange(&request, &flavor, meter);
        report_omission(meter);
        let arranged = result.inspect_err(|_| report_end(tunnel.as_ref(), meter))?;

        output::report_autoinstall(&flavor, arranged, arguments, log);
        self.restart(Exit::Done, arranged.restart)?;
        Ok(Ended { exit: Exit::Done, effect: Effect::Changed })
    }

    fn wait_for_splay(&self) -> Result<(), UpdateError> {
        if self.arguments.dry_run || self.arguments.repair.is_some() {
            return Ok(());
        }
        splay::wait(&self.arguments.root, self.settings.splay, self.meter)
    }

    /// Restarts the system after a success, if `--reboot` was given.
    fn restart(&self, exit: Exit, restart: RestartMethod) -> Result<(), UpdateError> {
        let Arguments { reboot, dry_run, root, .. } = self.arguments;
        if exit == Exit::Done && *reboot && !dry_run {
            let limit = request::program_timeout(self.settings);
            update::reboot(root, restart, limit, self.meter as &dyn Monitor)?;
        }
        Ok(())
    }
}

/// Notes once that rsync was not confined.
fn report_omission(monitor: &dyn Monitor) {
    if confinement::take_omission() {
        monitor.note(ClientNotice::RsyncUnconfined);
    }
}

/// Explains the failure of a run whose tunnel is closed.
fn report_end(tunnel: Option<&ServerTunnel>, monitor: &dyn Monitor) {
    if let Some(tunnel) = tunnel {
        tunnel.report_end(monitor);
    }
}

/// An error if a step after the transaction failed.
fn check_follow_ups(failures: Vec<FollowUpError>) -> Result<(), UpdateError> {
    if failures.is_empty() { Ok(()) } else { Err(UpdateError::Afterwards(failures)) }
}
