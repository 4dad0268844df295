//! The life of the process: start, signals, drain. Signals are handled here and nowhere else.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::error_chain::Chain;
use crate::config::{Config, DEFAULT_CONTROL};
use crate::edge::balance::WorkerRegistry;
use crate::edge::inherited_sockets;
use crate::edge::worker::{Sockets, Start};
use crate::edge::{listen, worker};
use crate::observe::log::LogGuard;
use crate::observe::trace_export::TraceExporter;
use crate::server::admin;
use crate::server::build;
use crate::server::build_error::BuildError;
use crate::server::control_socket;
use crate::server::control_socket::Control;
use crate::server::process_state::ProcessState;
use crate::server::reload;
use crate::server::reload::ServerHandle;
use crate::server::systemd;
use crate::server::systemd::Heartbeat;

/// A gateway that is accepting connections.
pub struct Server {
    reloader: Arc<ServerHandle>,
    control_socket: Option<Control>,
    workers: Vec<JoinHandle<bool>>,
    control: Runtime,
    drain: CancellationToken,
    signals: UnboundedReceiver<&'static str>,
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
    /// The sockets that systemd passed cannot be used.
    #[error("the sockets passed to the gateway cannot be used")]
    Inherited(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The control socket cannot be opened.
    #[error("cannot listen on the control socket {}", path.display())]
    Control {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS or HTTP clients cannot be set up.
    #[error("TLS or an HTTP client cannot be set up")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread or runtime cannot be started.
    #[error("a thread cannot be started")]
    Worker(#[source] std::io::Error),
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        " (ports below 1024 need CAP_NET_BIND_SERVICE, or a line for them in imis-gateway.socket)"
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
        let _ = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
        let inherited =
            inherited_sockets::take(&config.listen).map_err(|error| StartError::Inherited(error.into()))?;
        let mut https = open_all(&config.listen.https, inherited.https, config)?;
        let mut http = open_all(&config.listen.http, inherited.http, config)?;
        let admin = match (inherited.admin, config.listen.admin) {
            (Some(socket), _) => Some(socket),
            (None, Some(address)) => {
                Some(admin::open(address).map_err(|source| StartError::Listen { address, source })?)
            }
            (None, None) => None,
        };
        let https_addresses = addresses(&https);
        let http_addresses = addresses(&http);
        let port = https_addresses.first().map_or(443, SocketAddr::port);
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(StartError::Worker)?;
        let exporter = config.otlp.as_ref().map(|otlp| TraceExporter::build(otlp, control.handle()));
        let exporter = exporter.transpose().map_err(|error| StartError::Build(error.into()))?;
        let build_error = |error: BuildError| StartError::Build(error.into());
        let process = ProcessState::new(config, port, exporter.map(Arc::new)).map_err(build_error)?;
        let gateway = Arc::new(build::gateway(config, &process, None).map_err(build_error)?);
        let drain = CancellationToken::new();
        let (senders, mut updates): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| unbounded_channel()).unzip();
        let reloader =
            ServerHandle::new(config, process.clone(), gateway.clone(), senders, control.handle().clone());
        let control_socket = open_control(config, &reloader, &control)?;
        if let Some(admin) = admin {
            let address = admin.local_addr().map_err(StartError::Worker)?;
            let _context = control.enter();
            let listener = tokio::net::TcpListener::from_std(admin).map_err(StartError::Worker)?;
            let hosts = config.listen.admin_hosts.as_slice().into();
            control.spawn(admin::serve(listener, reloader.clone(), hosts));
            info!(%address, "admin listener");
        }
        reload::start_background_tasks(&gateway, control.handle());
        let (mut workers, mut heartbeats) = (Vec::new(), Vec::new());
        for (index, handle) in WorkerRegistry::set(config.workers).into_iter().enumerate() {
            let take = |all: &mut Vec<Vec<TcpListener>>| all.iter_mut().filter_map(Vec::pop).collect();
            let sockets = Sockets { https: take(&mut https), http: take(&mut http) };
            let start = Start {
                gateway: gateway.clone(),
                admission: process.admission.clone(),
                sockets,
                control: control.handle().clone(),
                drain: drain.clone(),
                handle,
                updates: updates.remove(0),
                heartbeat: Heartbeat::default(),
            };
            heartbeats.push(start.heartbeat.clone());
            let started = worker::spawn(index, start);
            workers.push(started.map_err(StartError::Worker)?);
        }
        let heartbeat = Heartbeat::default();
        control.spawn(systemd::beat(heartbeat.clone()));
        heartbeats.push(heartbeat);
        systemd::feed_watchdog(heartbeats).map_err(StartError::Worker)?;
        control.spawn(reloader.clone().watch());
        control.spawn(reloader.clone().warn_of_expiry());
        // A CA would not find a process that drains.
        control.spawn(drain.clone().run_until_cancelled_owned(reloader.clone().keep_certificates()));
        // Before the service reports that it is ready, so that no signal is lost.
        let signals = {
            let _context = control.enter();
            listen_for_signals()
        };
        for address in &https_addresses {
            info!(%address, workers = config.workers, "listening for https");
        }
        for address in &http_addresses {
            info!(%address, "listening for http, redirecting to https");
        }
        Ok(Self {
            workers,
            reloader,
            control_socket,
            control,
            drain,
            signals,
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

    /// Runs until SIGTERM or SIGINT, then drains. A second signal ends the drain. `true`: every request finished.
    pub fn run_until_signal(mut self, log: &LogGuard) -> bool {
        self.control.spawn(log.watch_dropped_lines());
        let mut signals = std::mem::replace(&mut self.signals, unbounded_channel().1);
        systemd::ready(&self.reloader.summary());
        let name = self.control.block_on(next_to_stop(&mut signals, Some(&self.reloader)));
        info!(signal = name, "stopping: no new connections, finishing requests under way");
        systemd::stopping();
        self.control.spawn(async move {
            let name = next_to_stop(&mut signals, None).await;
            warn!(signal = name, "second signal: exiting at once");
            // Time to write that line.
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::process::exit(UNCLEAN);
        });
        let grace = self.reloader.gateway().timeouts.drain;
        let clean = self.stop();
        if !clean {
            warn!(timeout_seconds = grace.as_secs(), "some requests were still under way and were cut off");
        }
        clean
    }

    /// Stops accepting connections and lets requests finish, for at most `timeouts.drain`. `true`: every request
    /// finished.
    pub fn stop(self) -> bool {
        self.reloader.drain();
        self.drain.cancel();
        let mut clean = true;
        for worker in self.workers {
            clean &= worker.join().unwrap_or(false);
        }
        drop(self.control_socket);
        if let Some(exporter) = &self.reloader.gateway().trace_exporter {
            exporter.shut_down();
        }
        self.control.shutdown_background();
        self.reloader.gateway().services.audit.flush();
        clean
    }
}

/// Ignores SIGHUP, SIGUSR1 and SIGUSR2 until the gateway handles them; by default they end the process.
pub fn ignore_signals() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    if let Ok(runtime) = runtime {
        let _context = runtime.enter();
        // The handler stays installed.
        for kind in [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()] {
            let _ = signal(kind);
        }
    }
}

/// The exit code after a drain that cut off requests.
pub const UNCLEAN: i32 = 3;

/// Starts to handle signals, within a runtime. The channel gets their names.
fn listen_for_signals() -> UnboundedReceiver<&'static str> {
    let (sender, signals) = unbounded_channel();
    for (kind, name) in [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::hangup(), "SIGHUP"),
        // Other servers reopen logs or stop on these.
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ] {
        // Where the system does not allow a handler, the signal keeps its default action.
        let Ok(mut signal) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(name).is_ok() {} });
    }
    signals
}

