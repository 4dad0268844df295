//! Several servers of iMIS behind one site: which is used, which is left alone, and how a session stays where it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use imis_gateway_simulators::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use imis_gateway_simulators::imis::{Faults, Generation, TokenFault};

use crate::support::cookie_jar::Jar;
use crate::support::origin::{Connection, Origin, Proxy, read_request};
use crate::support::{SITE, Setup, Stage};

/// A server that answers with its name. `/set` sets a cookie with it, `/well` is the health check, and the sign-out
/// page redirects.
async fn serve(
    mut connection: Connection,
    name: &'static str,
    well: Arc<AtomicBool>,
    lives: Arc<AtomicBool>,
) {
    while let Some(request) = read_request(&mut connection).await {
        if !lives.load(Ordering::Relaxed) {
            // As when its process ends: what is open is closed.
            return;
        }
        let status = if request.starts_with("GET /well") && !well.load(Ordering::Relaxed) {
            "503 Ill"
        } else if request.starts_with("GET /AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx") {
            "302 Found\r\nLocation: /\r\nSet-Cookie: Login=; expires=Thu, 01-Jan-1970 00:00:00 GMT; path=/"
        } else {
            "200 OK"
        };
        let cookie = if request.starts_with("GET /set") {
            format!("Set-Cookie: ARRAffinity=of-{name}; Path=/\r\n")
        } else {
            String::new()
        };
        let answer = format!("HTTP/1.1 {status}\r\n{cookie}Content-Length: 3\r\n\r\n{name}");
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub(crate) struct Two {
    pub(crate) proxy: Proxy,
    one: Option<Origin>,
    two: Option<Origin>,
    well: Arc<AtomicBool>,
    /// Whether each lives.
    live: [Arc<AtomicBool>; 2],
}

/// In front of two servers, with more keys of the upstream.
pub(crate) async fn two(keys: &str) -> Two {
    let authority = Authority::new("test CA");
    let yes = || Arc::new(AtomicBool::new(true));
    let (well, live) = (yes(), [yes(), yes()]);
    let (of_one, one_lives, two_lives) = (well.clone(), live[0].clone(), live[1].clone());
    let one = Origin::start(&authority, move |connection| {
        serve(connection, "one", of_one.clone(), one_lives.clone())
    })
    .await;
    let two = Origin::start(&authority, move |connection| {
        serve(connection, "two", Arc::new(AtomicBool::new(true)), two_lives.clone())
    })
    .await;
    let servers = format!("https://{}\", \"https://{}", one.address, two.address);
    let proxy = Proxy::to(authority, &servers, None, "");
    proxy.reload("      ca_file: ca.pem\n", &format!("      ca_file: ca.pem\n{keys}")).await;
    Two { proxy, one: Some(one), two: Some(two), well, live }
}

async fn who(two: &Two) -> String {
    two.proxy.client.get("/", &[]).await.text()
}

async fn becomes(two: &Two, wanted: &str) {
    for _ in 0..400 {
        if who(two).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {wanted}: {}", two.proxy.gateway.log());
}

#[tokio::test]
async fn a_server_that_accepts_no_connections_is_ejected_and_returns() {
    let mut servers = two("").await;
    assert_eq!(who(&servers).await, "one");
    let address = servers.one.as_ref().unwrap().address;
    servers.live[0].store(false, Ordering::Relaxed);
    drop(servers.one.take());
    // Kept connections to it end, too: nobody gets an error.
    for _ in 0..10 {
        let text = who(&servers).await;
        assert!(text == "two" || text == "one", "{text}");
    }
    becomes(&servers, "two").await;
    servers
        .proxy
        .gateway
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("a server of iMIS accepts no"))
        })
        .await;
    let metrics = servers.proxy.gateway.metrics().await;
    assert!(
        metrics.contains(&format!(
            "upstream_server_up{{site=\"{SITE}\",server=\"https://{}\"}} 1",
            servers.two.as_ref().unwrap().address
        )),
        "{metrics}"
    );
    let back = TcpListener::bind(address).await.unwrap();
    let identity = servers.proxy.authority.issue(&[SITE]).server_config();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(identity);
        while let Ok((stream, _)) = back.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut bytes = [0; 4096];
                    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").await;
                    }
                }
            });
        }
    });
    becomes(&servers, "back").await;
}

#[tokio::test]
async fn a_server_whose_health_check_fails_is_not_used_until_it_recovers() {
    let keys = "      health: {path: /well, interval: 50ms, timeout: 1s, fall: 2, rise: 2}\n";
    let mut servers = two(keys).await;
    assert_eq!(who(&servers).await, "one");
    servers.well.store(false, Ordering::Relaxed);
    becomes(&servers, "two").await;
    let (_, status) = servers.proxy.run(&["status"]).await;
    assert!(status.contains(", ill") && status.contains(", up"), "{status}");
    servers.well.store(true, Ordering::Relaxed);
    becomes(&servers, "one").await;
    // Ill is better than none.
    servers.well.store(false, Ordering::Relaxed);
    becomes(&servers, "two").await;
    servers.live[1].store(false, Ordering::Relaxed);
    drop(servers.two.take());
    becomes(&servers, "one").await;
}

