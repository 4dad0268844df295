//! The client connection of a request.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::base::request_id::RequestId;
use crate::codec::request_head::HeaderFields;
use crate::request::access_log::Access;
use crate::request::client_address;
use crate::request::worker::Worker;

/// A client connection.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    /// The address of the client, or of the proxy in front of us.
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    /// `peer` as text, which nearly every request needs.
    peer_text: String,
    pub(crate) entry: Entry,
}

/// A request that is being served.
pub(crate) struct Context<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) request_id: RequestId,
    pub(crate) access: Access,
}

/// The listener that accepted a connection.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// HTTPS, with the certificate for this name. `site`: the site with that name. None: a reload has removed it.
    Https { name: Rc<str>, site: Option<usize> },
    /// Plain HTTP, which redirects to HTTPS.
    Http,
}

impl Connection {
    pub(crate) fn new(worker: Rc<Worker>, peer: SocketAddr, entry: Entry) -> Self {
        Self { worker, peer: peer.ip(), port: peer.port(), peer_text: peer.ip().to_string(), entry }
    }

    /// The connection with the newest configuration. None: it has that already.
    pub(crate) fn renewed(&self) -> Option<Self> {
        let worker = self.worker.newer()?;
        let entry = match &self.entry {
            Entry::Https { name, .. } => {
                Entry::Https { name: name.clone(), site: worker.gateway.site_of(name) }
            }
            Entry::Http => Entry::Http,
        };
        Some(Self { worker, peer: self.peer, port: self.port, peer_text: self.peer_text.clone(), entry })
    }

    /// The site that the connection is for.
    pub(crate) fn site(&self) -> Option<usize> {
        match self.entry {
            Entry::Https { site, .. } => site,
            Entry::Http => None,
        }
    }

    /// `Strict-Transport-Security` of the site.
    pub(crate) fn hsts(&self) -> Option<&str> {
        self.worker.gateway.sites[self.site()?].config.hsts.as_deref()
    }

    /// Whether requests use the same upstream connections under both configurations.
    pub(crate) fn has_upstream_of(&self, other: &Self) -> bool {
        let upstream = |connection: &Self| Some(connection.worker.upstreams[connection.site()?].clone());
        matches!((upstream(self), upstream(other)), (Some(own), Some(other)) if Rc::ptr_eq(&own, &other))
    }

    /// `X-Forwarded-For` for the upstream: the part that trusted proxies vouch for, then our peer.
    pub(crate) fn forwarded_for(&self, fields: &impl HeaderFields) -> Cow<'_, str> {
        let vouched_for = self.vouched_for(fields);
        if vouched_for.is_empty() {
            return Cow::Borrowed(&self.peer_text);
        }
        let chain: Vec<String> = vouched_for.iter().chain([&self.peer]).map(IpAddr::to_string).collect();
        Cow::Owned(chain.join(", "))
    }

    /// The client's address: the last one that is not a trusted proxy.
    pub(crate) fn client_address(&self, fields: &impl HeaderFields) -> IpAddr {
        self.vouched_for(fields).first().copied().unwrap_or(self.peer)
    }

    fn vouched_for(&self, fields: &impl HeaderFields) -> Vec<IpAddr> {
        let gateway = &self.worker.gateway;
        if gateway.trusts(self.peer) {
            client_address::vouched_for(fields.pairs(), |address| gateway.trusts(address))
        } else {
            Vec::new()
        }
    }
}
