//! `imis-gateway status`: what runs at this moment, as the gateway itself says.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::base::error_chain::Chain;
use crate::cli::reload::Socket;
use crate::cli::{FAILED, Format, GOOD, complain, counted, plain, say};
use crate::config::Problem;
use crate::server::control_socket;

#[derive(clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    socket: Socket,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn status(arguments: &Status) -> i32 {
    let socket = match arguments.socket.path() {
        Ok(path) => path,
        Err(code) => return code,
    };
    match control_socket::status(&socket) {
        Ok(status) => {
            match arguments.format {
                Format::Json => say(&status.to_string()),
                Format::Text => tell(&status),
            }
            GOOD
        }
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            FAILED
        }
    }
}

fn tell(status: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), plain);
    let list =
        |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let draining = if status["draining"] == true { ", draining" } else { "" };
    say(&format!(
        "imis-gateway {}, process {}, up {}{draining}",
        text(&status["version"]),
        status["pid"],
        lasted(status["uptime_seconds"].as_u64().unwrap_or(0))
    ));
    let last = &status["last_reload"];
    say(&format!("configuration  {} ({})", text(&last["hash"]), text(&last["file"])));
    if status["configuration"]["differs_from_file"] == true {
        let refused = status["failed_reloads"].as_array().is_some_and(|failed| !failed.is_empty());
        let what = if refused { "see below" } else { "`imis-gateway reload` takes it up" };
        say(&format!("               the file says something else by now, or cannot be read; {what}"));
    }
    if last["good"] == true {
        say(&format!("taken up       {} by {}", text(&last["at"]), text(&last["by"])));
    }
    for last in status["failed_reloads"].as_array().into_iter().flatten() {
        say(&format!(
            "last reload    FAILED at {} (by {}); what ran before goes on",
            text(&last["at"]),
            text(&last["by"])
        ));
        let file = Path::new(last["file"].as_str().unwrap_or_default());
        let problems = Vec::<Problem>::deserialize(&last["problems"]).unwrap_or_default();
        for problem in problems {
            say(&format!("               {}", plain(&problem.shown(file))));
        }
    }
    for key in last["needs_restart"].as_array().into_iter().flatten() {
        say(&format!("restart        {}: its change waits for one", text(key)));
    }
    say(&format!("connections    {}", status["connections"]));
    for site in status["sites"].as_array().into_iter().flatten() {
        say("");
        say(&format!("site           {}", list(&site["hosts"])));
        match site["certificate"]["word"].as_str() {
            Some(word) => say(&format!("  certificate  {word}")),
            None => say(&format!("  certificate  good until {}", text(&site["certificate"]["expires"]))),
        }
        for host in site["certificate"]["uncovered"].as_array().into_iter().flatten() {
            say(&format!("               it does not cover {}", text(host)));
        }
        if let Some(acme) = site["certificate"]["acme"].as_object() {
            let moment = |key: &str| acme[key].as_str().map(plain);
            say(&format!("  ACME         {} by {}", text(&acme["directory"]), text(&acme["challenge"])));
            match (moment("failed"), moment("next"), moment("renewed")) {
                (Some(why), next, _) => {
                    let next = next.map(|next| format!("; asked again at {next}")).unwrap_or_default();
                    say(&format!("               FAILED: {why}{next}"));
                }
                (None, Some(next), Some(renewed)) => {
                    say(&format!("               renewed at {renewed}; looked at again by {next}"));
                }
                (None, Some(next), None) => say(&format!("               looked at again by {next}")),
                (None, None, _) => say("               not looked at yet"),
            }
        }
        for server in site["upstream"].as_array().into_iter().flatten() {
            say(&format!("  upstream     {}, {}", text(&server["server"]), text(&server["state"])));
        }
        for app in site["apps"].as_array().into_iter().flatten() {
            say(&format!(
                "  app          {} at {}, to {}",
                text(&app["name"]),
                text(&app["path"]),
                text(&app["zendesk"])
            ));
            for secret in app["secrets"].as_array().into_iter().flatten() {
                let age = lasted(secret["age_seconds"].as_u64().unwrap_or(0));
                say(&format!(
                    "    {}  fingerprint {}, {age} old",
                    text(&secret["secret"]),
                    text(&secret["fingerprint"])
                ));
            }
            if let Some(people) = app["staff"]["people"].as_u64() {
                let people = counted(usize::try_from(people).unwrap_or(0), "agent or admin");
                say(&format!(
                    "    staff      {people} known, {} ago",
                    lasted(app["staff"]["age_seconds"].as_u64().unwrap_or(0))
                ));
            }
        }
    }
}

/// `3 d 4 h`, `5 min 2 s`.
fn lasted(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
