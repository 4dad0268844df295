//! The command line: arguments to a command to an exit code.
//!
//! Exit codes: 0 good, 1 run-time failure, 2 usage, 3 unclean drain, 78 bad configuration (`EX_CONFIG`).

mod audit;
mod check;
mod doctor;
mod documents;
mod explain;
mod healthcheck;
mod reload;
mod run;
mod server;
mod status;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATHS, Problems};

/// Good.
const GOOD: i32 = 0;
/// Something failed while running.
const FAILED: i32 = 1;
/// The command makes no sense.
const USAGE: i32 = 2;
/// The configuration is wrong.
const BAD_CONFIGURATION: i32 = 78;

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
    Run(WithConfig),
    /// Check the configuration, the files and the secrets it names; opens no socket
    Check(check::Check),
    /// Have the gateway that runs take its configuration up; says what `check` says, and waits until it is done
    Reload(reload::Reload),
    /// Say what runs at this moment: configuration, certificates, connections
    Status(status::Status),
    /// Take one of several servers of iMIS out of service, or back, until the gateway ends
    Server(server::Server),
    /// Ask the gateway that runs whether it takes requests
    Healthcheck(WithConfig),
    /// Look at both ends as they are now: this machine, DNS, the CA, iMIS, how members are recognised, Zendesk
    Doctor(doctor::Doctor),
    /// Say whether somebody may enter an app, and why: each step of the decision, and what Zendesk would be told
    Explain(explain::Explain),
    /// What was decided about sign-ins
    Audit(audit::Audit),
    /// Print what a token would say (only with --dry-run)
    Mint(explain::Mint),
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

#[derive(clap::Args)]
struct WithConfig {
    /// The configuration file [default: /etc/imis-gateway/config.yaml, else ./config.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl WithConfig {
    fn load(&self) -> Result<Config, Problems> {
        Config::load(self.file())
    }

    /// The same, for a gateway that runs: wherever `reload` is asked for, it is known which file that is.
    fn load_to_run(&self) -> Result<Config, Problems> {
        let file = std::path::absolute(self.file());
        Config::load(file.as_deref().unwrap_or(self.file()))
    }

    /// The file, if one was named.
    fn named(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn file(&self) -> &Path {
        match &self.config {
            Some(file) => file.as_path(),
            None => DEFAULT_PATHS
                .map(Path::new)
                .into_iter()
                .find(|path| path.exists())
                .unwrap_or(Path::new(DEFAULT_PATHS[0])),
        }
    }
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs the program and returns its exit code.
pub fn main() -> i32 {
    match Arguments::parse().command {
        Command::Run(with_config) => run::run(&with_config),
        Command::Check(arguments) => check::check(&arguments),
        Command::Reload(arguments) => reload::reload(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Server(arguments) => server::server(&arguments),
        Command::Healthcheck(with_config) => healthcheck::healthcheck(&with_config),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Audit(arguments) => audit::audit(&arguments),
        Command::Mint(arguments) => explain::mint(&arguments),
        Command::Schema { format } => documents::schema(format),
        Command::Man { page } => documents::man(page),
        Command::Completions { shell } => documents::completions(shell),
        Command::Version => {
            say(concat!("imis-gateway ", env!("CARGO_PKG_VERSION")));
            GOOD
        }
    }
}

/// Prints a line to standard output. A reader that has gone away is not an error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Text of somebody else's as a terminal can show it: what would move the cursor or turn the writing round is written out.
fn plain(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if acts(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// `1 decision`, `2 decisions`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Prints a line to standard error.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tells the operator what is wrong with the configuration.
fn report(problems: &Problems) -> i32 {
    complain(&problems.to_string());
    complain(&format!("{} in {}", counted(problems.list.len(), "problem"), problems.file.display()));
    BAD_CONFIGURATION
}
