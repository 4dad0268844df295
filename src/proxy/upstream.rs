//! The upstream connections of one worker to the servers of one site: connecting, sending, and one safe retry.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::base::buffers::Buffers;
use crate::base::corked_socket::CorkedSocket;
use crate::base::min_rate::Limits;
use crate::config::Server;
use crate::observe::metrics::UpstreamCounters;
use crate::proxy::concurrency_limit::{self, ConcurrencyLimit, HeldPermits, PermitWait};
use crate::proxy::connection::{Connection, Stream};
use crate::proxy::error::{ConnectError, ForwardError, UpstreamError};
use crate::proxy::exchange::{Exchange, RelayTimeouts, Upload, while_connected};
use crate::proxy::pool::Pool;
use crate::proxy::upstream_request::UpstreamRequest;
use crate::upstream::proxy_header;
use crate::upstream::servers::Servers;
use crate::upstream::site::SiteUpstream;

/// Connections of one worker to the servers of one site.
pub(crate) struct Upstream {
    pub(crate) servers: Arc<Servers>,
    upstream: Arc<SiteUpstream>,
    tls: TlsConnector,
    pub(crate) relay_timeouts: RelayTimeouts,
    /// One per server.
    pools: Vec<Pool>,
    pub(crate) held: Rc<HeldPermits>,
    buffers: Rc<Buffers>,
    counters: UpstreamCounters,
}

impl Upstream {
    /// `limits`: the idle time-out and minimum rate of clients within a body.
    pub(crate) fn new(
        upstream: &Arc<SiteUpstream>,
        concurrency_limit: &Arc<ConcurrencyLimit>,
        buffers: Rc<Buffers>,
        limits: Limits,
        counters: UpstreamCounters,
    ) -> Self {
        let timeouts = upstream.config.timeouts;
        Self {
            tls: TlsConnector::from(Arc::clone(&upstream.tls)),
            relay_timeouts: RelayTimeouts {
                response_head: timeouts.response_head,
                client: limits,
                upstream: timeouts.body_idle,
            },
            pools: upstream.config.servers.iter().map(|_| Pool::new(timeouts.idle)).collect(),
            held: HeldPermits::new(concurrency_limit.clone()),
            servers: upstream.servers.clone(),
            upstream: upstream.clone(),
            buffers,
            counters,
        }
    }

    /// Whether an upstream with these settings would be the same.
    pub(crate) fn serves(&self, concurrency_limit: &Arc<ConcurrencyLimit>, limits: Limits) -> bool {
        // A site whose upstream has not changed keeps its concurrency limit.
        Arc::ptr_eq(&self.held.limit, concurrency_limit) && self.relay_timeouts.client == limits
    }

    /// Sends a request and waits for the response head. `own`: the upstream connection that serves only this client.
    pub(crate) async fn send(
        &self,
        request: &UpstreamRequest,
        upload: &mut impl Upload,
        own: Option<Box<Connection>>,
    ) -> Result<Exchange, ForwardError> {
        let mut permit = match request.whole {
            true => while_connected(upload, PermitWait::held(&self.held))
                .await
                .ok_or(ForwardError::ClientGone)?
                .map_err(|concurrency_limit::Busy| ForwardError::Overloaded)?,
            false => PermitWait::NotNeeded(self.held.clone()),
        };
        let own = own.filter(|own| {
            self.upstream.config.proxy_protocol.is_none() || own.visitor == Some(request.client.ip())
        });
        let own = own.and_then(|mut connection| connection.check_idle().then_some(connection));
        let has_own = own.is_some();
        let several = (self.servers.len() > 1).then(|| self.servers.order(request.session.as_ref()));
        let order = several.as_deref().unwrap_or(&[0]);
        // A connection that may be authenticated, or whose PROXY header names the client, is never shared.
        let is_exclusive = request.signs_in || self.upstream.config.proxy_protocol.is_some();
        let reused = own.or_else(|| if is_exclusive { None } else { self.pools[order[0]].take() });
        if let Some(connection) = reused {
            let mut exchange = Exchange::begin(connection, request, permit, has_own, &self.servers);
            self.counters.reused.inc();
            match exchange.response_head(upload, self.relay_timeouts).await {
                Ok(()) => return Ok(exchange),
                // The server had closed the idle connection. The request is sent again on a new one if nothing of it
                // was sent, or if it is repeatable and no response was received (RFC 9110 section 9.2.2).
                Err(ForwardError::Upstream(UpstreamError::Broken(error)))
                    if exchange.connection.sender.sent == 0
                        || (request.is_repeatable() && exchange.connection.receiver.received == 0) =>
                {
                    debug!(%error, "an idle upstream connection had died; asking once more");
                    permit = exchange.permit;
                }
                Err(error) => return Err(error),
            }
        }
        let connecting = Box::pin(self.connect(order, request.client));
        let connection = while_connected(upload, connecting).await.ok_or(ForwardError::ClientGone)??;
        let mut exchange = Exchange::begin(connection, request, permit, is_exclusive, &self.servers);
        exchange.response_head(upload, self.relay_timeouts).await?;
        Ok(exchange)
    }

