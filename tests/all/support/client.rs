//! A plain HTTP client: no redirects followed, no cookies kept, whatever the test says and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use imis_gateway_simulators::certificates::Authority;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::SITE;
use super::flush_on_write::Flushing;

/// A connection to the gateway.
pub(crate) type Browser = Flushing<TlsStream<TcpStream>>;

/// Connects anew for every request.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

/// A response, read to the end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The value of the hidden field `name`.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let text = self.text();
        let rest = text.split(&format!("name=\"{name}\" value=\"")).nth(1)?;
        let value = rest.split('"').next()?;
        Some(value.replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&"))
    }

    /// The token on a hand-off page; none on any other.
    pub(crate) fn token(&self) -> Option<String> {
        self.field("jwt")
    }
}

impl Client {
    pub(crate) fn new(authority: &Authority, address: SocketAddr) -> Self {
        Self::trusting(&authority.certificate_pem(), address)
    }

    /// With this root, in PEM.
    pub(crate) fn trusting(root: &str, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config), address }
    }

    /// The same client, with its sessions, at another address.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self { config: self.config.clone(), address }
    }

    /// A TLS connection with one ALPN protocol.
    pub(crate) async fn connect(&self, alpn: &str) -> Browser {
        self.connect_as(alpn, SITE).await.unwrap()
    }

    pub(crate) async fn connect_as(&self, alpn: &str, name: &str) -> std::io::Result<Browser> {
        self.handshake(TcpStream::connect(self.address).await?, alpn, name).await
    }

    /// Over a TCP connection of the test's own.
    pub(crate) async fn over(&self, stream: TcpStream, alpn: &str) -> std::io::Result<Browser> {
        self.handshake(stream, alpn, SITE).await
    }

    /// Over a connection that has room for next to nothing that is not read, with segments as on a real network.
    pub(crate) async fn narrow(&self, alpn: &str, room: u32) -> Browser {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(room).unwrap();
        socket2::SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        self.over(socket.connect(self.address).await.unwrap(), alpn).await.unwrap()
    }

    async fn handshake(&self, stream: TcpStream, alpn: &str, name: &str) -> std::io::Result<Browser> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
            .await
            .map(Flushing::new)
    }

    pub(crate) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, target, headers, "").await
    }

    /// Over HTTP/1.1.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", SITE);
        }
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(body.into())).unwrap();
        let io = TokioIo::new(self.connect("http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        in_time(async { read(sender.send_request(request).await.unwrap()).await }).await
    }

    /// Over HTTP/2.
    pub(crate) async fn send_h2(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let request = Request::builder().method(method).uri(format!("https://{SITE}{target}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(body.into())).unwrap();
        let io = TokioIo::new(self.connect("h2").await);
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.max_header_list_size(1 << 20).handshake(io).await.unwrap();
        tokio::spawn(connection);
        in_time(async { read(sender.send_request(request).await.unwrap()).await }).await
    }
}

/// Nothing that is asked for in this way takes longer.
async fn in_time<T>(asked: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), asked)
        .await
        .unwrap_or_else(|_| panic!("no answer in time"))
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    Reply { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}
