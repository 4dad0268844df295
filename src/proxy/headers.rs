//! Which headers differ between what came in and what goes out. Nothing else is touched.
//!
//! Hop-by-hop headers are removed (RFC 9110 section 7.6.1), framing is set again by the connection it goes out on,
//! and the forwarding headers are ours alone: a client's own are removed in every spelling. There is no `Via`: IIS
//! gives up NTLM connection reuse when it sees one.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{Method, Request, Version};

use super::upstream::UpstreamError;
use crate::gateway::Gateway;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// More are no browser's.
const MOST_CONNECTION_OPTIONS: usize = 64;

/// What iMIS is told about the visitor.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    /// The visitor's address, as far as trusted proxies vouch for it.
    pub(crate) client: IpAddr,
    /// `X-Forwarded-For`: what trusted proxies said, then our peer.
    pub(crate) chain: String,
    host: String,
    incident: String,
}

impl Forwarded {
    pub(crate) fn of<B>(
        request: &Request<B>,
        peer: IpAddr,
        gateway: &Gateway,
        authority: &Authority,
        incident: &str,
    ) -> Self {
        let told = gateway.vouched_for(request.headers(), peer);
        let chain: Vec<String> = told.iter().chain([&peer]).map(IpAddr::to_string).collect();
        Self {
            client: told.first().copied().unwrap_or(peer),
            chain: chain.join(", "),
            host: authority.as_str().to_owned(),
            incident: incident.to_owned(),
        }
    }

    /// Sets the forwarding headers. All values are ours or were parsed.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) -> Result<(), http::header::InvalidHeaderValue> {
        headers.insert(X_FORWARDED_FOR, HeaderValue::try_from(&self.chain)?);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_HOST, HeaderValue::try_from(&self.host)?);
        headers.insert(X_REQUEST_ID, HeaderValue::try_from(&self.incident)?);
        Ok(())
    }
}

/// The part of `X-Forwarded-For` that is vouched for: from the right through the trusted proxies up to and with the
/// first address that is none, which is the visitor's. What stands left of it, the visitor may have written.
pub(crate) fn forwarded_for(headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let lines: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("?")).collect();
    let mut chain = Vec::new();
    for item in lines.join(",").rsplit(',') {
        let Ok(address) = item.trim().parse::<IpAddr>() else { break };
        chain.push(address.to_canonical());
        if !trusts(address) {
            break;
        }
    }
    chain.reverse();
    chain
}

/// HTTP/2 may split the Cookie header into crumbs; they are one header again before anybody reads it
/// (RFC 9113 section 8.2.3).
pub(crate) fn join_cookie_crumbs<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2 || request.headers().get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Joined from valid values, hence valid.
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(true);
        request.headers_mut().insert(COOKIE, joined);
    }
}

/// Makes the headers of a request fit for the upstream.
pub(crate) fn for_upstream(
    headers: &mut HeaderMap,
    host: &str,
    forwarded: &Forwarded,
    tunnel: bool,
) -> Result<(), UpstreamError> {
    let named = named_by_connection(headers);
    if named.len() > MOST_CONNECTION_OPTIONS || named.iter().any(is_essential) {
        return Err(UpstreamError::InvalidRequest);
    }
    // The connection answers `100-continue` itself when the body is first read.
    keep(headers, |name| {
        !is_hop_by_hop(name) && !named.contains(name) && !is_forwarding_header(name) && name != EXPECT
    });
    if tunnel {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let invalid = |_| UpstreamError::InvalidRequest;
    headers.insert(HOST, HeaderValue::try_from(host).map_err(invalid)?);
    forwarded.apply(headers).map_err(invalid)
}

/// Says of a request that could have a body and has none that it has none: http.sys answers 411 to what says nothing, and
/// HTTP/2 need not say.
pub(crate) fn frame_empty_body<B: http_body::Body>(request: &mut Request<B>) {
    let could = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if could && request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Makes the headers of a response fit for the browser.
pub(crate) fn for_browser(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    // An upstream that names an essential header in Connection is not obeyed.
    keep(headers, |name| !is_hop_by_hop(name) && (!named.contains(name) || is_essential(name)));
}

/// Whether a response says in two ways where it ends (RFC 9112 section 6.3): two readers could disagree.
pub(crate) fn frames_twice(response: &HeaderMap) -> bool {
    response.contains_key(TRANSFER_ENCODING) && response.contains_key(CONTENT_LENGTH)
}

/// Removes what `wanted` refuses; the others keep their order, which `HeaderMap::remove` would not let them.
fn keep(headers: &mut HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&wanted) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    for (name, value) in std::mem::take(headers) {
        // A repeated header has its name only the first time.
        if name.is_some() {
            current = name.filter(&wanted);
        }
        if let Some(name) = &current {
            kept.append(name, value);
        }
    }
    *headers = kept;
}

/// What the `Connection` lines name, all of them (RFC 9110 section 7.6.1).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Headers of one connection only. Framing is among them: it is set again by the connection it goes out on.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "proxy-authorization" | "proxy-authenticate"
        )
}

