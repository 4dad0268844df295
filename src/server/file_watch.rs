//! Looking at what a configuration names while it runs: files that have changed, certificates that are about to expire.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::base::clock;
use crate::config::Watched;
use crate::server::reload::{By, Reloader};

/// How long files have to stay as they are before they are taken up: whoever changes several does so one after the other.
const SETTLED: Duration = Duration::from_secs(1);
const A_DAY: Duration = Duration::from_secs(24 * 3600);

impl Reloader {
    /// Says once a day which certificates are about to expire, for as long as the program runs.
    pub(crate) async fn tell_of_expiry(self: Arc<Self>) {
        loop {
            tokio::time::sleep(A_DAY).await;
            let gateway = self.gateway();
            let now = clock::unix_now_signed();
            for site in &gateway.sites {
                if let Some(word) = site.certificate_warning(now) {
                    warn!(site = site.config.hosts[0], "{word}");
                }
            }
        }
    }

    /// Looks at the files that the configuration names, and takes them up when they have changed.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut in_vain = None;
        let mut taken_up = self.taken_up.subscribe();
        loop {
            let (watched, every) = {
                let running = self.running.lock().await;
                (running.watched.clone(), running.watch_interval)
            };
            let pause = async {
                match every {
                    Some(every) => tokio::time::sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                // What it names, and how often it is looked at, may be others.
                _ = taken_up.changed() => continue,
            }
            let now = look(&watched).await;
            if now == watched {
                in_vain = None;
                self.files_are_mended();
                continue;
            }
            if in_vain.as_ref() == Some(&now) {
                continue;
            }
            let every = every.unwrap_or(SETTLED);
            tokio::time::sleep(SETTLED.min(every)).await;
            if look(&watched).await != now || self.running.lock().await.watched != watched {
                continue;
            }
            for file in watched.differing(&now) {
                info!(file = %file.display(), "a file that the configuration names has changed");
            }
            in_vain = (!self.reload(By::Files).await.good).then_some(now);
        }
    }
}

async fn look(watched: &Watched) -> Watched {
    let before = watched.clone();
    tokio::task::spawn_blocking(move || before.now()).await.unwrap_or_else(|_| watched.clone())
}
