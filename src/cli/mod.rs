//! The command line.
//!
//! Exit codes: 0 success, 1 run-time failure, 2 usage, 3 unclean drain, 4 sync stopped, 78 bad configuration (`EX_CONFIG`).

mod arguments;
mod audit;
mod audit_emails;
mod check;
mod doctor;
mod documents;
mod explain;
mod output;
mod run;
mod running;
mod staff;
mod sync;
mod sync_report;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::arguments::{ConfigFile, ControlSocket};
use crate::cli::output::{SUCCESS, print};

/// TLS-terminating reverse proxy for iMIS that signs members in to Zendesk.
#[derive(Parser)]
#[command(name = "imis-gateway", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 2 wrong arguments, 3 requests were cut off by the shutdown, 4 a sync was stopped by its safety threshold, 78 bad configuration";

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Check the configuration and the files and secrets that it refers to, without opening a socket
    Check(check::Check),
    /// Reload the running gateway's configuration, wait for the result and print what `check` would print
    Reload(ControlSocket),
    /// Show the status of the running gateway: configuration, certificates, connections
    Status(ControlSocket),
    /// Take one of several iMIS servers out of service, or put it back, until the gateway ends
    Upstream(running::Upstream),
    /// Check whether the running gateway is ready for requests
    Healthcheck(ConfigFile),
    /// Check this machine, DNS, the CA, iMIS, recognition of members, and Zendesk
    Doctor(doctor::Doctor),
    /// Explain whether a person may sign in to an app: each step of the decision, and the claims
    Explain(explain::Explain),
    /// Print the claims that a person's token would have
    Claims(explain::Explain),
    /// Show recorded decisions about sign-ins, and find e-mail addresses that cause problems
    Audit(audit::Audit),
    /// Bring the users of Zendesk in line with the members of iMIS
    Sync(sync::Arguments),
    /// List the agents and admins of Zendesk, and give them their iMIS IDs
    Staff(staff::Arguments),
    /// Print all configuration keys, as a JSON Schema or as Markdown
    Schema {
        /// Output format: JSON Schema for editors, or Markdown as in docs/configuration.md
        #[arg(long, value_enum, default_value_t = documents::Schema::Json)]
        format: documents::Schema,
    },
    /// Print a manual page: imis-gateway(1), or imis-gateway.yaml(5)
    Man {
        /// The page
        #[arg(value_enum, default_value_t = documents::Page::Program)]
        page: documents::Page,
    },
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Commands that had another name before the first release.
const RENAMED: [(&str, &str); 2] = [
    ("mint", "`mint --dry-run` is called `claims`"),
    ("server", "`server drain|restore` is called `upstream drain|enable`"),
];

/// Parses the arguments. Errors end the program; that about a command with an old name gives the new one.
fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|mut error| {
        if let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand)
            && let Some((_, hint)) = RENAMED.iter().find(|(old, _)| old == command)
        {
            error.remove(ContextKind::SuggestedSubcommand);
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*hint).into()]));
        }
        error.exit()
    })
}

/// Runs the program and returns its exit code.
pub fn main() -> i32 {
    let outcome = match parse().command {
        Command::Run(config_file) => run::run(&config_file),
        Command::Check(arguments) => check::run(&arguments),
        Command::Reload(socket) => running::reload(&socket),
        Command::Status(socket) => running::status(&socket),
        Command::Upstream(arguments) => running::upstream(&arguments),
        Command::Healthcheck(config_file) => running::healthcheck(&config_file),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Claims(arguments) => explain::claims(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Sync(arguments) => sync::run(&arguments),
        Command::Staff(arguments) => staff::run(&arguments),
        Command::Schema { format } => documents::schema(format),
        Command::Man { page } => Ok(documents::man(Arguments::command(), page)),
        Command::Completions { shell } => Ok(documents::completions(Arguments::command(), shell)),
        Command::Version => {
            print(concat!("imis-gateway ", env!("CARGO_PKG_VERSION")));
            Ok(SUCCESS)
        }
    };
    outcome.unwrap_or_else(|code| code)
}
