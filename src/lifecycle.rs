//! Starting, running until told to stop, draining. Signals and systemd are dealt with here and nowhere else.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::balance::Table;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::telemetry::Writing;
use crate::worker::{Sockets, Start};
use crate::{admin, listener, worker};

/// A gateway that is accepting connections.
pub struct Server {
    gateway: Arc<Gateway>,
    workers: Vec<JoinHandle<bool>>,
    control: Runtime,
    drain: CancellationToken,
    grace: Duration,
    https: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS or HTTP clients cannot be set up.
    #[error("cannot start: {0}")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Threads or runtimes cannot be had.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] std::io::Error),
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        " (ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit gives)"
    } else if error.kind() == std::io::ErrorKind::AddrInUse {
        " (is another gateway or web server running?)"
    } else {
        ""
    }
}

impl Server {
    /// Opens the listeners and starts the workers.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        // Where this fails, the limit stays as it is.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let mut https = open_all(&config.listen.https, config)?;
        let mut http = open_all(&config.listen.http, config)?;
        let admin = match config.listen.admin {
            Some(address) => {
                Some(admin::open(address).map_err(|source| StartError::Listen { address, source })?)
            }
            None => None,
        };
        let https_addresses = addresses(&https);
        let http_addresses = addresses(&http);
        let port = https_addresses.first().map_or(443, SocketAddr::port);
        let gateway = Gateway::build(config, port).map_err(|error| StartError::Build(error.into()))?;
        let gateway = Arc::new(gateway);
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(StartError::Worker)?;
        let drain = CancellationToken::new();
        if let Some(admin) = admin {
            let address = admin.local_addr().map_err(StartError::Worker)?;
            let _context = control.enter();
            let listener = tokio::net::TcpListener::from_std(admin).map_err(StartError::Worker)?;
            control.spawn(admin::serve(listener, gateway.clone(), drain.clone()));
            info!(%address, "admin listener");
        }
        for staff in
            gateway.sites.iter().flat_map(|site| &site.sign_on).flat_map(|sign_on| sign_on.staff.values())
        {
            control.spawn(staff.clone().keep_fresh());
        }
        let mut workers = Vec::new();
        for (index, seat) in Table::set(config.workers).into_iter().enumerate() {
            let take = |all: &mut Vec<Vec<TcpListener>>| all.iter_mut().filter_map(Vec::pop).collect();
            let sockets = Sockets { https: take(&mut https), http: take(&mut http) };
            let start = Start {
                gateway: gateway.clone(),
                sockets,
                control: control.handle().clone(),
                drain: drain.clone(),
                seat,
            };
            let started = worker::spawn(index, start);
            workers.push(started.map_err(StartError::Worker)?);
        }
        for address in &https_addresses {
            info!(%address, workers = config.workers, "listening for https");
        }
        for address in &http_addresses {
            info!(%address, "listening for http, redirecting to https");
        }
        Ok(Self {
            workers,
            gateway,
            control,
            drain,
            grace: config.timeouts.drain,
            https: https_addresses,
            http: http_addresses,
        })
    }

    /// The addresses that https is served on.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
    }

    /// The addresses that redirect to https.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Runs until SIGTERM or SIGINT, then drains; a second signal ends the drain. `true`: nothing was cut off.
    pub fn run_until_signal(self, log: &Writing) -> bool {
        self.control.spawn(log.tell_of_lost_lines());
        // Listened for once and for all: a signal that comes between two others is not lost.
        let mut signals = {
            let _context = self.control.enter();
            Signals::listen()
        };
        // Without its notification socket systemd is not there to be told.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let name = self.control.block_on(signals.next_to_stop());
        info!(signal = name, "stopping: no new connections, finishing requests under way");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.control.spawn(async move {
            let name = signals.next_to_stop().await;
            warn!(signal = name, "second signal: ending at once");
            // Time for that line.
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::process::exit(UNCLEAN);
        });
        let grace = self.grace;
        let clean = self.stop();
        if !clean {
            warn!(seconds = grace.as_secs(), "some requests were still under way and were cut off");
        }
        clean
    }

    /// Stops accepting, lets requests finish for as long as the configuration says, and ends. `true`: nothing was cut off.
    pub fn stop(self) -> bool {
        self.drain.cancel();
        let mut clean = true;
        for worker in self.workers {
            clean &= worker.join().unwrap_or(false);
        }
        self.control.shutdown_background();
        self.gateway.audit.finish();
        clean
    }
}

/// The exit code after a drain that cut something off.
pub const UNCLEAN: i32 = 3;

/// The signals that mean something here; none of a kind that the system does not let us have.
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> Self {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
                .map(|kind| signal(kind).ok());
        Self { terminate, interrupt, hangup }
    }

    /// The name of the next signal that asks for the end.
    async fn next_to_stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                () = received(&mut self.terminate) => return "SIGTERM",
                () = received(&mut self.interrupt) => return "SIGINT",
                () = received(&mut self.hangup) => {
                    warn!("SIGHUP: this version cannot reload; restart to take a new configuration up");
                }
            }
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    let delivered = match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    };
    if !delivered {
        std::future::pending().await
    }
}

fn open_all(addresses: &[SocketAddr], config: &Config) -> Result<Vec<Vec<TcpListener>>, StartError> {
    let open = |address: &SocketAddr| {
        listener::open(*address, config.workers)
            .map_err(|source| StartError::Listen { address: *address, source })
    };
    addresses.iter().map(open).collect()
}

fn addresses(sockets: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|group| group.first()?.local_addr().ok()).collect()
}
