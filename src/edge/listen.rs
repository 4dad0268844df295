//! Opens the listening sockets.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// The number of connections that can wait to be accepted, per socket.
pub(crate) const BACKLOG: i32 = 4096;
/// TCP keep-alive: idle time before the first probe, time between probes, and unanswered probes until the connection is
/// closed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Opens one listening socket per worker on `address`. Port 0 is chosen once and shared by all.
pub(crate) fn open(address: SocketAddr, workers: usize) -> std::io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // With SO_REUSEPORT two gateways could share a port by mistake. A bind without it checks that it is free.
        drop(bound(address, false)?);
    }
    let first = open_one(address)?;
    let chosen = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open_one(chosen)?);
    }
    Ok(sockets)
}

fn open_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = bound(address, true)?;
    socket.listen(BACKLOG)?;
    set_options(socket.into())
}

/// Sets the options of accepted connections. They inherit them on Linux, which saves system calls.
pub(crate) fn set_options(listener: TcpListener) -> std::io::Result<TcpListener> {
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    Ok(listener)
}

fn bound(address: SocketAddr, reuse_port: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` serves IPv4, too.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
