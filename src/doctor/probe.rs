//! Network steps that several checks share. Each has the same timeout.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};

use crate::base::clock;

/// For each step of a check.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a step, or an error that starts with the name of the step.
pub(super) async fn within<T, E: Display>(
    step: &str,
    run: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(STEP_TIMEOUT, run).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{step}: {error}")),
        Err(_) => Err(format!("{step}: no answer within {} s", STEP_TIMEOUT.as_secs())),
    }
}

pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    within("DNS lookup", lookup_host((host, port))).await.map(Iterator::collect)
}

pub(super) async fn connect(addresses: &[SocketAddr], port: u16) -> Result<TcpStream, String> {
    within(&format!("no connection to port {port}"), TcpStream::connect(addresses)).await
}

/// `addresses: 192.0.2.1, 192.0.2.2`
pub(super) fn shown(addresses: &[SocketAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    format!("addresses: {}", shown.join(", "))
}

/// How many seconds a `Date` header differs from this machine's clock.
pub(super) fn clock_skew(date: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(date.as_secs().abs_diff(clock::unix_now()))
}

/// A URL without its query, which may contain personal data.
pub(super) fn plain(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
}