    /// Returns the connection of a complete response to the pool, if another request may follow on it. `keep`: the
    /// server keeps it open. A connection that serves only one client is returned to the caller.
    pub(crate) fn settle(&self, exchange: Exchange, keep: bool) -> Option<Box<Connection>> {
        if !exchange.is_reusable(keep) {
            return None;
        }
        let exclusive = exchange.exclusive;
        let mut connection = exchange.connection;
        connection.sender.release_buffer(&self.buffers);
        connection.receiver.release_buffer();
        if exclusive {
            return Some(connection);
        }
        self.pools[connection.server].put(connection);
        None
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn prune(&self) {
        self.pools.iter().for_each(Pool::prune);
    }

    async fn connect(&self, order: &[usize], client: SocketAddr) -> Result<Box<Connection>, UpstreamError> {
        let mut last = ConnectError::TimedOut;
        for &index in order {
            let server = self.servers.server(index);
            match self.connect_to(server, self.upstream.server_name(index), client).await {
                Ok(stream) => {
                    self.servers.worked(index);
                    self.counters.opened.inc();
                    let mut connection = Connection::new(
                        stream,
                        index,
                        self.buffers.clone(),
                        self.upstream.config.timeouts.body_idle,
                    );
                    connection.visitor = self.upstream.config.proxy_protocol.map(|_| client.ip());
                    return Ok(connection);
                }
                Err(error) => {
                    self.counters.failed.inc();
                    self.servers.failed(index);
                    debug!(%server, %error, "cannot connect");
                    last = error;
                }
            }
        }
        Err(UpstreamError::Unreachable(last))
    }

    async fn connect_to(
        &self,
        server: &Server,
        name: &str,
        client: SocketAddr,
    ) -> Result<Stream, ConnectError> {
        let mut stream = within(
            self.upstream.config.timeouts.connect,
            TcpStream::connect((server.host.as_str(), server.port)),
        )
        .await?
        .map_err(ConnectError::Tcp)?;
        // Fails only if the server has closed the connection, which the next step reports.
        let _ = stream.set_nodelay(true);
        if let Some(version) = self.upstream.config.proxy_protocol {
            let header = proxy_header::of(version, client, stream.peer_addr().map_err(ConnectError::Tcp)?);
            within(self.upstream.config.timeouts.connect, stream.write_all(&header))
                .await?
                .map_err(ConnectError::Tcp)?;
        }
        if !server.tls {
            return Ok(Stream::Left(stream));
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::Name(name.to_owned()))?;
        let stream = CorkedSocket::new(stream, self.buffers.clone());
        let stream = within(self.upstream.config.timeouts.tls, self.tls.connect(name, stream))
            .await?
            .map_err(ConnectError::Tls)?;
        Ok(Stream::Right(Box::new(stream)))
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, ConnectError> {
    timeout(limit, future).await.map_err(|_| ConnectError::TimedOut)
}
