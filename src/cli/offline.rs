//! A gateway that answers no requests: what `doctor`, `explain`, `claims` and `audit emails` work with.

use tokio::runtime::{Builder, Runtime};

use crate::cli::arguments::ConfigFile;
use crate::cli::output::fail;
use crate::config::Config;
use crate::request::gateway::Gateway;
use crate::server::build;

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
