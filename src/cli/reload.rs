//! `imis-gateway reload`: asks the gateway that runs to take its configuration up, waits for it, and says what `check` would say.

use std::path::{Path, PathBuf};

use http::Method;

use crate::base::error_chain::Chain;
use crate::cli::{BAD_CONFIGURATION, FAILED, Format, GOOD, WithConfig, complain, counted, say};
use crate::server::control_socket;
use crate::server::reload::Last;

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
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let file = self.with_config.file();
        let glance = crate::config::glance(file);
        if !glance.is_read {
            let socket = glance.control.as_deref().unwrap_or(Path::new("-"));
            let why = std::fs::metadata(file)
                .map_or_else(|error| error.to_string(), |_| "it is no YAML".to_owned());
            complain(&format!(
                "imis-gateway: {} cannot be read ({why}); asking on the default socket {}, --socket names another",
                file.display(),
                socket.display()
            ));
        }
        glance.control.ok_or_else(|| {
            complain("imis-gateway: listen.control is null, or no path, in the configuration: there is no control socket to ask on");
            FAILED
        })
    }

    /// Complains when the gateway that listens there runs another file than was named.
    fn require_same_file(&self, socket: &Path) -> Result<(), i32> {
        let Some(named) = self.with_config.named() else { return Ok(()) };
        let status = control_socket::status(socket).map_err(|error| {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            FAILED
        })?;
        let runs = Path::new(status["last_reload"]["file"].as_str().unwrap_or_default());
        let same = runs == std::path::absolute(named).as_deref().unwrap_or(named)
            || std::fs::canonicalize(named)
                .is_ok_and(|named| std::fs::canonicalize(runs).is_ok_and(|runs| runs == named));
        if same {
            return Ok(());
        }
        complain(&format!(
            "imis-gateway: the gateway on {} runs {}, not {}",
            socket.display(),
            runs.display(),
            named.display()
        ));
        Err(FAILED)
    }
}

pub(super) fn reload(arguments: &Reload) -> i32 {
    let socket = match arguments.socket.path() {
        Ok(path) => path,
        Err(code) => return code,
    };
    if let Err(code) = arguments.socket.require_same_file(&socket) {
        return code;
    }
    let answer = match control_socket::ask(&socket, Method::POST, "/reload") {
        Ok(answer) => answer,
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
