//! The iMIS servers: connection, TLS certificate, response, and clock.

use std::time::Instant;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::base::{clock, x509};
use crate::config::Server;
use crate::doctor::finding::{Finding, Part, Severity};
use crate::doctor::probe::{clock_skew, connect, resolve, shown, within};
use crate::imis::DOCTOR_AGENT;
use crate::request::gateway::Site;

const MAX_SKEW_SECONDS: u64 = 60;
const MAX_HEAD_BYTES: usize = 64 * 1024;

const DNS_ADVICE: &str = "check that the name is in DNS or in /etc/hosts";
const CONNECT_ADVICE: &str = "check that iMIS is up, the port, and whether a firewall is in between";
const TLS_ADVICE: &str = "upstream.ca_file must hold the root of its certificate. The certificate must have a name of the site, upstream.host or the server; \
     `openssl s_client -connect HOST:PORT -showcerts` shows it";
const HTTP_ADVICE: &str = "check whether this port is a web server, and whether it expects TLS";

/// What failed, and how to fix it.
type StepError = (String, &'static str);

pub(super) async fn check(site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    for index in 0..site.upstream.servers.len() {
        let server = site.upstream.servers.server(index);
        let mut finding = Finding::of_site(site, format!("server {server}")).seen("no answer");
        findings.push(match request_head(site, index, &mut finding).await {
            Ok(head) => judge(site, server, &head, finding),
            Err((error, advice)) => finding.failed(error, advice),
        });
    }
    // As long as one server works, it answers.
    if findings.iter().all(|finding| finding.severity == Severity::Failed) {
        return findings.into_iter().map(|finding| finding.breaks(Part::Servers)).collect();
    }
    findings
}

/// The response head for `GET /`, requested like the gateway does.
async fn request_head(site: &Site, index: usize, finding: &mut Finding) -> Result<String, StepError> {
    let server = site.upstream.servers.server(index);
    let addresses = resolve(&server.host, server.port).await.map_err(|error| (error, DNS_ADVICE))?;
    finding.seen = shown(&addresses);
    let started = Instant::now();
    let stream = connect(&addresses, server.port).await.map_err(|error| (error, CONNECT_ADVICE))?;
    finding.result = format!("connected in {} ms", started.elapsed().as_millis());
    if !server.tls {
        return exchange(site, stream).await;
    }
    let name = site.upstream.server_name(index).to_owned();
    let name = ServerName::try_from(name.clone())
        .map_err(|_| (format!("`{name}` is not a valid TLS server name"), TLS_ADVICE))?;
    let handshake = TlsConnector::from(site.upstream.tls.clone()).connect(name, stream);
    let stream = within("TLS handshake", handshake).await.map_err(|error| (error, TLS_ADVICE))?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if let Some(warning) = leaf.and_then(|leaf| x509::expiry_warning(leaf, false, clock::unix_now_signed())) {
        warn(finding, &format!("its certificate: {warning}"));
    }
    exchange(site, stream).await
}

async fn exchange(site: &Site, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, StepError> {
    let config = &site.config;
    let host = config.upstream.host.as_ref().map_or_else(|| config.hosts[0].clone(), ToString::to_string);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {DOCTOR_AGENT}\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(head)
    };
    let head = within("HTTP response", exchange).await.map_err(|error| (error, HTTP_ADVICE))?;
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.") {
        Ok(head)
    } else {
        Err(("the response is not HTTP".to_owned(), HTTP_ADVICE))
    }
}

fn judge(site: &Site, server: &Server, head: &str, mut finding: Finding) -> Finding {
    let field = |wanted: &str| {
        let mut lines = head.lines().skip(1).take_while(|line| !line.is_empty());
        lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let status: String = head.split(' ').nth(1).unwrap_or("?").chars().take(3).collect();
    finding.result += &format!(", answered {status}");
    let software: Vec<String> = ["server", "x-powered-by", "x-aspnet-version"]
        .into_iter()
        .filter_map(field)
        .map(|text| text.chars().take(80).collect())
        .collect();
    let software = if software.is_empty() { "unknown".to_owned() } else { software.join(", ") };
    finding.seen += &format!("; software: {software}");
    if let Some(skew) = field("date").and_then(clock_skew) {
        finding.seen += &format!("; its clock differs by {skew} s");
        if skew > MAX_SKEW_SECONDS {
            warn(
                &mut finding,
                "one of the two clocks is wrong, and Zendesk refuses tokens that are three minutes off: set both by NTP",
            );
        }
    }
    // iMIS 2017 redirects plain HTTP to the site's https address, which is this gateway.
    let location = field("location").and_then(|location| url::Url::parse(location).ok());
    let leads_here = location.is_some_and(|to| {
        to.scheme() == "https" && site.config.hosts.iter().any(|host| to.host_str() == Some(host))
    });
    if !server.tls && leads_here && status.starts_with('3') {
        let result = format!("{}, a redirect from plain HTTP to https", finding.result);
        return finding.failed(result, "this is a redirect loop for visitors: use https in upstream.servers");
    }
    if status.starts_with('5') {
        let result = finding.result.clone();
        return finding.failed(result, "iMIS itself fails: its log and event viewer show why");
    }
    finding
}

/// Adds a warning to a result that is good otherwise.
fn warn(finding: &mut Finding, advice: &str) {
    finding.severity = Severity::Warning;
    let previous = finding.advice.take().map(|advice| advice + "; ").unwrap_or_default();
    finding.advice = Some(previous + advice);
}
