//! A visitor whose request the gateway makes up, to try how iMIS recognises them.

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use http::uri::Authority;

use crate::imis::{Visitor, visitor_headers};
use crate::upstream::forwarded::Forwarded;

/// A visitor of one site.
pub(super) struct TestVisitor {
    headers: HeaderMap,
    forwarded: Forwarded,
    authority: Authority,
}

impl TestVisitor {
    /// `request_id`: for the requests to iMIS. `None` when `host` is not a valid authority.
    pub(super) fn new(host: &str, request_id: &str, cookie: Option<&HeaderValue>) -> Option<Self> {
        let mut headers = visitor_headers();
        headers.extend(cookie.map(|cookie| (COOKIE, cookie.clone())));
        let forwarded = Forwarded::of_this_machine(host, request_id);
        Some(Self { headers, forwarded, authority: host.parse().ok()? })
    }

    pub(super) fn as_visitor(&self) -> Visitor<'_> {
        Visitor { headers: &self.headers, forwarded: &self.forwarded, authority: &self.authority }
    }
}

/// A Cookie header as pasted from the developer tools of a browser.
pub(crate) fn pasted_cookies(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    let text = text.strip_prefix("Cookie:").or_else(|| text.strip_prefix("cookie:")).unwrap_or(text);
    let mut value = HeaderValue::from_str(text.trim()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
