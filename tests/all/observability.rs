//! Numbers, and what is made of them: by Prometheus itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use imis_gateway_simulators::imis::Generation;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Connection, Proxy, read_request};
use crate::support::{SITE, Setup, Stage, skip};

fn number(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn every_request_is_counted_once_with_how_it_ended() {
    let proxy = Proxy::start(|mut connection: Connection| async move {
        while let Some(request) = read_request(&mut connection).await {
            if request.starts_with("GET /break") {
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
                return;
            }
            let status = if request.starts_with("GET /none") { "404 Not Found" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nwhole");
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(proxy.client.get("/", &[]).await.text(), "whole");
        assert_eq!(proxy.client.send_h2(Method::POST, "/none-posted", &[], "form").await.status, 200);
    }
    assert_eq!(proxy.client.get("/none", &[]).await.status, 404);
    let mut broken = proxy.client.connect("http/1.1").await;
    broken.write_all(format!("GET /break HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    let _ = broken.read_to_end(&mut Vec::new()).await;
    assert_eq!(proxy.client.get("/", &[("host", "elsewhere.example")]).await.status, 421);
    let mut odd = proxy.client.connect("http/1.1").await;
    odd.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
    let _ = odd.read_to_end(&mut Vec::new()).await;

    // A request is counted when it is over, which may be a moment after its answer.
    let mut metrics = proxy.gateway.metrics().await;
    for _ in 0..200 {
        if metrics.contains("code=\"400\"") && metrics.contains("imis_gateway_requests_under_way 0") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        metrics = proxy.gateway.metrics().await;
    }
    let count = |series: &str| number(&metrics, &format!("imis_gateway_{series}"));
    let site = format!("site=\"{SITE}\"");
    assert_eq!(count(&format!("requests_total{{{site},by=\"imis\",protocol=\"h1\",code=\"200\"}}")), 4.0);
    assert_eq!(count(&format!("requests_total{{{site},by=\"imis\",protocol=\"h2\",code=\"200\"}}")), 3.0);
    assert_eq!(count(&format!("requests_total{{{site},by=\"imis\",protocol=\"h1\",code=\"404\"}}")), 1.0);
    assert_eq!(count("requests_total{site=\"\",by=\"gateway\",protocol=\"h1\",code=\"421\"}"), 1.0);
    assert_eq!(count("requests_total{site=\"\",by=\"gateway\",protocol=\"h1\",code=\"400\"}"), 1.0);
    assert_eq!(count(&format!("request_ends_total{{{site},end=\"upstream_broke\"}}")), 1.0);
    assert_eq!(count(&format!("request_ends_total{{{site},end=\"complete\"}}")), 7.0);
    assert_eq!(count(&format!("response_bytes_total{{{site}}}")), 7.0 * 5.0 + 4.0);
    assert_eq!(count(&format!("request_duration_seconds_count{{{site},by=\"imis\"}}")), 8.0);
    assert_eq!(count("failures_total{site=\"\",failure=\"unknown_host\"}"), 1.0);
    assert_eq!(count("failures_total{site=\"\",failure=\"malformed_request\"}"), 1.0);
    let connections =
        |result: &str| count(&format!("upstream_connections_total{{{site},result=\"{result}\"}}"));
    assert!(connections("opened") >= 1.0 && connections("opened") + connections("reused") >= 8.0);
    assert!(count("tls_handshakes_total{result=\"full\"}") >= 1.0);
    let days =
        (count(&format!("certificate_expiry_timestamp_seconds{{{site}}}")) - 1_790_000_000.0) / 86_400.0;
    assert!(days > 0.0, "{days}");
    assert!(count("process_cpu_seconds_total") > 0.0 && count("process_resident_memory_bytes") > 1e6);
    let line = proxy.gateway.logged(|line| line["failure"] == "unknown_host").await;
    assert_eq!(line["status"], 421);
}

#[tokio::test]
async fn traces_pass_and_are_made_where_that_is_wanted() {
    let (proxy, heads) = Proxy::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let seen = || heads.lock().unwrap().last().unwrap().to_lowercase();
    proxy.client.get("/", &[("traceparent", own), ("tracestate", "a=b")]).await;
    assert!(
        seen().contains(&format!("traceparent: {own}\r\n")) && seen().contains("tracestate: a=b"),
        "{}",
        seen()
    );
    proxy.gateway.logged(|line| line["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736").await;
    proxy.client.get("/", &[]).await;
    assert!(!seen().contains("traceparent"), "not unless it is wanted");
    proxy.reload("log: {level: debug}", "log: {level: debug, trace: true}").await;
    for h2 in [false, true] {
        let reply = if h2 {
            proxy.client.send_h2(Method::GET, "/made", &[], "").await
        } else {
            proxy.client.get("/made", &[]).await
        };
        assert_eq!(reply.status, 200);
        let head = seen();
        let made = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap();
        let id = made.split('-').nth(1).unwrap().to_owned();
        proxy.gateway.logged(|line| line["path"] == "/made" && line["trace"] == id.as_str()).await;
    }
    proxy.client.get("/", &[("traceparent", own)]).await;
    assert_eq!(seen().matches("traceparent").count(), 1, "one that is there is the one");
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

/// Every name of ours that rules and dashboard ask about.
fn asked_for() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        for rest in text.split("imis_gateway_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            names.insert(format!("imis_gateway_{}", &rest[..end]));
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_the_numbers_and_the_rules_and_finds_every_name() {
    if Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        return skip("promtool (package prometheus)");
    }
    let stage = Stage::with(Setup::new(Generation::Ems).with_api()).await;
    stage.gateway.logged(|line| line["message"] == "the staff of Zendesk is known").await;
    let cookie = stage.cookie_of("AMUELLER");
    assert!(stage.sso("", &cookie).await.token().is_some());
    stage.client().get("/sso/zendesk/signed-out?kind=error&message=signature", &[]).await;
    stage.client().get("/", &[("host", "elsewhere.example")]).await;
    stage.edit("version: 1\n", "version: 1\n# once more\n");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);

    let metrics = stage.gateway.metrics().await;
    let body = metrics.split_once("\r\n\r\n").unwrap().1;
    // Families are there by name, with or without a series yet.
    for name in asked_for() {
        let family = ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(&name);
        let described = body.lines().any(|line| line.starts_with(&format!("# TYPE {family} ")));
        assert!(described, "{name} is asked for, and not there");
    }

    // And docs/metrics.md has them all, and no other.
    let families: BTreeSet<&str> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let docs =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let documented: BTreeSet<&str> =
        docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let missing: Vec<_> = families.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    // Families without a series are not shown: nobody has signed out of iMIS here.
    let gone: Vec<_> = documented.difference(&families).copied().collect();
    assert_eq!(gone, ["imis_gateway_sign_outs_seen"], "in docs/metrics.md, and not there");

    let folder = tempfile::tempdir().unwrap();
    let rules = monitoring().join("alerts.yaml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // A free port, which is taken a moment later.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\nscrape_configs:\n  - {{job_name: imis-gateway, static_configs: [{{targets: [\"{}\"]}}]}}\nrule_files: [{}]\n",
        stage.gateway.admin,
        rules.display()
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let asked = asks(port, &stage).await;
    let _ = prometheus.kill();
    let _ = prometheus.wait();
    asked.unwrap();
}

/// GET of Prometheus's API.
async fn api(port: u16, path: &str) -> Option<Value> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let start = text.find('{')?;
    serde_json::from_str(&text[start..=text.rfind('}')?]).ok()
}

async fn asks(port: u16, stage: &Stage) -> Result<(), String> {
    let mut last = Value::Null;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.client().get("/Default.aspx", &[]).await;
        let Some(up) = api(port, "/api/v1/query?query=up%7Bjob%3D%22imis-gateway%22%7D").await else {
            continue;
        };
        let requests = "/api/v1/query?query=sum(rate(imis_gateway_requests_total%5B5s%5D))";
        let requests = api(port, requests).await.unwrap_or_default();
        let rules = api(port, "/api/v1/rules").await.unwrap_or_default();
        let healthy = rules["data"]["groups"][0]["rules"]
            .as_array()
            .is_some_and(|rules| rules.len() >= 11 && rules.iter().all(|rule| rule["health"] == "ok"));
        let rate: f64 = requests["data"]["result"][0]["value"][1]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0);
        if up["data"]["result"][0]["value"][1] == "1" && rate > 0.0 && healthy {
            return Ok(());
        }
        last = serde_json::json!({"up": up, "requests": requests, "rules": rules});
    }
    Err(last.to_string())
}

#[test]
fn the_dashboard_is_one_that_grafana_reads() {
    let text = std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(panels.len() >= 12 && ids.len() == panels.len());
    for panel in panels {
        assert!(panel["gridPos"]["w"].as_u64().is_some_and(|width| width <= 24));
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("imis_gateway_") && expression.contains("$instance"), "{expression}");
        }
    }
}