/// Waits for a signal to stop and returns its name. Meanwhile SIGHUP reloads.
async fn next_to_stop(
    signals: &mut UnboundedReceiver<&'static str>,
    reloader: Option<&Arc<ServerHandle>>,
) -> &'static str {
    loop {
        match (signals.recv().await, reloader) {
            // A signal to stop does not wait for the reload.
            (Some("SIGHUP"), Some(reloader)) => reloader.reload_by_signal(),
            (Some("SIGHUP"), None) => warn!("SIGHUP ignored: the gateway is shutting down"),
            (Some("SIGUSR1" | "SIGUSR2"), _) => {
                warn!("SIGUSR1 and SIGUSR2 are ignored; SIGHUP reloads, SIGTERM stops");
            }
            (Some(name), _) => return name,
            (None, _) => std::future::pending().await,
        }
    }
}

/// Opens the control socket. The gateway starts without the default one if it cannot be opened.
fn open_control(
    config: &Config,
    reloader: &Arc<ServerHandle>,
    control: &Runtime,
) -> Result<Option<Control>, StartError> {
    let Some(path) = &config.listen.control else { return Ok(None) };
    let _context = control.enter();
    match control_socket::open(path) {
        Ok((listener, socket)) => {
            control.spawn(control_socket::serve(listener, reloader.clone()));
            info!(socket = %path.display(), "control socket");
            Ok(Some(socket))
        }
        Err(error) if path == Path::new(DEFAULT_CONTROL) => {
            warn!(socket = %path.display(), error = %Chain(&error), "no control socket: reload with SIGHUP");
            Ok(None)
        }
        Err(error) => Err(StartError::Control { path: path.clone(), source: error.into() }),
    }
}

/// Opens one socket per worker and address, or takes the sockets that systemd passed.
fn open_all(
    addresses: &[SocketAddr],
    passed: Vec<TcpListener>,
    config: &Config,
) -> Result<Vec<Vec<TcpListener>>, StartError> {
    if !passed.is_empty() {
        let shared = passed.iter().map(|socket| inherited_sockets::shared(socket, config.workers));
        return shared.collect::<std::io::Result<_>>().map_err(StartError::Worker);
    }
    let open = |address: &SocketAddr| {
        listen::open(*address, config.workers)
            .map_err(|source| StartError::Listen { address: *address, source })
    };
    addresses.iter().map(open).collect()
}

fn addresses(sockets: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|group| group.first()?.local_addr().ok()).collect()
}
