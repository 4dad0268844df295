//! An upstream of raw bytes: it records each request as it arrived and answers what the test wrote.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use imis_gateway_simulators::certificates::Authority;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::flush_on_write::Flushing;
use super::{Client, Gateway, SITE, SSO, edit, lay_out_certificates, run};

pub(crate) type Connection = Flushing<TlsStream<TcpStream>>;

/// A TLS server whose connections are each given to a function.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub(crate) async fn start<F, R>(authority: &Authority, serve: F) -> Self
    where
        F: Fn(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::start_at(authority, ([127, 0, 0, 1], 0).into(), serve).await
    }

    /// On this address, which has to be free.
    pub(crate) async fn start_at<F, R>(authority: &Authority, address: SocketAddr, serve: F) -> Self
    where
        F: Fn(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(authority.issue(&[SITE, "127.0.0.1"]).server_config());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(serve(Flushing::new(stream)));
                }
            }
        });
        Self { address, task }
    }
}

/// A gateway in front of an `Origin`, without any app.
pub(crate) struct Proxy {
    pub(crate) gateway: Gateway,
    pub(crate) client: Client,
    pub(crate) authority: Authority,
    _origin: Option<Origin>,
    pub(crate) folder: TempDir,
}

impl Proxy {
    pub(crate) async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let authority = Authority::new("test CA");
        let origin = Origin::start(&authority, serve).await;
        Self::to(authority, &format!("https://{}", origin.address), Some(origin), "")
    }

    /// In front of any server; `more` is added to the configuration.
    pub(crate) fn to(authority: Authority, server: &str, origin: Option<Origin>, more: &str) -> Self {
        Self::with_timeouts(authority, server, origin, more, "connect: 1s, response_head: 2s, idle: 60s")
    }

    /// The same, with the upstream's time-outs.
    pub(crate) fn with_timeouts(
        authority: Authority,
        server: &str,
        origin: Option<Origin>,
        more: &str,
        timeouts: &str,
    ) -> Self {
        Self::configured(authority, server, origin, (more, timeouts, ""))
    }

    /// With an app on the SSO path; of its iMIS nothing is asked.
    pub(crate) async fn with_app<F, R>(serve: F) -> Self
    where
        F: Fn(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let authority = Authority::new("test CA");
        let origin = Origin::start(&authority, serve).await;
        let server = format!("https://{}", origin.address);
        let app = format!(
            r#"    imis:
      recognise: {{method: client_context, page: /imis-gateway-probe}}
      service_account: {{username: svc-gateway, password: {{file: any-secret}}}}
    apps:
      - name: Contoso Helpdesk
        path: {SSO}
        zendesk: {{subdomain: contoso, shared_secret: {{file: any-secret}}}}
"#
        );
        let timeouts = "connect: 1s, response_head: 2s, idle: 60s";
        Self::configured(authority, &server, Some(origin), ("", timeouts, &app))
    }

    fn configured(
        authority: Authority,
        server: &str,
        origin: Option<Origin>,
        (more, timeouts, app): (&str, &str, &str),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        lay_out_certificates(&authority, folder.path());
        std::fs::write(folder.path().join("any-secret"), "of-no-account-and-long-enough-for-one").unwrap();
        let log = if more.starts_with("log:") { "" } else { "log: {level: debug}" };
        let yaml = format!(
            r#"version: 1
listen: {{https: ["127.0.0.1:0"], http: ["127.0.0.1:0"], admin: 127.0.0.1:0, control: control.sock}}
workers: 1
{log}
{more}
sites:
  - hosts: [{SITE}, www.example.org]
    certificate: {{chain: members.pem, key: members.key}}
    upstream:
      servers: ["{server}"]
      ca_file: ca.pem
      timeouts: {{{timeouts}}}
{app}"#
        );
        let gateway = Gateway::start(folder.path(), &yaml);
        let client = Client::new(&authority, gateway.https);
        Self { gateway, client, authority, _origin: origin, folder }
    }

    /// What the program says to this, and how it ends.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (i32, String) {
        run(self.folder.path(), arguments, "").await
    }

    /// Changes its configuration and has it taken up.
    pub(crate) async fn reload(&self, from: &str, to: &str) {
        edit(self.folder.path(), from, to);
        let (code, said) = self.run(&["reload"]).await;
        assert_eq!(code, 0, "{said}");
    }

    /// In front of an upstream that answers every request with `answer`; the heads that arrived are kept.
    pub(crate) async fn answering(answer: &'static [u8]) -> (Self, Arc<Mutex<Vec<String>>>) {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let shared = heads.clone();
        let proxy = Self::start(move |mut connection| {
            let heads = shared.clone();
            async move {
                while let Some(request) = read_request(&mut connection).await {
                    heads.lock().unwrap().push(request);
                    if connection.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        (proxy.await, heads)
    }
}

/// A request's head, and its body when that is framed by content-length or chunks; none at the end.
pub(crate) async fn read_request(connection: &mut Connection) -> Option<String> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(connection, &mut bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    let length =
        head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if let Some(length) = length {
        while bytes.len() < head_end + length {
            read_more(connection, &mut bytes).await?;
        }
    } else if head.contains("transfer-encoding: chunked") {
        while !bytes[head_end..].ends_with(b"0\r\n\r\n") {
            read_more(connection, &mut bytes).await?;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

async fn read_more(connection: &mut Connection, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0_u8; 16 * 1024];
    let count = connection.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&buffer[..count]);
    Some(())
}
