//! `imis-gateway run`

use crate::base::error_chain::Chain;
use crate::cli::arguments::ConfigFile;
use crate::cli::output::{BAD_CONFIGURATION, FAILURE, SUCCESS, bad_configuration};
use crate::observe::log;
use crate::server::lifecycle::{Server, StartError, UNCLEAN, ignore_signals};

pub(super) fn run(config_file: &ConfigFile) -> Result<i32, i32> {
    ignore_signals();
    let config = config_file.load_by_absolute_path().map_err(|problems| bad_configuration(&problems))?;
    let log = log::init(&config.log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.file.display(), "{}", config.summary());
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let server = Server::start(&config).map_err(|error| {
        // Service managers show the log.
        tracing::error!(error = %Chain(&error), "the gateway does not start");
        // Another start would not help against a wrong set of inherited sockets.
        if matches!(error, StartError::Inherited(_)) { BAD_CONFIGURATION } else { FAILURE }
    })?;
    Ok(if server.run_until_signal(&log) { SUCCESS } else { UNCLEAN })
}
