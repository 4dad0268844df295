//! The commands that ask the running gateway: `reload`, `status`, `upstream`, `healthcheck`.

use std::path::Path;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;

use crate::base::escaped::escaped;
use crate::base::query::encoded;
use crate::cli::arguments::{ConfigFile, ControlSocket, Format};
use crate::cli::output::{
    BAD_CONFIGURATION, FAILURE, SUCCESS, USAGE, bad_configuration, eprint, exit_with, fail, plural, print,
    print_verbatim,
};
use crate::config::{self, Problem};
use crate::server::control_socket;
use crate::server::reload::ReloadResult;

/// Asks the running gateway to read its configuration again, and waits for the outcome.
pub(super) fn reload(socket: &ControlSocket) -> Result<i32, i32> {
    let asked = socket.require_same_file().and_then(|()| socket.post("/reload"));
    // Which gateway to ask may stand in a file that cannot be read: that is the problem to report.
    let answer = asked.map_err(|code| match socket.unreadable_file() {
        Some(problems) => bad_configuration(&problems),
        None => code,
    })?;
    let last: ReloadResult = serde_json::from_value(answer.clone()).map_err(|_| {
        exit_with(FAILURE, "the response of the gateway is invalid; it may be another version")
    })?;
    match socket.format {
        Format::Json => print_verbatim(&answer),
        Format::Text => reload_report(&last),
    }
    Ok(if last.good { SUCCESS } else { BAD_CONFIGURATION })
}

fn reload_report(last: &ReloadResult) {
    let (file, hash) = (last.file.display(), &last.hash);
    for problem in &last.problems {
        eprint(problem.shown(&last.file));
    }
    if !last.good {
        if last.omitted_problems > 0 {
            eprint(format_args!("and {} more", plural(last.omitted_problems, "problem")));
        }
        let problems = plural(last.problems.len() + last.omitted_problems, "problem");
        eprint(format_args!(
            "{problems} in {file}; reload failed, keeping the previous configuration ({hash})"
        ));
        return;
    }
    for warning in &last.warnings {
        print(format_args!("warning: {warning}"));
    }
    for key in &last.needs_restart {
        print(format_args!("warning: {key}: this change takes effect after a restart"));
    }
    print(format_args!("{file}: reloaded, {} (configuration {hash})", last.summary));
}

/// Prints the state of the running gateway.
pub(super) fn status(socket: &ControlSocket) -> Result<i32, i32> {
    let status = socket.status()?;
    match socket.format {
        Format::Json => print_verbatim(&status),
        Format::Text => print(status_report(&status).map_err(|error| fail(&error))?.trim_end()),
    }
    Ok(SUCCESS)
}

fn status_report(status: &serde_json::Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&escaped(&value.to_string()))?));
    environment.add_filter("duration", duration);
    environment.add_filter("plural", |number: Option<usize>, noun: &str| plural(number.unwrap_or(0), noun));
    environment.add_filter("shown", |problem: Serde<Problem>, file: &str| problem.shown(Path::new(file)));
    environment.render_str(include_str!("templates/status.txt"), Serde(status))
}

/// `3 d 4 h`, `5 min 2 s`.
fn duration(seconds: Option<u64>) -> String {
    match seconds.unwrap_or_default() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Arguments of `upstream`.
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

pub(super) fn upstream(arguments: &Upstream) -> Result<i32, i32> {
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
        Format::Json => print_verbatim(&answer),
        Format::Text => print(format_args!("{server} is {done} at {}", list("sites"))),
    }
    Ok(SUCCESS)
}

/// Whether the running gateway is ready, for containers and monitoring.
pub(super) fn healthcheck(config_file: &ConfigFile) -> Result<i32, i32> {
    let admin = config::glance(config_file.path()).admin.ok_or_else(|| {
        exit_with(FAILURE, "there is no admin listener: listen.admin is null in the configuration")
    })?;
    if !control_socket::is_ready(admin).map_err(|error| fail(&error))? {
        return Err(exit_with(FAILURE, "not ready"));
    }
    print("ready");
    Ok(SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_everything_and_escapes_text() {
        let status = serde_json::json!({
            "version": "1.0.0", "pid": 7, "uptime_seconds": 3723, "draining": true, "connections": 3,
            "configuration": {"hash": "aa", "differs_from_file": true},
            "last_reload": {"hash": "aa", "file": "/etc/c.yaml", "good": true, "at": "10:00", "by": "start",
                "needs_restart": ["workers"]},
            "failed_reloads": [{"at": "11:00", "by": "SIGHUP", "file": "/etc/c.yaml",
                "problems": [{"line": 2, "column": 3, "key": "sites", "reason": "bad\u{1b}"}]}],
            "sites": [{
                "hosts": ["a.example.org", "b.example.org"],
                "certificate": {"word": null, "expires": "2027-01-01", "uncovered": ["b.example.org"],
                    "acme": {"directory": "https://ca/", "challenge": "http-01", "next": "12:00",
                        "renewed": null, "failed": "refused"}},
                "upstream": [{"server": "https://10.0.0.5:443", "state": "healthy"},
                    {"server": "https://10.0.0.6:443", "state": "unhealthy", "down_since": "09:00",
                        "failed_connections": 1}],
                "service_account_error": "401",
                "apps": [{"name": "Help", "path": "/sso", "zendesk": "c.zendesk.com",
                    "secrets": [{"secret": "shared_secret", "fingerprint": "ab12", "age_seconds": 90_000}],
                    "zendesk_api_error": "403", "staff": {"people": 2, "age_seconds": 5}}],
            }],
        });
        let expected = "\
imis-gateway 1.0.0, process 7, up 1 h 2 min, draining
configuration  aa (/etc/c.yaml)
               the file has changed since, or cannot be read; see below
loaded         10:00 by start
last reload    FAILED at 11:00 (by SIGHUP); keeping the previous configuration
               /etc/c.yaml:2:3: sites: bad\\u{1b}
restart        needed for the change of workers
connections    3

site           a.example.org, b.example.org
  certificate  valid until 2027-01-01
               it does not cover b.example.org
  ACME         https://ca/ by http-01
               FAILED: refused; next attempt at 12:00
  upstream     https://10.0.0.5:443, healthy
  upstream     https://10.0.0.6:443, unhealthy since 09:00, 1 failed connection
  iMIS         service account FAILED: 401
  app          Help at /sso, to c.zendesk.com
    shared_secret  fingerprint ab12, 1 d 1 h old
    API        FAILED: 403
    staff      2 agent or admins known, 5 s ago
";
        assert_eq!(status_report(&status).unwrap(), expected);
    }
}
