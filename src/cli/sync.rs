//! `imis-gateway sync`: plans and makes changes of the users of a Zendesk account.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::base::error_chain::Chain;
use crate::cli::arguments::{AppArguments, Offline};
use crate::cli::output::{FAILURE, SUCCESS, eprint, exit_with};
use crate::cli::sync_report::{self, Format};
use crate::config::App;
use crate::request::gateway::Gateway;
use crate::sso::site::SignOn;
use crate::sync::apply::Selection;
use crate::sync::error::SyncError;
use crate::sync::last_run::{LastRun, state_name};
use crate::sync::members::{Incomplete, SyncedApp};
use crate::sync::run::{self, Finished, Options, Step};
use crate::sync::state::State;

/// The safety threshold stopped a run.
const STOPPED: i32 = 4;
/// How often a run that is not on a terminal reports progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: SyncCommand,
}

#[derive(Subcommand)]
enum SyncCommand {
    /// Show what would change, without writing anything
    Plan(Plan),
    /// Make the changes; the plan is made anew from the present data
    Apply(Apply),
}

#[derive(Args)]
struct Plan {
    #[command(flatten)]
    apps: AppArguments,
    /// Output format; csv and html contain every line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Show the changes of each member (personal data)
    #[arg(long)]
    details: bool,
    /// Write the plan to a file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read all members, although `changed_since` is configured
    #[arg(long)]
    full: bool,
    /// Stop if more than this percentage of members would change [default: sync.max_change_percent]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    max_change: Option<u64>,
}

#[derive(Args)]
struct Apply {
    #[command(flatten)]
    plan: Plan,
    /// Change at most this many members
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Change only the member with this iMIS ID; can be repeated
    #[arg(long, value_name = "IMIS_ID")]
    only: Vec<String>,
    /// Show what would change, as `sync plan` does
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<i32, i32> {
    let (plan, selection) = match &arguments.command {
        SyncCommand::Plan(plan) => (plan, None),
        SyncCommand::Apply(apply) => {
            let selection = Selection { limit: apply.limit, only: apply.only.clone() };
            (&apply.plan, (!apply.dry_run).then_some(selection))
        }
    };
    let Offline { gateway, runtime, .. } = Offline::build(&plan.apps.config_file)?;
    let apps = synced_apps(&gateway, &plan.apps)?;
    let options = Options {
        reads_all: plan.full,
        max_change_percent: plan.max_change,
        apply: selection,
        config_hash: gateway.hash.clone(),
    };
    let mut output = sync_report::Output::open(plan.output.as_deref(), plan.format)?;
    let mut code = SUCCESS;
    for synced in apps {
        let name = &synced.app.name;
        let failed = |error: &SyncError| exit_with(FAILURE, format_args!("sync of {name}: {}", Chain(error)));
        let state = State::open(&synced.sync.folder, &state_name(synced.sign_on, synced.app))
            .map_err(|error| failed(&error))?;
        let progress = Progress::new(name);
        let result = runtime.block_on(run::run(synced, &state, &options, &|step| progress.show(step)));
        progress.finish();
        if options.apply.is_some()
            && let Err(error) = LastRun::write(synced, &state, result.as_ref())
        {
            eprint(format_args!("imis-gateway: sync of {name}: {}", Chain(&error)));
        }
        let finished = match result {
            Ok(finished) => finished,
            Err(error) => {
                code = code.max(failed(&error));
                continue;
            }
        };
        output.print(name, &state, &finished, plan.details)?;
        state.forget_run().map_err(|error| failed(&error))?;
        code = code.max(code_of(name, &finished));
    }
    output.close()?;
    Ok(code)
}

/// The exit code of a run. Explains a code that is not zero.
fn code_of(name: &str, finished: &Finished) -> i32 {
    if let Some(stopped) = &finished.stopped {
        eprint(format_args!("imis-gateway: sync of {name} stopped, nothing was written: {stopped}"));
        return STOPPED;
    }
    if let Some(Incomplete { read, total }) = finished.incomplete {
        eprint(format_args!(
            "imis-gateway: sync of {name}: the source returned {read} members, but it has {total}; leavers were not looked for"
        ));
    }
    if finished.failed > 0 {
        eprint(format_args!("imis-gateway: sync of {name}: {} changes failed", finished.failed));
    }
    if finished.failed > 0 || finished.incomplete.is_some() { FAILURE } else { SUCCESS }
}

/// The apps with `sync`, or the one with this name or path.
fn synced_apps<'a>(gateway: &'a Gateway, arguments: &AppArguments) -> Result<Vec<SyncedApp<'a>>, i32> {
    let apps = arguments.find(gateway, "sync", |app| app.sync.is_some())?;
    let language = &gateway.services.language;
    let synced = |(sign_on, app): (&'a SignOn, &'a App)| {
        Some(SyncedApp { sign_on, app, sync: app.sync.as_ref()?, language })
    };
    Ok(apps.into_iter().filter_map(synced).collect())
}

/// Progress of a run on standard error: a bar on a terminal, otherwise a line now and then.
struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    last: RefCell<Option<(std::mem::Discriminant<Step>, Instant)>>,
}

impl Progress {
    fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        Self { name: name.to_owned(), bar, last: RefCell::default() }
    }

    fn show(&self, step: Step) {
        let (what, done, total) = match step {
            Step::Users(done) => ("reading users of Zendesk", done, None),
            Step::Members(done, total) => ("reading members of iMIS", done, total),
            Step::Planning => ("comparing", 0, None),
            Step::Writing(done, total) => ("writing", done, Some(total)),
        };
        let mut last = self.last.borrow_mut();
        let kind = std::mem::discriminant(&step);
        let is_new = last.is_none_or(|(before, _)| before != kind);
        if let Some(bar) = &self.bar {
            if is_new {
                *last = Some((kind, Instant::now()));
                let template = if total.is_some() {
                    "{prefix}: {msg} {wide_bar} {pos}/{len} ({per_sec}, {eta} left)"
                } else {
                    "{prefix}: {msg} {spinner} {pos} ({per_sec})"
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.reset();
                bar.set_prefix(self.name.clone());
                bar.set_message(what);
            }
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(done);
        } else if is_new || last.is_some_and(|(_, at)| at.elapsed() >= REPORT_INTERVAL) {
            *last = Some((kind, Instant::now()));
            let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
            let count = if step == Step::Planning { String::new() } else { format!(": {done}{total}") };
            eprint(format_args!("{}: {what}{count}", self.name));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
