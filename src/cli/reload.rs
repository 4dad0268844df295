//! `imis-gateway reload`: asks the gateway that runs to take its configuration up, waits for it, and says what `check` would say.

use std::path::PathBuf;

use http::Method;

use super::{BAD_CONFIGURATION, FAILED, Format, GOOD, WithConfig, complain, counted, say};
use crate::control;
use crate::reload::Last;
use crate::telemetry::Chain;

#[derive(clap::Args)]
pub(super) struct Reload {
    #[command(flatten)]
    socket: Socket,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How the gateway that runs is found.
#[derive(clap::Args)]
pub(super) struct Socket {
    #[command(flatten)]
    with_config: WithConfig,
    /// The control socket [default: listen.control of the configuration file]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Socket {
    /// Its path, or the exit code of whoever has been told why there is none.
    pub(super) fn path(&self) -> Result<PathBuf, i32> {
        let glance = || crate::config::glance(self.with_config.file()).control;
        self.socket.clone().or_else(glance).ok_or_else(|| {
            complain("imis-gateway: listen.control is null in the configuration: the gateway has no control socket");
            FAILED
        })
    }
}

pub(super) fn reload(arguments: &Reload) -> i32 {
    let socket = match arguments.socket.path() {
        Ok(path) => path,
        Err(code) => return code,
    };
    let answer = match control::ask(&socket, Method::POST, "/reload") {
        Ok((_, answer)) => answer,
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            return FAILED;
        }
    };
    let Ok(last) = serde_json::from_value::<Last>(answer.clone()) else {
        complain("imis-gateway: the gateway's answer makes no sense; is it of another version?");
        return FAILED;
    };
    match arguments.format {
        Format::Json => say(&answer.to_string()),
        Format::Text => tell(&last),
    }
    if last.good { GOOD } else { BAD_CONFIGURATION }
}

fn tell(last: &Last) {
    for problem in &last.problems {
        complain(&problem.shown(&last.file));
    }
    if !last.good {
        complain(&format!(
            "{} in {}; what ran before goes on (configuration {})",
            counted(last.problems.len(), "problem"),
            last.file.display(),
            last.hash
        ));
        return;
    }
    for warning in &last.warnings {
        say(&format!("warning: {warning}"));
    }
    for key in &last.needs_restart {
        say(&format!("warning: {key}: this change waits for a restart"));
    }
    say(&format!("{}: reloaded, {} (configuration {})", last.file.display(), last.summary, last.hash));
}
