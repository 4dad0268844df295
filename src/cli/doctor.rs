//! `imis-gateway doctor`

use std::io::Read;

use serde_json::json;

use crate::base::error_chain::Chain;
use crate::cli::{FAILED, Format, GOOD, WithConfig, complain, counted, plain, report, say};
use crate::doctor::test_visitor::pasted_cookies;
use crate::doctor::{Examination, Finding, Severity, examine};
use crate::observe::log::Chain;
use crate::server::{build, control_socket};

/// More is no Cookie header.
const MOST_COOKIE_BYTES: u64 = 64 * 1024;

#[derive(clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    with_config: WithConfig,
    /// Read a Cookie header from standard input and say who it belongs to
    #[arg(long)]
    cookies: bool,
    /// Say what would become of this contact, for each app
    #[arg(long, value_name = "ID")]
    imis_id: Option<String>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn doctor(arguments: &Doctor) -> i32 {
    let config = match arguments.with_config.load() {
        Ok(config) => config,
        Err(problems) => return report(&problems),
    };
    let cookies = match arguments.cookies.then(cookies).transpose() {
        Ok(cookies) => cookies,
        Err(error) => {
            complain(&format!("imis-gateway: cannot read the Cookie header from standard input: {error}"));
            return FAILED;
        }
    };
    let cookies = match cookies.map(|text| pasted_cookies(&text).ok_or(())).transpose() {
        Ok(cookies) => cookies,
        Err(()) => {
            complain("imis-gateway: what was given is not a Cookie header");
            return FAILED;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("imis-gateway: {error}"));
            return FAILED;
        }
    };
    let gateway = match build::offline_gateway(&config) {
        Ok(gateway) => gateway,
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            return FAILED;
        }
    };
    let running = config.listen.control.as_ref().and_then(|socket| control_socket::status(socket).ok());
    let examination = Examination {
        config: &config,
        gateway: &gateway,
        running: running.as_ref(),
        cookies: cookies.as_ref(),
        imis_id: arguments.imis_id.as_deref(),
    };
    match runtime.block_on(examine(&examination)) {
        Ok(findings) => tell(&findings, arguments.format),
        Err(error) => {
            complain(&format!("imis-gateway: {}", Chain(&error)));
            FAILED
        }
    }
}

pub(super) fn cookies() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MOST_COOKIE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn tell(findings: &[Finding], format: Format) -> i32 {
    match format {
        Format::Json => {
            let list: Vec<_> = findings
                .iter()
                .map(|finding| {
                    json!({"severity": finding.severity.name().to_lowercase(), "site": finding.site, "check": finding.check,
                        "result": finding.result, "seen": finding.seen, "advice": finding.advice})
                })
                .collect();
            say(&json!({ "findings": list }).to_string());
        }
        Format::Text => findings.iter().for_each(tell_one),
    }
    let failed = findings.iter().filter(|finding| finding.severity == Severity::Failed).count();
    if format == Format::Text {
        let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
        say(&format!(
            "{}, {}, {failed} failed",
            counted(findings.len(), "check"),
            counted(warnings, "warning")
        ));
    }
    if failed == 0 { GOOD } else { FAILED }
}

fn tell_one(finding: &Finding) {
    let Finding { severity, site, check, result, seen, advice } = finding;
    // Servers that are not ours have their say in it.
    say(&plain(&format!("{:<8} {site}: {check}: {result}", severity.name())));
    say(&plain(&format!("         seen: {seen}")));
    if let Some(advice) = advice {
        say(&plain(&format!("         try:  {advice}")));
    }
}
