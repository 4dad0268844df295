//! `imis-gateway healthcheck`: whether the running gateway is ready, for containers and monitoring.

use crate::cli::arguments::ConfigFile;
use crate::cli::output::{FAILURE, SUCCESS, exit_with, fail, print};
use crate::config;
use crate::server::control_socket;

pub(super) fn run(config_file: &ConfigFile) -> Result<i32, i32> {
    let admin = config::glance(config_file.path()).admin.ok_or_else(|| {
        exit_with(FAILURE, "there is no admin listener: listen.admin is null in the configuration")
    })?;
    if !control_socket::is_ready(admin).map_err(|error| fail(&error))? {
        return Err(exit_with(FAILURE, "not ready"));
    }
    print("ready");
    Ok(SUCCESS)
}
