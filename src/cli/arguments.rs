//! Arguments that several commands have.

use std::io::Read;
use std::path::{Path, PathBuf};

use http::{HeaderValue, Method};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::cli::output::{FAILURE, USAGE, bad_configuration, eprint, exit_with, fail};
use crate::config::{self, App, Config, DEFAULT_PATHS, Problems};
use crate::doctor::test_visitor::pasted_cookies;
use crate::request::gateway::Gateway;
use crate::server::{build, control_socket};
use crate::sso::site::SignOn;

/// A longer input is not a Cookie header.
const MAX_COOKIE_BYTES: u64 = 64 * 1024;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration file [default: /etc/imis-gateway/config.yaml, else ./config.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    pub(super) fn load(&self) -> Result<Config, Problems> {
        Config::load(self.path())
    }

    /// Loads the configuration by its absolute path, which a later `reload` reads again.
    pub(super) fn load_by_absolute_path(&self) -> Result<Config, Problems> {
        let path = std::path::absolute(self.path());
        Config::load(path.as_deref().unwrap_or(self.path()))
    }

    /// Loads the configuration, or prints its problems and returns the exit code.
    pub(super) fn load_or_exit(&self) -> Result<Config, i32> {
        self.load().map_err(|problems| bad_configuration(&problems))
    }

    pub(super) fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or_else(|| {
            let mut existing = DEFAULT_PATHS.map(Path::new).into_iter().filter(|path| path.exists());
            existing.next().unwrap_or(Path::new(DEFAULT_PATHS[0]))
        })
    }
}

/// Which app a command works on.
#[derive(clap::Args)]
pub(super) struct AppArguments {
    #[command(flatten)]
    pub(super) config_file: ConfigFile,
    /// Name or path of the app, if several apps are possible
    #[arg(long, value_name = "APP")]
    app: Option<String>,
}

impl AppArguments {
    /// The apps that have a key, or the one with this name or path.
    pub(super) fn find<'a>(
        &self,
        gateway: &'a Gateway,
        key: &str,
        has_key: impl Fn(&App) -> bool,
    ) -> Result<Vec<(&'a SignOn, &'a App)>, i32> {
        let sign_ons = gateway.sites.iter().filter_map(|site| site.sign_on.as_deref());
        let all: Vec<(&SignOn, &App)> = sign_ons
            .flat_map(|sign_on| sign_on.apps.iter().map(move |app| (sign_on, &**app)))
            .filter(|(_, app)| has_key(app))
            .collect();
        if all.is_empty() {
            return Err(exit_with(
                FAILURE,
                format_args!("no app has `{key}` in the configuration (docs/sync.md)"),
            ));
        }
        let Some(wanted) = &self.app else { return Ok(all) };
        let is_wanted = |(_, app): &&(&SignOn, &App)| app.name == *wanted || app.path == *wanted;
        let found: Vec<_> = all.iter().filter(is_wanted).copied().collect();
        if found.is_empty() {
            let names: Vec<&str> = all.iter().map(|(_, app)| app.name.as_str()).collect();
            let names = names.join(", ");
            return Err(exit_with(
                USAGE,
                format_args!("there is no app `{wanted}` with `{key}`; there is {names}"),
            ));
        }
        Ok(found)
    }
}

/// The control socket of the running gateway.
#[derive(clap::Args)]
pub(super) struct ControlSocket {
    #[command(flatten)]
    config_file: ConfigFile,
    /// The control socket [default: listen.control of the configuration file]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

impl ControlSocket {
    /// The path of the socket, or an exit code.
    pub(super) fn path(&self) -> Result<PathBuf, i32> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let file = self.config_file.path();
        let glance = config::glance(file);
        if let Some(why) = &glance.unread {
            let socket = glance.control.as_deref().unwrap_or(Path::new("-"));
            eprint(format_args!(
                "imis-gateway: cannot read {} ({why}); using the default socket {} (--socket PATH for another)",
                file.display(),
                socket.display()
            ));
        }
        glance.control.ok_or_else(|| {
            exit_with(
                FAILURE,
                "there is no control socket: listen.control is null or not a path in the configuration",
            )
        })
    }

    /// The problems of a configuration file that cannot be read at all.
    pub(super) fn unreadable_file(&self) -> Option<Problems> {
        config::glance(self.config_file.path()).unread.is_some().then(|| self.config_file.load().err())?
    }

    /// Sends a request to the running gateway.
    pub(super) fn post(&self, path: &str) -> Result<Value, i32> {
        control_socket::ask(&self.path()?, Method::POST, path).map_err(|error| fail(&error))
    }

    /// The status of the running gateway.
    pub(super) fn status(&self) -> Result<Value, i32> {
        control_socket::status(&self.path()?).map_err(|error| fail(&error))
    }

    /// Fails if the running gateway uses another configuration file than the one in the arguments.
    pub(super) fn require_same_file(&self) -> Result<(), i32> {
        let Some(named) = self.config_file.config.as_deref() else { return Ok(()) };
        let status = self.status()?;
        let running = Path::new(status["last_reload"]["file"].as_str().unwrap_or_default());
        let resolved = |path: &Path| {
            let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            std::fs::canonicalize(path).unwrap_or_else(|_| absolute())
        };
        if resolved(running) == resolved(named) {
            return Ok(());
        }
        Err(exit_with(
            FAILURE,
            format_args!(
                "the gateway on {} uses the configuration {}, not {}",
                self.path()?.display(),
                running.display(),
                named.display()
            ),
        ))
    }
}

/// A gateway that answers no requests: what `doctor`, `explain`, `claims` and `audit emails` work with.
pub(super) struct Offline {
    pub(super) config: Config,
    pub(super) gateway: Gateway,
    pub(super) runtime: Runtime,
}

impl Offline {
    /// Builds it, or prints why it cannot and returns the exit code.
    pub(super) fn build(config_file: &ConfigFile) -> Result<Self, i32> {
        let config = config_file.load_or_exit()?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| fail(&error))?;
        let gateway = build::offline_gateway(&config).map_err(|error| fail(&error))?;
        Ok(Self { config, gateway, runtime })
    }
}

/// Reads a Cookie header from standard input.
pub(super) fn read_cookies() -> Result<HeaderValue, i32> {
    let mut text = String::new();
    std::io::stdin().take(MAX_COOKIE_BYTES).read_to_string(&mut text).map_err(|error| {
        exit_with(FAILURE, format_args!("cannot read the Cookie header from standard input: {error}"))
    })?;
    pasted_cookies(&text).ok_or_else(|| exit_with(FAILURE, "the input is not a Cookie header"))
}
