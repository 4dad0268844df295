//! Members are never mixed up: many at once, over both protocols and on shared connections, while iMIS fails in every
//! way and clients disconnect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use imis_gateway_simulators::imis::people::Person;
use imis_gateway_simulators::imis::{ApiFault, Faults, Generation, PageFault, QueryFault, TokenFault};
use tokio::io::AsyncWriteExt;

use crate::support::{SITE, SSO, Setup, Stage};

const MEMBERS: usize = 40;
const FOR: Duration = Duration::from_secs(6);

/// A member whose every value carries his number.
fn member(template: &Person, number: usize) -> Person {
    let mut person = template.clone();
    let id = format!("7{number:05}");
    let party = serde_json::to_string(&template.party)
        .unwrap()
        .replace(&template.id, &id)
        .replace("ann.mueller@example.org", &format!("member-{number}@example.org"))
        .replace("Ann", &format!("Member{number}"));
    person.party = serde_json::from_str(&party).unwrap();
    person.username = format!("member{number}");
    person.id = id;
    person
}

struct Member {
    number: usize,
    id: String,
    cookie: String,
}

/// What came of everything.
#[derive(Default)]
struct Counts {
    signed_in: AtomicUsize,
    pages: AtomicUsize,
    refused: AtomicUsize,
}