#[tokio::test]
async fn requests_are_spread_and_sessions_stay() {
    for keys in [
        "      balance: least_requests\n      affinity: cookie\n",
        "      balance: least_requests\n      affinity: [ARRAffinity]\n",
    ] {
        let servers = two(keys).await;
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            let mut jar = Jar::new(servers.proxy.client.clone());
            let first = jar.get("/set").await.text();
            for _ in 0..5 {
                assert_eq!(jar.get("/").await.text(), first, "{keys}");
            }
            let cookies = jar.header();
            let over_h2 = servers.proxy.client.send_h2(Method::GET, "/", &[("cookie", &cookies)], "").await;
            assert_eq!(over_h2.text(), first, "{keys} over HTTP/2");
            assert!(!over_h2.headers.contains_key("set-cookie"), "it has its cookie already");
            seen.insert(first);
        }
        assert_eq!(seen.len(), 2, "{keys}: both are used");
        let fresh = servers.proxy.client.send_h2(Method::GET, "/set", &[], "").await;
        let set: Vec<&str> =
            fresh.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(set.len(), if keys.contains("cookie") { 2 } else { 1 }, "{set:?}");
    }
}

#[tokio::test]
async fn a_server_is_taken_out_of_service_by_command_and_its_sessions_stay() {
    let servers = two("      affinity: cookie\n").await;
    let mut jar = Jar::new(servers.proxy.client.clone());
    assert_eq!(jar.get("/").await.text(), "one");
    let one = servers.one.as_ref().unwrap().address.to_string();
    let (code, said) = servers.proxy.run(&["upstream", "drain", &format!("https://{one}")]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("taken out of service at members.example.org"), "{said}");
    assert_eq!(who(&servers).await, "two", "new sessions go elsewhere");
    assert_eq!(jar.get("/").await.text(), "one", "whoever is there stays there");
    // A reload does not put it back, also one that changes the servers' deadlines.
    servers.proxy.reload("idle: 60s", "idle: 50s").await;
    assert_eq!(who(&servers).await, "two");
    assert!(servers.proxy.run(&["status"]).await.1.contains(", drained"));
    let (code, said) = servers.proxy.run(&["upstream", "enable", &one]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(who(&servers).await, "one");
    let (code, said) = servers.proxy.run(&["upstream", "drain", "https://10.9.9.9"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("is not one of the servers: https://"), "{said}");
}

/// Listens for plain connections, tells the PROXY header of each, and answers requests with the number of the
/// connection.
async fn behind_proxy_headers() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let mut have = 0;
                loop {
                    let Ok(read @ 1..) = stream.read(&mut bytes[have..]).await else { return };
                    have += read;
                    if bytes[..have].windows(4).any(|end| end == b"\r\n\r\n")
                        && (bytes.starts_with(b"PROXY ") || have > 60)
                    {
                        break;
                    }
                }
                let header = match ppp::HeaderResult::parse(&bytes[..have]) {
                    ppp::HeaderResult::V1(Ok(header)) => header.addresses.to_string(),
                    ppp::HeaderResult::V2(Ok(header)) => format!("{:?}", header.addresses),
                    other @ (ppp::HeaderResult::V1(_) | ppp::HeaderResult::V2(_)) => format!("{other:?}"),
                };
                loop {
                    let body = format!("{number} {header}");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    let Ok(1..) = stream.read(&mut bytes).await else { return };
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_proxy_header_names_the_client_whose_connection_is_not_shared() {
    for version in ["v1", "v2"] {
        let (address, count) = behind_proxy_headers().await;
        let proxy = Proxy::to(Authority::new("test CA"), &format!("http://{address}"), None, "");
        proxy
            .reload(
                "      ca_file: ca.pem\n",
                &format!("      ca_file: ca.pem\n      proxy_protocol: {version}\n"),
            )
            .await;
        let mut numbers = BTreeSet::new();
        for _ in 0..3 {
            let mut browser = proxy.client.connect("http/1.1").await;
            let port = browser.get_ref().0.local_addr().unwrap().port();
            let mut first = None;
            for _ in 0..3 {
                browser
                    .write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                let mut bytes = vec![0; 4096];
                let read = browser.read(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
                assert!(body.contains("127.0.0.1") && body.contains(&port.to_string()), "{version}: {body}");
                assert_eq!(*first.get_or_insert_with(|| body.clone()), body, "its own connection, kept");
            }
            numbers.insert(first.unwrap().split(' ').next().unwrap().to_owned());
        }
        assert_eq!(numbers.len(), 3, "each browser has one of its own");
        let before = count.load(Ordering::Relaxed);
        for _ in 0..2 {
            assert!(proxy.client.send_h2(Method::GET, "/", &[], "").await.text().contains("127.0.0.1"));
        }
        assert_eq!(count.load(Ordering::Relaxed), before + 2);
    }
}

#[tokio::test]
async fn clients_behind_one_load_balancer_connection_get_their_own_proxy_header() {
    let (address, _) = behind_proxy_headers().await;
    let proxy = Proxy::to(
        Authority::new("test CA"),
        &format!("http://{address}"),
        None,
        "trusted_proxies: [127.0.0.1]",
    );
    proxy.reload("      ca_file: ca.pem\n", "      ca_file: ca.pem\n      proxy_protocol: v1\n").await;
    let mut balancer = proxy.client.connect("http/1.1").await;
    for visitor in ["192.0.2.1", "198.51.100.7", "198.51.100.7", "192.0.2.1"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nX-Forwarded-For: {visitor}\r\n\r\n");
        balancer.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = balancer.read(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        assert!(text.contains(&format!("TCP4 {visitor} ")), "{visitor}: {text}");
    }
}

#[tokio::test]
async fn sign_ins_ask_the_servers_that_pages_come_from() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ill = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    let _ = stream.write_all(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n").await;
                }
            });
        }
    });
    let health = "health: {path: /Default.aspx, interval: 50ms, timeout: 1s, fall: 2, rise: 2}";
    let setup = Setup::new(Generation::Ems)
        .edit("servers: [\"", &format!("{health}\n      servers: [\"http://{ill}\", \""));
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "the health check of a server of iMIS fails").await;
    assert_eq!(stage.client().get("/Default.aspx", &[]).await.status, 200);
    assert!(stage.sso("", &stage.cookie_of("AMUELLER")).await.token().is_some());
}

