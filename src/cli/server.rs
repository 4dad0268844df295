//! `imis-gateway server drain|restore`: takes one of several servers of iMIS out of service, and back.

use http::Method;

use crate::base::error_chain::Chain;
use crate::base::query::encoded;
use crate::cli::reload::Socket;
use crate::cli::{FAILED, Format, GOOD, USAGE, complain, say};
use crate::server::control_socket;

#[derive(clap::Args)]
pub(super) struct Server {
    #[command(flatten)]
    socket: Socket,
    /// What becomes of it
    #[arg(value_enum)]
    what: What,
    /// The server, as in upstream.servers: https://10.0.0.5, or 10.0.0.5:443
    server: String,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Sessions that are on it stay, others go to other servers
    Drain,
    /// It is used again
    Restore,
}

pub(super) fn server(arguments: &Server) -> i32 {
    let socket = match arguments.socket.path() {
        Ok(path) => path,
        Err(code) => return code,
    };
    let what = if arguments.what == What::Drain { "drain" } else { "restore" };
    let path = format!("/servers/{what}?server={}", encoded(&arguments.server));
    let answer = match control_socket::ask(&socket, Method::POST, &path) {
        Ok(answer) => answer,
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            return FAILED;
        }
    };
    let list = |key: &str| {
        let all = answer[key].as_array().into_iter().flatten().filter_map(|item| item.as_str());
        all.collect::<Vec<_>>().join(", ")
    };
    if answer["sites"].is_null() {
        complain(&format!(
            "imis-gateway: `{}` is none of the servers: {}",
            arguments.server,
            list("servers")
        ));
        return USAGE;
    }
    match (arguments.format, arguments.what) {
        (Format::Json, _) => say(&answer.to_string()),
        (Format::Text, What::Drain) => {
            say(&format!("{} is taken out of service at {}", arguments.server, list("sites")))
        }
        (Format::Text, What::Restore) => {
            say(&format!("{} is back in service at {}", arguments.server, list("sites")))
        }
    }
    GOOD
}
