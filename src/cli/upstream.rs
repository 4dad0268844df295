//! `imis-gateway upstream drain|enable`: takes one of several iMIS servers out of service, or puts it back.

use crate::base::query::encoded;
use crate::cli::arguments::{ControlSocket, Format};
use crate::cli::output::{SUCCESS, USAGE, exit_with, print};

#[derive(clap::Args)]
pub(super) struct Upstream {
    #[command(flatten)]
    socket: ControlSocket,
    /// What to do with the server
    #[arg(value_enum)]
    action: Action,
    /// The server, as in upstream.servers: https://10.0.0.5, or 10.0.0.5:443
    server: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Take it out of service: sessions on it stay, new ones go to other servers
    Drain,
    /// Put it back into service
    Enable,
}

pub(super) fn run(arguments: &Upstream) -> Result<i32, i32> {
    let (path, done) = match arguments.action {
        Action::Drain => ("drain", "taken out of service"),
        Action::Enable => ("restore", "back in service"),
    };
    let server = &arguments.server;
    let answer = arguments.socket.post(&format!("/servers/{path}?server={}", encoded(server)))?;
    let list = |key: &str| {
        let all = answer[key].as_array().into_iter().flatten().filter_map(|item| item.as_str());
        all.collect::<Vec<_>>().join(", ")
    };
    if answer["sites"].is_null() {
        return Err(exit_with(
            USAGE,
            format_args!("`{server}` is not one of the servers: {}", list("servers")),
        ));
    }
    match arguments.socket.format {
        Format::Json => print(&answer),
        Format::Text => print(format_args!("{server} is {done} at {}", list("sites"))),
    }
    Ok(SUCCESS)
}
