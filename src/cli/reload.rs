//! `imis-gateway reload`: asks the running gateway to read its configuration again, and waits for the outcome.

use crate::cli::arguments::{ControlSocket, Format};
use crate::cli::output::{BAD_CONFIGURATION, FAILURE, SUCCESS, eprint, exit_with, plural, print};
use crate::server::reload::ReloadResult;

pub(super) fn run(socket: &ControlSocket) -> Result<i32, i32> {
    socket.require_same_file()?;
    let answer = socket.post("/reload")?;
    let last: ReloadResult = serde_json::from_value(answer.clone()).map_err(|_| {
        exit_with(FAILURE, "the response of the gateway is invalid; it may be another version")
    })?;
    match socket.format {
        Format::Json => print(&answer),
        Format::Text => report(&last),
    }
    Ok(if last.good { SUCCESS } else { BAD_CONFIGURATION })
}

fn report(last: &ReloadResult) {
    let (file, hash) = (last.file.display(), &last.hash);
    for problem in &last.problems {
        eprint(problem.shown(&last.file));
    }
    if !last.good {
        let problems = plural(last.problems.len(), "problem");
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
