//! A real Chromium, headless, driven over WebDriver; names are mapped to the simulators' ports.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::json;
use tempfile::TempDir;

use super::gateway::TIMEOUT;
use super::{SITE, Stage, skip};

/// A browser window that closes with the value.
pub(crate) struct Browser {
    pub(crate) page: Client,
    driver: Child,
    profile: TempDir,
}

/// What a window may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scripts {
    On,
    Off,
}

impl Browser {
    /// Opens a window; `None` (said loudly) when there is no Chromium on the machine.
    pub(crate) async fn open(stage: &Stage, scripts: Scripts) -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let Some((driver, port)) = start_driver(profile.path()) else {
            skip("chromedriver (packages chromium and chromium-driver)");
            return None;
        };
        let gateway = stage.gateway.https.port();
        let zendesk = stage.zendesk.address().port();
        let mut rules = vec![format!("MAP {SITE}:443 127.0.0.1:{gateway}")];
        for host in ["contoso.zendesk.com", "contoso-events.zendesk.com", "support.contoso.org"] {
            rules.push(format!("MAP {host}:443 127.0.0.1:{zendesk}"));
        }
        rules.push("MAP directory.localhost 127.0.0.1".to_owned());
        rules.push("MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned());
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--ignore-certificate-errors".to_owned(),
            "--window-size=900,700".to_owned(),
            format!("--host-resolver-rules={}", rules.join(", ")),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let javascript = if scripts == Scripts::On { 1 } else { 2 };
        let options = json!({
            "args": arguments,
            "prefs": {"profile.managed_default_content_settings.javascript": javascript},
        });
        let capabilities = json!({"goog:chromeOptions": options, "acceptInsecureCerts": true});
        let serde_json::Value::Object(capabilities) = capabilities else { unreachable!() };
        let connector = hyper_util::client::legacy::connect::HttpConnector::new();
        let page = ClientBuilder::new(connector)
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self { page, driver, profile })
    }

    pub(crate) async fn go(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    /// Waits for an element and returns its text. While pages follow each other the driver loses elements and breaks
    /// its own commands off: then it is asked again.
    pub(crate) async fn text_of(&self, css: &str) -> String {
        let end = Instant::now() + TIMEOUT;
        loop {
            let text = match self.page.find(Locator::Css(css)).await {
                Ok(element) => element.text().await,
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => return text,
                Err(error) if Instant::now() > end => {
                    panic!("no {css} at {}: {error}\n{}", self.url().await, self.page.source().await.unwrap())
                }
                // As often as the driver's own waiting asks.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) async fn click(&self, css: &str) {
        self.text_of(css).await;
        self.page.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    pub(crate) async fn has(&self, css: &str) -> bool {
        self.page.find(Locator::Css(css)).await.is_ok()
    }

    pub(crate) async fn type_into(&self, css: &str, text: &str) {
        self.text_of(css).await;
        self.page.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    pub(crate) async fn url(&self) -> String {
        self.page.current_url().await.unwrap().to_string()
    }

    /// Signs in on the iMIS page that is open.
    pub(crate) async fn sign_in(&self, username: &str, password: &str) {
        self.type_into("#signInUserName", username).await;
        self.type_into("#signInPassword", password).await;
        let form = self.url().await;
        self.click("#SubmitButton").await;
        // What is looked at next is on the page behind it.
        let end = Instant::now() + TIMEOUT;
        while self.url().await == form && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // The browser outlives its driver. Its processes are those that name our profile folder.
        let profile = self.profile.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes.filter_map(|entry| {
            let command_line = std::fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command_line).contains(&profile).then(|| entry.file_name())
        });
        let ours: Vec<_> = ours.collect();
        if !ours.is_empty() {
            let _ = Command::new("kill").arg("-KILL").args(ours).stderr(Stdio::null()).status();
        }
    }
}

/// A driver and its port; none when there is no driver. It takes one port number on two addresses, which can be taken
/// on one of them: then it ends, and another is tried.
fn start_driver(folder: &Path) -> Option<(Child, u16)> {
    for _ in 0..5 {
        let mut driver = Command::new("chromedriver");
        // What the browser leaves lying about goes with the folder.
        driver.arg("--port=0").env("TMPDIR", folder).stdout(Stdio::piped());
        let mut driver = driver.spawn().ok()?;
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let named = lines.map_while(Result::ok).find_map(|line| {
            let port =
                line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse().ok()?;
            Some(port)
        });
        if let Some(port) = named {
            return Some((driver, port));
        }
        let _ = driver.wait();
    }
    panic!("chromedriver does not start");
}
