//! The command line: arguments to a command to an exit code.
//!
//! Exit codes: 0 good, 1 run-time failure, 2 usage, 3 unclean drain, 78 bad configuration (`EX_CONFIG`).

mod arguments;
mod audit;
mod audit_emails;
mod check;
mod doctor;
mod documents;
mod explain;
mod healthcheck;
mod offline;
mod output;
mod reload;
mod run;
mod status;
mod upstream;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::arguments::ConfigFile;
use crate::cli::output::{SUCCESS, print};

/// TLS-terminating reverse proxy for iMIS that signs members in to Zendesk.
#[derive(Parser)]
#[command(name = "imis-gateway", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 good, 1 run-time failure, 2 usage, 3 requests were cut off at the end, 78 bad configuration";

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Check the configuration, the files and the secrets it names; opens no socket
    Check(check::Check),
    /// Have the gateway that runs take its configuration up; says what `check` says, and waits until it is done
    Reload(reload::Reload),
    /// Say what runs at this moment: configuration, certificates, connections
    Status(status::Status),
    /// Take one of several iMIS servers out of service, or put it back, until the gateway ends
    Upstream(upstream::Upstream),
    /// Ask the gateway that runs whether it takes requests
    Healthcheck(ConfigFile),
    /// Look at both ends as they are now: this machine, DNS, the CA, iMIS, how members are recognised, Zendesk
    Doctor(doctor::Doctor),
    /// Say whether somebody may enter an app, and why: each step of the decision, and what Zendesk would be told
    Explain(explain::Explain),
    /// Print the claims that a token would carry for somebody
    Claims(explain::Explain),
    /// What was decided about sign-ins
    Audit(audit::Audit),
    /// Print every key of the configuration: as a JSON Schema for editors, or as text
    Schema {
        /// How to print it: for editors, or as docs/configuration.md
        #[arg(long, value_enum, default_value_t = documents::Schema::Json)]
        format: documents::Schema,
    },
    /// Print a manual page: imis-gateway(1), or imis-gateway.yaml(5)
    Man {
        /// Which one
        #[arg(value_enum, default_value_t = documents::Page::Program)]
        page: documents::Page,
    },
    /// Print completions for a shell
    Completions {
        /// Which one
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
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Upstream(arguments) => upstream::run(&arguments),
        Command::Healthcheck(config_file) => healthcheck::run(&config_file),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Claims(arguments) => explain::claims(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
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
