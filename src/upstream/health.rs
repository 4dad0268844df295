//! Asking the servers of a site after their health: a page, again and again, on a connection of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

use crate::config::{Health, ProxyHeader, Server};
use crate::upstream::proxy_header;
use crate::upstream::servers::Servers;
use crate::upstream::site::SiteUpstream;

/// What is asked of each server.
struct Check {
    health: Health,
    tls: Arc<ClientConfig>,
    host: String,
    proxy_protocol: Option<ProxyHeader>,
}

/// Starts the health checks of an upstream, once, for as long as it is in use.
pub(crate) fn watch(upstream: &Arc<SiteUpstream>, control: &Handle) {
    let Some(health) = &upstream.config.health else { return };
    if upstream.servers.is_watched.swap(true, Ordering::Relaxed) {
        return;
    }
    let check = Arc::new(Check {
        health: health.clone(),
        tls: upstream.tls.clone(),
        host: upstream.host.clone(),
        proxy_protocol: upstream.config.proxy_protocol,
    });
    for index in 0..upstream.servers.len() {
        let name = upstream.server_name(index).to_owned();
        let (servers, check) = (Arc::downgrade(&upstream.servers), check.clone());
        control.spawn(async move {
            let (mut good, mut bad) = (0, 0);
            while let Some(servers) = servers.upgrade() {
                let outcome = check.ask(servers.server(index), &name).await;
                (good, bad) = if outcome.is_ok() { (good + 1, 0) } else { (0, bad + 1) };
                if good >= check.health.rise {
                    servers.set_health(index, true, "");
                } else if bad >= check.health.fall {
                    servers.set_health(index, false, outcome.err().unwrap_or_default());
                }
                drop::<Arc<Servers>>(servers);
                tokio::time::sleep(check.health.interval).await;
            }
        });
    }
}

impl Check {
    /// Whether it answers in time with a status that is good.
    async fn ask(&self, server: &Server, name: &str) -> Result<(), &'static str> {
        let asked = async {
            let address = (server.host.as_str(), server.port);
            let mut stream = TcpStream::connect(address).await.map_err(|_| "no connection")?;
            if let Some(version) = self.proxy_protocol {
                // The check is the gateway's own request.
                let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
                    return Err("no connection");
                };
                let header = proxy_header::of(version, own, peer);
                stream.write_all(&header).await.map_err(|_| "the connection was lost")?;
            }
            if !server.tls {
                return self.exchange(stream).await;
            }
            let name = ServerName::try_from(name.to_owned()).map_err(|_| "no name for TLS")?;
            let connector = TlsConnector::from(self.tls.clone());
            self.exchange(connector.connect(name, stream).await.map_err(|_| "the TLS handshake")?).await
        };
        tokio::time::timeout(self.health.timeout, asked).await.unwrap_or(Err("no answer in time"))
    }

    async fn exchange(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), &'static str> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: imis-gateway-health\r\nConnection: close\r\n\r\n",
            self.health.path, self.host
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
}
