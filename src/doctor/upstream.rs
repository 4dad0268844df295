//! The way to the servers of iMIS: the connection, TLS and its certificate, an answer, and the clock that it tells.

use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::base::clock;
use crate::base::x509;
use crate::config::Server;
use crate::doctor::{Finding, Severity};
use crate::imis::DOCTOR_AGENT;
use crate::request::gateway::Site;

/// For each step: a name, a connection, a handshake, an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Zendesk takes tokens whose time is within three minutes of its own.
const MOST_SKEW_SECONDS: u64 = 60;
const MOST_HEAD: usize = 64 * 1024;

/// What a step came to when it failed: the step, why, and what to do.
struct Failed(String, &'static str);

pub(super) async fn examine(site: &Site, findings: &mut Vec<Finding>) {
    for index in 0..site.upstream.servers.len() {
        let server = site.upstream.servers.server(index);
        let mut finding = Finding {
            severity: Severity::Good,
            site: site.config.hosts[0].clone(),
            check: format!("server {server}"),
            result: String::new(),
            seen: "no answer".to_owned(),
            advice: None,
        };
        match ask(site, index, &mut finding).await {
            Ok(head) => judge(site, server, &head, &mut finding),
            Err(Failed(why, advice)) => {
                (finding.severity, finding.result, finding.advice) =
                    (Severity::Failed, why, Some(advice.to_owned()));
            }
        }
        findings.push(finding);
    }
}

async fn within<T, E: std::fmt::Display>(
    what: &str,
    advice: &'static str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failed(format!("{what}: {error}"), advice)),
        Err(_) => Err(Failed(format!("{what}: nothing within {} s", PATIENCE.as_secs()), advice)),
    }
}

/// The head of the answer to `GET /`, asked as the gateway asks.
async fn ask(site: &Site, index: usize, finding: &mut Finding) -> Result<String, Failed> {
    let server = site.upstream.servers.server(index);
    let looking = tokio::net::lookup_host((server.host.as_str(), server.port));
    let addresses: Vec<_> = within("the name", "is it in DNS, or in /etc/hosts?", looking)
        .await?
        .map(|address| address.ip().to_string())
        .collect();
    finding.seen = format!("addresses: {}", addresses.join(", "));
    let begun = Instant::now();
    let connecting = TcpStream::connect((server.host.as_str(), server.port));
    let advice = "is iMIS up, is the port right, does a firewall stand between?";
    let stream = within("the connection", advice, connecting).await?;
    finding.result = format!("connected in {} ms", begun.elapsed().as_millis());
    if !server.tls {
        return exchange(site, stream).await;
    }
    let name = site.upstream.server_name(index).to_owned();
    let advice = "upstream.ca_file has to hold the root that vouches for its certificate, and the certificate a name of the site, upstream.host or \
                  the server; `openssl s_client -connect HOST:PORT -showcerts` shows it";
    let named = ServerName::try_from(name.clone())
        .map_err(|_| Failed(format!("`{name}` is no name for TLS"), advice))?;
    let connector = TlsConnector::from(site.upstream.tls.clone());
    let stream = within("the TLS handshake", advice, connector.connect(named, stream)).await?;
    if let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        let now = clock::unix_now_signed();
        if let Some(word) = x509::expiry_warning(leaf, false, now) {
            finding.severity = Severity::Warning;
            finding.advice = Some(format!("its certificate: {word}"));
        }
    }
    exchange(site, stream).await
}

async fn exchange(site: &Site, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, Failed> {
    let host =
        site.config.upstream.host.as_ref().map_or_else(|| site.config.hosts[0].clone(), ToString::to_string);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {}\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n",
        DOCTOR_AGENT
    );
    let advice = "something else than a web server may listen there, or expect TLS";
    let asking = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MOST_HEAD {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(head)
    };
    let head = within("the answer", advice, asking).await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.") {
        Ok(head)
    } else {
        Err(Failed("the answer is no HTTP".to_owned(), advice))
    }
}

fn judge(site: &Site, server: &Server, head: &str, finding: &mut Finding) {
    let field = |wanted: &str| {
        let mut lines = head.lines().skip(1).take_while(|line| !line.is_empty());
        lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let status = head.split(' ').nth(1).unwrap_or("?").chars().take(3).collect::<String>();
    finding.result += &format!(", answered {status}");
    // Which software it is; nothing of anybody's.
    let software: Vec<&str> =
        ["server", "x-powered-by", "x-aspnet-version"].into_iter().filter_map(field).collect();
    let software: Vec<String> = software.iter().map(|text| text.chars().take(80).collect()).collect();
    finding.seen += &format!(
        "; software: {}",
        if software.is_empty() { "not told".to_owned() } else { software.join(", ") }
    );
    if let Some(date) = field("date").and_then(|date| httpdate::parse_http_date(date).ok()) {
        let theirs = date.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let skew = theirs.abs_diff(clock::unix_now());
        finding.seen += &format!("; its clock differs by {skew} s");
        if skew > MOST_SKEW_SECONDS {
            finding.severity = Severity::Warning;
            let before = finding.advice.take().map(|advice| advice + "; ").unwrap_or_default();
            finding.advice = Some(
                before
                    + "one of the two clocks is wrong; Zendesk refuses tokens of a clock that is three minutes off: set both by NTP",
            );
        }
    }
    // iMIS 2017 sends whoever asks by plain HTTP to https, which is us: for ever.
    let own = site.config.hosts.iter().any(|host| {
        let to = field("location").and_then(|to| url::Url::parse(to).ok());
        to.is_some_and(|to| to.scheme() == "https" && to.host_str() == Some(host))
    });
    if !server.tls && own && status.starts_with('3') {
        finding.severity = Severity::Failed;
        finding.result += ", a redirect to https for what was asked by plain HTTP";
        finding.advice = Some("visitors would go round in circles: use https in upstream.servers".to_owned());
    }
    if status.starts_with('5') {
        finding.severity = Severity::Failed;
        finding.advice = Some("iMIS itself fails: its own log and event viewer say why".to_owned());
    }
}
