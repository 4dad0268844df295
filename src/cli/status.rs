//! `imis-gateway status`: what the running gateway says about itself.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::arguments::{ControlSocket, Format};
use crate::cli::output::{SUCCESS, escaped, plural, print};
use crate::config::Problem;

#[derive(clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    socket: ControlSocket,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: &Status) -> Result<i32, i32> {
    let status = arguments.socket.status()?;
    match arguments.format {
        Format::Json => print(&status),
        Format::Text => report(&status),
    }
    Ok(SUCCESS)
}

fn report(status: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), escaped);
    let list =
        |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let draining = if status["draining"] == true { ", draining" } else { "" };
    print(format_args!(
        "imis-gateway {}, process {}, up {}{draining}",
        text(&status["version"]),
        status["pid"],
        duration(status["uptime_seconds"].as_u64().unwrap_or(0))
    ));
    let last = &status["last_reload"];
    print(format_args!("configuration  {} ({})", text(&last["hash"]), text(&last["file"])));
    if status["configuration"]["differs_from_file"] == true {
        let refused = status["failed_reloads"].as_array().is_some_and(|failed| !failed.is_empty());
        let what = if refused { "see below" } else { "apply it with `imis-gateway reload`" };
        print(format_args!("               the file has changed since, or cannot be read; {what}"));
    }
    if last["good"] == true {
        print(format_args!("loaded         {} by {}", text(&last["at"]), text(&last["by"])));
    }
    for last in status["failed_reloads"].as_array().into_iter().flatten() {
        print(format_args!(
            "last reload    FAILED at {} (by {}); keeping the previous configuration",
            text(&last["at"]),
            text(&last["by"])
        ));
        let file = Path::new(last["file"].as_str().unwrap_or_default());
        let problems = Vec::<Problem>::deserialize(&last["problems"]).unwrap_or_default();
        for problem in problems {
            print(format_args!("               {}", escaped(&problem.shown(file))));
        }
    }
    for key in last["needs_restart"].as_array().into_iter().flatten() {
        print(format_args!("restart        needed for the change of {}", text(key)));
    }
    print(format_args!("connections    {}", status["connections"]));
    for site in status["sites"].as_array().into_iter().flatten() {
        print("");
        print(format_args!("site           {}", list(&site["hosts"])));
        match site["certificate"]["word"].as_str() {
            Some(word) => print(format_args!("  certificate  {word}")),
            None => {
                print(format_args!("  certificate  valid until {}", text(&site["certificate"]["expires"])))
            }
        }
        for host in site["certificate"]["uncovered"].as_array().into_iter().flatten() {
            print(format_args!("               it does not cover {}", text(host)));
        }
        if let Some(acme) = site["certificate"]["acme"].as_object() {
            let moment = |key: &str| acme[key].as_str().map(escaped);
            print(format_args!(
                "  ACME         {} by {}",
                text(&acme["directory"]),
                text(&acme["challenge"])
            ));
            match (moment("failed"), moment("next"), moment("renewed")) {
                (Some(why), next, _) => {
                    let next = next.map(|next| format!("; next attempt at {next}")).unwrap_or_default();
                    print(format_args!("               FAILED: {why}{next}"));
                }
                (None, Some(next), Some(renewed)) => {
                    print(format_args!("               renewed at {renewed}; next check by {next}"));
                }
                (None, Some(next), None) => print(format_args!("               next check by {next}")),
                (None, None, _) => print("               not checked yet"),
            }
        }
        for server in site["upstream"].as_array().into_iter().flatten() {
            let outage = server["down_since"].as_str().map(|since| {
                let failed = server["failed_connections"].as_u64().unwrap_or(0);
                let failed = plural(usize::try_from(failed).unwrap_or(usize::MAX), "failed connection");
                format!(" since {}, {failed}", escaped(since))
            });
            print(format_args!(
                "  upstream     {}, {}{}",
                text(&server["server"]),
                text(&server["state"]),
                outage.unwrap_or_default()
            ));
        }
        if let Some(error) = site["service_account_error"].as_str() {
            print(format_args!("  iMIS         service account FAILED: {}", escaped(error)));
        }
        for app in site["apps"].as_array().into_iter().flatten() {
            print(format_args!(
                "  app          {} at {}, to {}",
                text(&app["name"]),
                text(&app["path"]),
                text(&app["zendesk"])
            ));
            for secret in app["secrets"].as_array().into_iter().flatten() {
                let age = duration(secret["age_seconds"].as_u64().unwrap_or(0));
                print(format_args!(
                    "    {}  fingerprint {}, {age} old",
                    text(&secret["secret"]),
                    text(&secret["fingerprint"])
                ));
            }
            if let Some(error) = app["zendesk_api_error"].as_str() {
                print(format_args!("    API        FAILED: {}", escaped(error)));
            }
            if let Some(people) = app["staff"]["people"].as_u64() {
                let people = plural(usize::try_from(people).unwrap_or(0), "agent or admin");
                print(format_args!(
                    "    staff      {people} known, {} ago",
                    duration(app["staff"]["age_seconds"].as_u64().unwrap_or(0))
                ));
            }
        }
    }
}

/// `3 d 4 h`, `5 min 2 s`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
