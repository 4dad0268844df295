//! The upstream of one site: its servers, and how to connect to them.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::base::tls_client;
use crate::config::{self, Secret, Server, Site};
use crate::upstream::servers::Servers;

/// The upstream of one site.
pub(crate) struct SiteUpstream {
    pub(crate) config: config::Upstream,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) servers: Arc<Servers>,
    /// The `Host` of requests that the gateway makes itself.
    pub(crate) host: String,
    /// The names that a server's certificate may have.
    certificate_names: Vec<ServerName<'static>>,
    /// The SNI name of each server.
    server_names: Vec<String>,
}

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamBuildError {
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the system has no randomness to give")]
    Random(#[from] getrandom::Error),
}

impl SiteUpstream {
    /// The upstream of `site`, or `previous` if nothing has changed. `keys` sign affinity cookies.
    pub(crate) fn build(
        site: &Site,
        keys: &[&Secret],
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, UpstreamBuildError> {
        let names = certificate_names(site);
        let kept = previous.filter(|previous| {
            previous.certificate_names == names
                && previous.config == site.upstream
                && previous.servers.have_cookies_of(keys)
        });
        if let Some(kept) = kept {
            return Ok(kept.clone());
        }
        let config = site.upstream.clone();
        let servers = Servers::new(&config, keys, previous.map(|previous| &*previous.servers))?;
        if let Some(previous) = previous {
            servers.take_over(&previous.servers, previous.config.health == config.health);
        }
        Ok(Arc::new(Self {
            tls: Arc::new(tls_client::client_config(config.roots.0.clone(), names.clone())?),
            host: config.host.as_ref().map_or_else(|| site.hosts[0].clone(), ToString::to_string),
            server_names: config.servers.iter().map(|server| server_name(server, site)).collect(),
            certificate_names: names,
            servers,
            config,
        }))
    }

    /// The name for SNI and the certificate of a server.
    pub(crate) fn server_name(&self, index: usize) -> &str {
        &self.server_names[index]
    }
}

/// The host name of the server. For an IP address, the host that requests name.
fn server_name(server: &Server, site: &Site) -> String {
    if server.host.parse::<IpAddr>().is_err() {
        return server.host.clone();
    }
    match &site.upstream.host {
        Some(authority) => authority.host.clone(),
        None => site.hosts[0].clone(),
    }
}

fn certificate_names(site: &Site) -> Vec<ServerName<'static>> {
    let hosts = site.hosts.iter();
    let rewritten = site.upstream.host.iter().map(|authority| &authority.host);
    let servers = site.upstream.servers.iter().map(|server| &server.host);
    hosts.chain(rewritten).chain(servers).filter_map(|name| ServerName::try_from(name.clone()).ok()).collect()
}
