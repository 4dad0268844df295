//! `imis-gateway healthcheck`: whether the gateway that runs takes requests, for containers and monitors.

use crate::base::error_chain::Chain;
use crate::cli::{FAILED, GOOD, WithConfig, complain, say};
use crate::server::control_socket;

pub(super) fn healthcheck(with_config: &WithConfig) -> i32 {
    let glance = crate::config::glance(with_config.file());
    let Some(admin) = glance.admin else {
        complain("imis-gateway: listen.admin is null in the configuration: there is nobody to ask");
        return FAILED;
    };
    match control_socket::is_ready(admin) {
        Ok(true) => {
            say("ready");
            GOOD
        }
        Ok(false) => {
            complain("imis-gateway: not ready");
            FAILED
        }
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            FAILED
        }
    }
}