/// Headers whose loss would change what a message means, whatever `Connection` says.
fn is_essential(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host" | "cookie" | "set-cookie" | "authorization" | "content-length" | "content-type"
    )
}

/// Whether a header is one that only a proxy may set, in any spelling: IIS and ASP.NET read `_` as `-` in places.
fn is_forwarding_header(name: &HeaderName) -> bool {
    const FAMILIES: [&str; 4] = ["x-forwarded", "x-original-", "x-rewrite-", "x-real-"];
    let name = name.as_str();
    let first = name.as_bytes().first().copied().unwrap_or_default();
    // Most headers are told apart by their first letter.
    if first != b'x' && first != b'f' {
        return false;
    }
    let dashed = name.replace('_', "-");
    dashed == "forwarded"
        || dashed == "x-request-id"
        || FAMILIES.iter().any(|family| dashed.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        lines.iter().map(pair).collect()
    }

    #[test]
    fn every_connection_line_is_obeyed_and_framing_goes() {
        let mut map = headers(&[
            ("connection", "keep-alive, x-one"),
            ("connection", "X-Two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-connection", "keep-alive"),
        ]);
        for_browser(&mut map);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-three"]);
    }

    #[test]
    fn what_stays_stays_in_its_order() {
        let mut map = headers(&[
            ("a", "1"),
            ("connection", "x"),
            ("b", "2"),
            ("c", "3"),
            ("a", "4"),
            ("x", "5"),
            ("d", "6"),
        ]);
        for_browser(&mut map);
        let left: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}{}", value.to_str().unwrap())).collect();
        assert_eq!(left, ["a1", "a4", "b2", "c3", "d6"]);
    }

    #[test]
    fn connection_cannot_take_a_cookie_from_an_answer() {
        let mut map = headers(&[("connection", "set-cookie"), ("set-cookie", "a=b")]);
        for_browser(&mut map);
        assert!(map.contains_key("set-cookie"));
    }

    #[test]
    fn a_clients_forwarding_headers_go_in_every_spelling() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_host",
            "x-forwarded",
            "x-real-ip",
            "x_real_ip",
            "x-original-url",
            "x_original-url",
            "x-rewrite-url",
            "x-request-id",
            "x_request_id",
            "x-forwarded-prefix",
        ] {
            assert!(is_forwarding_header(&HeaderName::from_static(name)), "{name}");
        }
        for name in
            ["x-requested-with", "x-microsoftajax", "from", "cookie", "x-norefreshsession", "x-csrf-token"]
        {
            assert!(!is_forwarding_header(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_header_on_http_2_only() {
        let crumbs = |version| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            *request.headers_mut() = headers(&[("cookie", "a=1"), ("cookie", "Login=x"), ("cookie", "b=2")]);
            join_cookie_crumbs(&mut request);
            let lines = request.headers().get_all(COOKIE).iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(crumbs(Version::HTTP_2), ["a=1; Login=x; b=2"]);
        assert_eq!(crumbs(Version::HTTP_11), ["a=1", "Login=x", "b=2"]);
    }

    #[test]
    fn a_forwarded_chain_counts_from_the_right_up_to_the_visitor() {
        let chain = |value| {
            let trusts = |address: IpAddr| address.to_string().starts_with("10.");
            let addresses = forwarded_for(&headers(&[("x-forwarded-for", value)]), trusts);
            addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chain("1.2.3.4, 10.0.0.1"), "1.2.3.4 10.0.0.1");
        assert_eq!(
            chain("6.6.6.6, 203.0.113.9, 10.0.0.2,10.0.0.1"),
            "203.0.113.9 10.0.0.2 10.0.0.1",
            "6.6.6.6 is a claim"
        );
        assert_eq!(chain("<script>, 10.0.0.1"), "10.0.0.1");
        assert_eq!(chain("::ffff:1.2.3.4"), "1.2.3.4");
        assert_eq!(chain("unknown"), "");
    }
}
