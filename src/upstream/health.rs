//! Health checks: request a page of each server at regular intervals, each time on a new connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

use crate::upstream::proxy_header;
use crate::upstream::site::SiteUpstream;

/// Starts the health checks of an upstream, unless they are running. They stop when the upstream is dropped.
pub(crate) fn watch(upstream: &Arc<SiteUpstream>, control: &Handle) {
    let Some(health) = &upstream.config.health else { return };
    if upstream.servers.is_watched.swap(true, Ordering::Relaxed) {
        return;
    }
    for index in 0..upstream.servers.len() {
        let (upstream, health) = (Arc::downgrade(upstream), health.clone());
        control.spawn(async move {
            let (mut good, mut bad) = (0, 0);
            while let Some(upstream) = upstream.upgrade() {
                let check = tokio::time::timeout(health.timeout, check(&upstream, index, &health.path));
                let outcome = check.await.unwrap_or(Err("no answer in time"));
                (good, bad) = if outcome.is_ok() { (good + 1, 0) } else { (0, bad + 1) };
                if good >= health.rise {
                    upstream.servers.set_health(index, true, "");
                } else if bad >= health.fall {
                    upstream.servers.set_health(index, false, outcome.err().unwrap_or_default());
                }
                drop(upstream);
                tokio::time::sleep(health.interval).await;
            }
        });
    }
}

/// Whether a server answers a request for `path` with a 2xx or 3xx status.
async fn check(upstream: &SiteUpstream, index: usize, path: &str) -> Result<(), &'static str> {
    let server = upstream.servers.server(index);
    let address = (server.host.as_str(), server.port);
    let mut stream = TcpStream::connect(address).await.map_err(|_| "no connection")?;
    if let Some(version) = upstream.config.proxy_protocol {
        // The gateway itself is the client.
        let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            return Err("no connection");
        };
        let header = proxy_header::of(version, own, peer);
        stream.write_all(&header).await.map_err(|_| "the connection was lost")?;
    }
    if !server.tls {
        return exchange(stream, path, &upstream.host).await;
    }
    let name = upstream.server_name(index).to_owned();
    let name = ServerName::try_from(name).map_err(|_| "no name for TLS")?;
    let connector = TlsConnector::from(upstream.tls.clone());
    let stream = connector.connect(name, stream).await.map_err(|_| "the TLS handshake")?;
    exchange(stream, path, &upstream.host).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
) -> Result<(), &'static str> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: imis-gateway-health\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|_| "the connection was lost")?;
    stream.flush().await.map_err(|_| "the connection was lost")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.map_err(|_| "the connection was lost")?;
    let status = std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(_) => Err("a status that is not good"),
        None::<u16> => Err("no HTTP"),
    }
}
