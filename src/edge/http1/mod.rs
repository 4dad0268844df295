//! HTTP/1. Requests of a connection are served one after the other.

mod connection;
mod stream;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::edge::client_socket::Socket;
use crate::request::connection::Connection;
use crate::request::serve::serve as serve_request;
use connection::{After, Http1Connection, Next};
use stream::Http1Stream;

/// Serves a connection until the client leaves or the worker drains.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Socket + Unpin>(io: S, mut connection: Connection) {
    let mut http1 = Http1Connection::new(io, &connection);
    loop {
        let next = http1.next_head(&connection).await;
        if let Some(renewed) = connection.renewed() {
            http1.limits = renewed.worker.gateway.limits;
            if !renewed.has_upstream_of(&connection) {
                // It belongs to a server that the site no longer uses.
                http1.own_upstream = None;
            }
            connection = renewed;
        }
        let after = match next {
            Next::Request(head) => {
                let mut stream = Http1Stream::new(&mut http1, head, &connection);
                serve_request(&mut stream, &connection).await;
                stream.after()
            }
            Next::Idle => After::Close,
            Next::Gone => After::Gone,
        };
        match after {
            After::Another => {
                http1.deadline.set(connection.worker.gateway.timeouts.idle);
                http1.release_buffers(&connection.worker.buffers);
            }
            After::Close => {
                http1.end().await;
                return;
            }
            After::Linger => return http1.linger().await,
            After::Gone => return,
        }
    }
}
