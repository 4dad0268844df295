//! Watches the files that the configuration names for changes, and warns of certificates that expire soon.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::base::clock;
use crate::config::Watched;
use crate::server::reload::{ServerHandle, Trigger};

/// How long files must stay unchanged before a reload: several files are changed one after the other.
const SETTLE_TIME: Duration = Duration::from_secs(1);
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

impl ServerHandle {
    /// Warns once a day of certificates that expire soon.
    pub(crate) async fn warn_of_expiry(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WARNING_INTERVAL).await;
            let gateway = self.gateway();
            let now = clock::unix_now_signed();
            for site in &gateway.sites {
                if let Some(word) = site.certificate_warning(now) {
                    warn!(site = site.config.hosts[0], "{word}");
                }
            }
        }
    }

    /// Reloads when the files that the configuration names have changed.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut failed_with = None;
        let mut reloads = self.reloads.subscribe();
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
                // The files and the interval may have changed.
                _ = reloads.changed() => continue,
            }
            let now = read_times(&watched).await;
            if now == watched {
                failed_with = None;
                self.clear_failed_files();
                continue;
            }
            if failed_with.as_ref() == Some(&now) {
                continue;
            }
            let every = every.unwrap_or(SETTLE_TIME);
            tokio::time::sleep(SETTLE_TIME.min(every)).await;
            if read_times(&watched).await != now || self.running.lock().await.watched != watched {
                continue;
            }
            for file in watched.differing(&now) {
                info!(file = %file.display(), "a file that the configuration names has changed");
            }
            failed_with = (!self.reload(Trigger::Files).await.good).then_some(now);
        }
    }
}

async fn read_times(watched: &Watched) -> Watched {
    let before = watched.clone();
    tokio::task::spawn_blocking(move || before.now()).await.unwrap_or_else(|_| watched.clone())
}
