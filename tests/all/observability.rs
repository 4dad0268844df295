//! Numbers, and what is made of them: by Prometheus itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use imis_gateway_simulators::imis::Generation;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::origin::{Connection, Origin, Proxy, read_request};
use crate::support::{SITE, Setup, Stage, free_address, skip};

fn number(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn every_request_is_counted_once_with_its_outcome() {
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
        if metrics.contains("code=\"400\"") && metrics.contains("imis_gateway_requests_in_flight 0") {
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
    let process = |name: &str| number(&metrics, &format!("process_{name}"));
    assert!(process("cpu_seconds_total") > 0.0 && process("resident_memory_bytes") > 1e6);
    assert!(process("open_fds") > 3.0 && process("max_fds") >= process("open_fds"));
    assert!(process("start_time_seconds") > 1_790_000_000.0);
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("imis_gateway_build_info{{version=\"{version}\",revision=\"");
    assert!(metrics.lines().any(|line| line.starts_with(&build) && line.contains("rustc=\"1.")), "{metrics}");
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
    proxy.gateway.logged(|line| line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736").await;
    proxy.client.get("/", &[]).await;
    assert!(!seen().contains("traceparent"), "not unless it is wanted");
    proxy.reload("log: {level: debug}", "log: {level: debug, generate_traceparent: true}").await;
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
        proxy.gateway.logged(|line| line["path"] == "/made" && line["trace_id"] == id.as_str()).await;
    }
    proxy.client.get("/", &[("traceparent", own)]).await;
    assert_eq!(seen().matches("traceparent").count(), 1, "one that is there is the one");
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

/// Every metric that the rules and the dashboard query.
fn asked_for() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics = words.filter(|word| word.starts_with("imis_gateway_") || word.starts_with("process_"));
        names.extend(metrics.map(str::to_owned));
    }
    names
}

/// The metrics of a scrape as rows of docs/metrics.md, by the names of their samples.
fn rows(body: &str) -> BTreeSet<String> {
    let kinds = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let row = |(family, kind): (&str, &str)| {
        let help = body.lines().find_map(|line| line.strip_prefix(&format!("# HELP {family} "))).unwrap();
        let name = match kind {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            _ => family.to_owned(),
        };
        format!("| `{name}` | {kind} | {} |", help.trim_end_matches('.'))
    };
    kinds.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_the_numbers_and_the_rules_and_finds_every_name() {
    if Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        return skip("promtool (package prometheus)");
    }
    let stage = Stage::with(Setup::new(Generation::Ems).with_api()).await;
    stage.gateway.logged(|line| line["message"] == "fetched the Zendesk staff list").await;
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
        // No CA is asked here, and no sync has run.
        let is_absent =
            ["imis_gateway_acme_", "imis_gateway_sync_"].iter().any(|start| name.starts_with(start));
        assert!(described || is_absent, "{name} is asked for, and not there");
    }

    // And docs/metrics.md has them all, and no other.
    let rows = rows(body);
    let docs =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let documented: BTreeSet<&str> = docs.lines().filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<_> = rows.iter().filter(|row| !documented.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:#?}");
    // Families without a series are not shown: nobody has signed out of iMIS here, no CA is asked, and no sync has run.
    let gone: Vec<_> = documented
        .into_iter()
        .filter(|row| !rows.contains(*row))
        .map(|row| row.split('`').nth(1).unwrap())
        .collect();
    let expected = [
        "imis_gateway_acme_failing",
        "imis_gateway_acme_orders_total",
        "imis_gateway_sign_outs_seen_total",
        "imis_gateway_sync_failing",
        "imis_gateway_sync_failures",
        "imis_gateway_sync_last_run_timestamp_seconds",
        "imis_gateway_sync_last_success_timestamp_seconds",
        "imis_gateway_sync_members",
        "imis_gateway_sync_writes",
    ];
    assert_eq!(gone, expected, "in docs/metrics.md, and not there");

    let folder = tempfile::tempdir().unwrap();
    let rules = monitoring().join("alerts.yaml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // A free port, which is taken a moment later.
    let port = free_address().port();
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
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
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
            // Every program exports process metrics; only the job tells ours.
            let ours = expression.contains("imis_gateway_") || expression.contains("{job=\"imis-gateway\",");
            assert!(ours && expression.contains("$instance"), "{expression}");
        }
    }
}

