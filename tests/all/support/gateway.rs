//! The real program as a child process, its log read line by line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long to wait for something that has to happen, also on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A gateway that runs until the value is dropped.
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// The log is to be read no more.
    deaf: Arc<AtomicBool>,
    pub(crate) https: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// What `/metrics` of the admin listener says.
    pub(crate) async fn metrics(&self) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("application/openmetrics-text") && text.ends_with("# EOF\n"), "{text}");
        text
    }

    /// Waits until `/metrics` has this line.
    pub(crate) async fn wait_for_metric(&self, line: &str) {
        let end = Instant::now() + TIMEOUT;
        loop {
            let metrics = self.metrics().await;
            if metrics.lines().any(|own| own == line) {
                return;
            }
            assert!(Instant::now() < end, "no `{line}` in {metrics}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it with `yaml` as the configuration in `folder`, and waits until it listens.
    pub(crate) fn start(folder: &Path, yaml: &str) -> Self {
        let file = folder.join("config.yaml");
        // A second one beside a first has no such socket.
        let is_second = folder.join("control.sock").exists();
        let control = if is_second { "control: null" } else { "control: control.sock" };
        std::fs::write(&file, yaml.replace("control: control.sock", control)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_imis-gateway"));
        command.args(["run", "--config"]).arg(&file);
        Self::spawn(command)
    }

    /// Starts it with a socket that is listened on already, as systemd does (sd_listen_fds(3)), and the configuration
    /// in `folder`.
    pub(crate) fn start_on(socket: &std::net::TcpListener, folder: &Path) -> Self {
        let mut command = Command::new("sh");
        let pass = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" run --config \"$1\"";
        command.args(["-c", pass, env!("CARGO_BIN_EXE_imis-gateway")]).arg(folder.join("config.yaml"));
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap())));
        Self::spawn(command)
    }

    /// Starts it as a service of `Type=notify` whose `WatchdogSec=` is four seconds, with the configuration in
    /// `folder`.
    pub(crate) fn start_notifying(socket: &Path, folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imis-gateway"));
        command.args(["run", "--config"]).arg(folder.join("config.yaml"));
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "4000000");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let log = Arc::new(Mutex::new(Vec::new()));
        let deaf = Arc::new(AtomicBool::new(false));
        let (shared, stderr, stop) = (log.clone(), child.stderr.take().unwrap(), deaf.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody listens any more once the gateway is up.
                let _ = sender.send(line.clone());
                shared.lock().unwrap().push(line);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let mut wait = |message: &str| {
            address_in(&lines, message).unwrap_or_else(|| {
                // Nobody would end it.
                let _ = child.kill();
                panic!("no `{message}`: {:?}", log.lock())
            })
        };
        let admin = wait("admin listener");
        let https = wait("listening for https");
        let http = wait("listening for http, redirecting to https");
        Self { child, log, deaf, https, http, admin }
    }

    /// The log so far, as text.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// While this is held nobody reads the log's pipe.
    pub(crate) fn leave_log_unread(&self) -> impl Drop + '_ {
        self.log.lock().unwrap()
    }

    /// Closes the log's pipe at its next line.
    pub(crate) fn close_log(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Waits until the log holds a line for which `wanted` is true.
    pub(crate) async fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.logged_times(1, wanted).await
    }

    /// Waits until the log holds so many such lines, and returns the last of them.
    pub(crate) async fn logged_times(&self, times: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + TIMEOUT;
        loop {
            let lines = self.log.lock().unwrap().clone();
            let parsed = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(found) = parsed.filter(&wanted).nth(times - 1) {
                return found;
            }
            assert!(Instant::now() < end, "not in the log: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that has been in use at any time, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(lines: &Receiver<String>, message: &str) -> Option<SocketAddr> {
    let end = Instant::now() + TIMEOUT;
    loop {
        let line = lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if value["message"] == message {
            return value["address"].as_str()?.parse().ok();
        }
    }
}