#[tokio::test]
async fn a_sign_in_leaves_the_cookies_of_others_alone() {
    let method = "{method: client_application, page: /SingleSignOn, client_id: zendesk-gateway, client_secret: {file: client-secret}}";
    let mut setup = Setup::new(Generation::Ems).recognised_by(method);
    setup.imis.sso_page_target = Some("/sso/zendesk/imis".to_owned());
    let stage = Stage::with(setup).await;
    let own = "__Host-imis-gateway-server=0badcafe; __Host-imis-gateway-rounds=x; __Host-imis-gateway-signed-01234567=0.";
    let mut jar = Jar::new(stage.client()).with(&format!("{}; {own}", stage.cookie_of("AMUELLER")));
    assert_eq!(jar.get(crate::support::SSO).await.status, 302);
    for name in ["__Host-imis-gateway-server", "__Host-imis-gateway-signed-"] {
        assert_eq!(jar.names(name), 1, "{name}");
    }
}

/// With one server there is no other to send requests to, but its state is known all the same.
#[tokio::test]
async fn a_single_server_that_is_down_is_reported_until_it_is_back() {
    let authority = Authority::new("test CA");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let proxy = Proxy::to(authority, &format!("https://{address}"), None, "");
    let up = format!("imis_gateway_upstream_server_up{{site=\"{SITE}\",server=\"https://{address}\"}}");
    assert!(proxy.gateway.metrics().await.contains(&format!("{up} 1\n")), "nothing is known yet");
    for _ in 0..34 {
        assert_eq!(proxy.client.get("/", &[]).await.status, 502);
    }
    let (code, status) = crate::support::run(proxy.folder.path(), &["status"], "").await;
    let line = status.lines().find(|line| line.contains("upstream")).unwrap();
    assert_eq!(code, 0);
    assert!(line.contains(", rests since 20") && line.contains("34 failed connections"), "{line}");
    let ready = ready(&proxy).await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("34 failed connections\n"), "{ready}");
    assert!(proxy.gateway.metrics().await.contains(&format!("{up} 0\n")));

    let origin = Origin::start_at(&proxy.authority, address, |mut connection| async move {
        while read_request(&mut connection).await.is_some() {
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    assert_eq!(proxy.client.get("/", &[]).await.status, 200);
    let (_, status) = crate::support::run(proxy.folder.path(), &["status"], "").await;
    assert!(status.lines().any(|line| line.contains("upstream") && line.ends_with(", up")), "{status}");
    assert!(proxy.gateway.metrics().await.contains(&format!("{up} 1\n")));
    drop(origin);
}

async fn ready(proxy: &Proxy) -> String {
    let mut stream = tokio::net::TcpStream::connect(proxy.gateway.admin).await.unwrap();
    stream.write_all(b"GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn status_names_a_service_account_and_a_zendesk_api_that_fail() {
    let wrong = "client_secret: {file: imis-password}";
    let setup = Setup::new(Generation::Ems).with_api().edit("client_secret: {file: zendesk-api}", wrong);
    let stage = Stage::with(setup).await;
    stage.gateway.logged(|line| line["message"] == "cannot fetch the Zendesk staff list").await;
    let faults = Faults { token: TokenFault::Refuses, ..Faults::default() };
    stage.imis.set_faults(faults);
    assert_eq!(stage.sso("", &stage.cookie_of("AMUELLER")).await.status, 503);
    let (_, status) = stage.run(&["status"], "").await;
    assert!(status.contains("service account FAILED: "), "{status}");
    assert!(status.contains("API        FAILED: Zendesk rejected the OAuth client"), "{status}");
}