/// A collector of traces that takes everything but the first, and what it was sent.
async fn collector() -> (SocketAddr, Arc<Mutex<Vec<(String, Vec<u8>)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let all = taken.clone();
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
                    if let Some(end) = end {
                        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
                        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                        if bytes.len() == end + 4 + length.parse::<usize>().unwrap() {
                            let first = all.lock().unwrap().is_empty();
                            all.lock().unwrap().push((head, bytes[end + 4..].to_vec()));
                            let status = if first { "503 Busy" } else { "200 OK" };
                            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                            stream.write_all(answer.as_bytes()).await.unwrap();
                            bytes.clear();
                        }
                    }
                    if !stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
            });
        }
    });
    (address, taken)
}

fn spans(body: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let resources = request.resource_spans.into_iter();
    resources.flat_map(|all| all.scope_spans).flat_map(|all| all.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sampling_decision_of_the_caller_applies_to_exported_spans() {
    let (address, taken) = collector().await;
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let authority = Authority::new("test CA");
    let origin = Origin::start(&authority, move |mut connection: Connection| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut connection).await {
                seen.lock().unwrap().push(request);
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").await;
            }
        }
    })
    .await;
    let more = format!(
        "log: {{otlp: {{endpoint: \"http://{address}/v1/traces\", token: {{file: any-secret}}, sample_percent: 0}}}}\ntrusted_proxies: [127.0.0.0/8]\n"
    );
    let server = format!("https://{}", origin.address);
    let mut proxy = Proxy::to(authority, &server, Some(origin), &more);
    // The first batch is refused, and that is told once.
    let wanted = |n: u32| format!("00-4bf92f3577b34da6a3ce929d0e0e473{n}-00f067aa0ba902b7-01");
    proxy.client.get("/lost", &[("traceparent", &wanted(0))]).await;
    proxy
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("trace export failed")))
        .await;
    let unwanted = wanted(9).replace("-01", "-00");
    for (path, traceparent) in [("/u/ann@example.org/x?secret=1", wanted(1)), ("/unwanted", unwanted.clone())]
    {
        proxy.client.get(path, &[("traceparent", &traceparent)]).await;
        proxy.client.send_h2(Method::GET, path, &[("traceparent", &traceparent)], "").await;
    }
    // Nobody has decided about this one, and of a hundred such none is told.
    proxy.client.get("/undecided", &[]).await;
    proxy.client.get("/", &[("host", "elsewhere.example"), ("traceparent", &wanted(2))]).await;
    proxy.gateway.signal("TERM");
    assert!(proxy.gateway.wait().success());
    let all_taken = taken;
    let taken = all_taken.lock().unwrap().clone();
    let all = taken[1..].iter().flat_map(|(_, body)| spans(body));
    // What was refused may be sent again.
    let told: Vec<Span> = all.filter(|span| attribute(span, "url.path") != "/lost").collect();
    assert_eq!(told.len(), 3, "{told:?}");
    let heads = heads.lock().unwrap().clone();
    for span in told.iter().take(2) {
        assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4731");
        assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
        // What iMIS does is a part of it.
        let passed_on =
            format!("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4731-{}-01\r\n", hex(&span.span_id));
        assert_eq!(heads.iter().filter(|head| head.contains(&passed_on)).count(), 1, "{heads:?}");
        assert_eq!((attribute(span, "url.path"), span.name.as_str()), ("/u/*/x".to_owned(), "GET"));
        assert_eq!(attribute(span, "http.response.status_code"), "200");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    let versions: BTreeSet<String> =
        told.iter().map(|span| attribute(span, "network.protocol.version")).collect();
    assert_eq!(versions, BTreeSet::from(["1.1".to_owned(), "2".to_owned()]));
    assert_eq!(attribute(&told[2], "error.type"), "unknown_host");
    assert_eq!(
        heads.iter().filter(|head| head.contains(&format!("traceparent: {unwanted}\r\n"))).count(),
        2,
        "as it came"
    );
    for (head, body) in &taken {
        assert!(
            head.starts_with("post /v1/traces ")
                && head.contains("authorization: bearer of-no-account-and-long-enough-for-one"),
            "{head}"
        );
        let text = String::from_utf8_lossy(body);
        assert!(
            text.contains("imis-gateway") && !text.contains("secret") && !text.contains("ann@"),
            "{text}"
        );
    }
    // A stranger's flag decides nothing.
    let authority = Authority::new("test CA");
    let strangers = more.replace("trusted_proxies: [127.0.0.0/8]\n", "");
    let mut other = Proxy::to(authority, "https://127.0.0.1:1", None, &strangers);
    other.client.get("/", &[("traceparent", &wanted(3))]).await;
    other.gateway.signal("TERM");
    assert!(other.gateway.wait().success());
    assert_eq!(all_taken.lock().unwrap().len(), taken.len());
    assert!(!proxy.gateway.log().contains("of-no-account-and-long-enough-for-one"));
    assert!(proxy.gateway.log().contains("\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4731\""));
}