/// Looks at an answer to `member`: it says his name, or nobody's.
fn check(member: &Member, status: u16, text: &str, counts: &Counts) {
    let own = &member.id;
    for (at, _) in text.match_indices("loggedInPartyId") {
        let said = &text[at..(at + 60).min(text.len())];
        assert!(said.contains(own.as_str()), "member {}: {said}", member.number);
        counts.pages.fetch_add(1, Ordering::Relaxed);
    }
    match text.split("name=\"jwt\" value=\"").nth(1) {
        Some(rest) => {
            let claims = crate::tokens::claims(rest.split('"').next().unwrap());
            assert_eq!(claims["external_id"], own.as_str());
            assert_eq!(claims["email"], format!("member-{}@example.org", member.number));
            assert!(
                claims["name"].as_str().unwrap().starts_with(&format!("Member{} ", member.number)),
                "{claims}"
            );
            counts.signed_in.fetch_add(1, Ordering::Relaxed);
        }
        None if status != 200 => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        None => {}
    }
    // No other member's number, wherever.
    for (at, _) in text.match_indices("@example.org") {
        let before = &text[..at];
        if let Some(begin) = before.rfind("member-") {
            assert_eq!(&before[begin + 7..], member.number.to_string());
        }
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Option<(u16, String)> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

fn asked(member: &Member, path: &str, authority: bool) -> Request<Empty<Bytes>> {
    let uri = if authority { format!("https://{SITE}{path}") } else { path.to_owned() };
    let request = Request::builder().uri(uri).header("cookie", &member.cookie);
    let request = if authority { request } else { request.header("host", SITE) };
    request.body(Empty::new()).unwrap()
}

/// Members take turns on one HTTP/2 connection, several at once, as behind a proxy of their office.
async fn over_h2(stage: Arc<Stage>, members: Arc<Vec<Member>>, counts: Arc<Counts>, end: Instant) {
    while Instant::now() < end {
        let io = TokioIo::new(stage.client().connect("h2").await);
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let asked = members.iter().map(|member| {
            let mut sender = sender.clone();
            let counts = counts.clone();
            async move {
                for path in [SSO, "/members/benefits.aspx", SSO] {
                    let Ok(response) = sender.send_request(asked(member, path, true)).await else { return };
                    // One in seven is given up after its head.
                    if member.number.is_multiple_of(7) {
                        drop(response);
                        continue;
                    }
                    if let Some((status, text)) = read(response).await {
                        check(member, status, &text, &counts);
                    }
                }
            }
        });
        futures_util::future::join_all(asked).await;
        connection.abort();
    }
}

/// A member after the other on one HTTP/1 connection.
async fn over_h1(stage: Arc<Stage>, members: Arc<Vec<Member>>, counts: Arc<Counts>, end: Instant) {
    while Instant::now() < end {
        let io = TokioIo::new(stage.client().connect("http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        for member in members.iter() {
            for path in [SSO, "/members/benefits.aspx"] {
                let Ok(response) = sender.send_request(asked(member, path, false)).await else { break };
                if let Some((status, text)) = read(response).await {
                    check(member, status, &text, &counts);
                }
            }
        }
        connection.abort();
    }
}

/// Browsers that ask and are gone, some with a reset.
async fn breaking_off(stage: Arc<Stage>, members: Arc<Vec<Member>>, end: Instant) {
    for member in members.iter().cycle() {
        if Instant::now() > end {
            return;
        }
        let mut stream = stage.client().connect("http/1.1").await;
        for path in [SSO, "/members/benefits.aspx", SSO] {
            let cookie = &member.cookie;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\nCookie: {cookie}\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
        let _ = socket2::SockRef::from(stream.get_ref().0).set_linger(Some(Duration::ZERO));
    }
}

async fn failing(stage: Arc<Stage>, other: String, end: Instant) {
    let faults = [
        Faults::default(),
        Faults { api: ApiFault::Status(500), ..Faults::default() },
        Faults::default(),
        Faults { api: ApiFault::AnotherParty(other), ..Faults::default() },
        Faults { pages: PageFault::Drop, ..Faults::default() },
        Faults::default(),
        Faults { token: TokenFault::Drop, ..Faults::default() },
        Faults { api: ApiFault::Unauthorized(3), ..Faults::default() },
        Faults { pages: PageFault::Firewall(200), ..Faults::default() },
        Faults { api: ApiFault::Drop, ..Faults::default() },
        Faults { delay: Some(Duration::from_millis(30)), ..Faults::default() },
        Faults { query: QueryFault::FirstOfAll, ..Faults::default() },
        Faults { query: QueryFault::Unfiltered, ..Faults::default() },
        Faults { session_info: Some((500, "")), ..Faults::default() },
        Faults {
            session_info: Some((500, "")),
            login_status: Some("{RETURL}?ID=104019&QKEY=0".to_owned()),
            ..Faults::default()
        },
    ];
    for fault in faults.iter().cycle() {
        if Instant::now() > end {
            return stage.imis.set_faults(Faults::default());
        }
        stage.imis.set_faults(fault.clone());
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_members_at_once_are_never_mixed_up_whatever_fails() {
    at_once(Setup::new(Generation::Ems)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_members_recognised_by_a_query_are_never_mixed_up() {
    let query = "{method: whoami_query, page: /imis-gateway-probe, query: $/Gateway/WhoAmI, columns: {id: ID, name: Full Name, \
                 email: Email, status: Member Status, company: Is Company}}";
    at_once(Setup::new(Generation::Ems).recognised_by(query).without_service_account()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_members_recognised_by_tickets_are_never_mixed_up() {
    let list = "[{method: forms_ticket, validation_key: {file: validation-key}, decryption_key: {file: decryption-key}}, \
                {method: login_status_redirect}, {method: client_context, page: /iMIS/imis-gateway-probe}]";
    at_once(Setup::new(Generation::Imis2017).recognised_by(list)).await;
}

async fn at_once(mut setup: Setup) {
    let template = setup.imis.people.iter().find(|person| person.username == "AMUELLER").unwrap().clone();
    setup.imis.people.extend((0..MEMBERS).map(|number| member(&template, number)));
    setup.log_level = "info";
    let stage = Arc::new(Stage::with(setup).await);
    let members: Vec<Member> = (0..MEMBERS)
        .map(|number| Member {
            number,
            id: format!("7{number:05}"),
            cookie: stage.cookie_of(&format!("member{number}")),
        })
        .collect();
    let (members, counts) = (Arc::new(members), Arc::new(Counts::default()));
    let end = Instant::now() + FOR;
    let other = members[0].id.clone();
    tokio::join!(
        over_h2(stage.clone(), members.clone(), counts.clone(), end),
        over_h2(stage.clone(), members.clone(), counts.clone(), end),
        over_h1(stage.clone(), members.clone(), counts.clone(), end),
        over_h1(stage.clone(), members.clone(), counts.clone(), end),
        breaking_off(stage.clone(), members.clone(), end),
        failing(stage.clone(), other, end),
    );
    let all = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (signed_in, pages, refused) = (all(&counts.signed_in), all(&counts.pages), all(&counts.refused));
    assert!(signed_in > 200 && pages > 200 && refused > 20, "{signed_in} {pages} {refused}");
    // And when all is well again, so is everybody.
    for member in members.iter() {
        let reply = stage.sso("", &member.cookie).await;
        check(member, 200, &reply.text(), &counts);
        assert!(reply.token().is_some(), "{}", reply.text());
    }
    assert_eq!(stage.client().send(Method::GET, "/", &[], "").await.status, 200);
}
