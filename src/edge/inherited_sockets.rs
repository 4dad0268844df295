//! Listening sockets that systemd passes to the process (sd_listen_fds(3)). They stay open between two processes:
//! clients that connect during a restart wait in the backlog.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use tracing::warn;

use crate::config::Listen;
use crate::edge::listen::set_options;

/// The sockets by purpose.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http: Vec<TcpListener>,
    pub(crate) admin: Option<TcpListener>,
}

/// Why the sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InheritedError {
    #[error("a socket was passed that is no TCP listener")]
    Kind(#[source] std::io::Error),
    #[error(
        "a socket was passed at {0}, and no address under `listen` has this port: imis-gateway.socket and `listen` have to name the same ports"
    )]
    Nowhere(SocketAddr),
    #[error("a socket was passed at {0} for the admin listener, which has no authentication: loopback only")]
    Exposed(SocketAddr),
}

/// Takes the sockets. The port decides which address of `listen` a socket belongs to.
pub(crate) fn take(listen: &Listen) -> Result<Inherited, InheritedError> {
    let mut passed = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for index in 0..passed.len() {
        let Some(socket) = passed.take_tcp_listener(index).map_err(InheritedError::Kind)? else { continue };
        let address = socket.local_addr().map_err(InheritedError::Kind)?;
        let has_port = |addresses: &[SocketAddr]| addresses.iter().any(|own| own.port() == address.port());
        let all = listen.https.iter().chain(&listen.http);
        if !all.clone().any(|own| *own == address) && all.into_iter().any(|own| own.port() == address.port())
        {
            warn!(%address, "the socket that was passed is at another address than `listen` names for this port; it is used as it is");
        }
        socket.set_nonblocking(true).map_err(InheritedError::Kind)?;
        if has_port(&listen.https) {
            inherited.https.push(set_options(socket).map_err(InheritedError::Kind)?);
        } else if has_port(&listen.http) {
            inherited.http.push(set_options(socket).map_err(InheritedError::Kind)?);
        } else if listen.admin.is_some_and(|own| own.port() == address.port()) {
            if !address.ip().to_canonical().is_loopback() {
                return Err(InheritedError::Exposed(address));
            }
            inherited.admin = Some(socket);
        } else {
            return Err(InheritedError::Nowhere(address));
        }
    }
    Ok(inherited)
}

/// Duplicates a socket for each worker.
pub(crate) fn shared(socket: &TcpListener, workers: usize) -> std::io::Result<Vec<TcpListener>> {
    (0..workers).map(|_| socket.try_clone()).collect()
}
