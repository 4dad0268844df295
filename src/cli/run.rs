//! `imis-gateway run`

use crate::base::error_chain::Chain;
use crate::cli::{BAD_CONFIGURATION, FAILED, GOOD, WithConfig, report};
use crate::observe::log;
use crate::server::lifecycle::{Server, StartError, UNCLEAN, survive_signals};

pub(super) fn run(with_config: &WithConfig) -> i32 {
    survive_signals();
    let config = match with_config.load_to_run() {
        Ok(config) => config,
        Err(problems) => return report(&problems),
    };
    let log = log::init(&config.log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.file.display(), "{}", config.summary());
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    match Server::start(&config) {
        Ok(server) => match server.run_until_signal(&log) {
            true => GOOD,
            false => UNCLEAN,
        },
        Err(error @ StartError::Inherited(_)) => {
            tracing::error!(error = %Chain(&error), "the gateway does not start");
            // A restart would not mend it.
            BAD_CONFIGURATION
        }
        Err(error) => {
            // In the log, where whoever starts services looks.
            tracing::error!(error = %Chain(&error), "the gateway does not start");
            FAILED
        }
    }
}
