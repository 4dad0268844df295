//! `imis-gateway doctor`

use serde_json::json;

use crate::base::escaped::escaped;
use crate::cli::arguments::{ConfigFile, Format, Offline, read_cookies};
use crate::cli::output::{FAILURE, SUCCESS, fail, plural, print, print_verbatim};
use crate::doctor::{Examination, Finding, Severity, examine};
use crate::server::control_socket;

#[derive(clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    config_file: ConfigFile,
    /// Read a Cookie header from standard input and print whose session it is
    #[arg(long)]
    cookies: bool,
    /// Print the decision about this contact for each app
    #[arg(long, value_name = "ID")]
    imis_id: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: &Doctor) -> Result<i32, i32> {
    let Offline { config, gateway, runtime } = Offline::build(&arguments.config_file)?;
    let cookies = arguments.cookies.then(read_cookies).transpose()?;
    let running = config.listen.control.as_ref().and_then(|socket| control_socket::status(socket).ok());
    let findings = runtime.block_on(examine(&Examination {
        config: &config,
        gateway: &gateway,
        running: running.as_ref(),
        cookies: cookies.as_ref(),
        imis_id: arguments.imis_id.as_deref(),
    }));
    Ok(report(&findings.map_err(|error| fail(&error))?, arguments.format))
}

fn report(findings: &[Finding], format: Format) -> i32 {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let failed = count(Severity::Failed);
    match format {
        Format::Json => {
            let one = |finding: &Finding| {
                let Finding { severity, site, check, result, seen, advice, .. } = finding;
                json!({"severity": severity.name().to_lowercase(), "site": site, "check": check,
                    "result": result, "seen": seen, "advice": advice})
            };
            print_verbatim(json!({"findings": findings.iter().map(one).collect::<Vec<_>>()}));
        }
        Format::Text => {
            findings.iter().for_each(report_one);
            let warnings = plural(count(Severity::Warning), "warning");
            print(format_args!("{}, {warnings}, {failed} failed", plural(findings.len(), "check")));
        }
    }
    if failed == 0 { SUCCESS } else { FAILURE }
}

fn report_one(finding: &Finding) {
    let Finding { severity, site, check, result, seen, advice, .. } = finding;
    // Other servers' text is in it.
    print(escaped(&format!("{:<8} {site}: {check}: {result}", severity.name())));
    print(escaped(&format!("         seen: {seen}")));
    if let Some(advice) = advice {
        print(escaped(&format!("         try:  {advice}")));
    }
}
