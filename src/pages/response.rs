//! Responses that are not HTML pages, and the headers that all our responses share.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};

use crate::base::clock;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

pub(super) const NO_STORE: (HeaderName, &str) = (CACHE_CONTROL, "no-store");
pub(super) const NO_REFERRER: (HeaderName, &str) = (REFERRER_POLICY, "no-referrer");
pub(super) const NO_SNIFF: (HeaderName, &str) = (X_CONTENT_TYPE_OPTIONS, "nosniff");

/// A response with a `Date` (RFC 9110 section 6.6.1). Responses of iMIS keep their own.
pub(super) fn response(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, &'static str)>,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(date) = HeaderValue::try_from(clock::http_date()) {
        response.headers_mut().insert(DATE, date);
    }
    response
}

/// A redirect that is never cached. A location that cannot be a header field becomes a 400.
pub(crate) fn redirect(status: StatusCode, location: &str) -> Response<Bytes> {
    let location = HeaderValue::try_from(location);
    let status = if location.is_ok() { status } else { StatusCode::BAD_REQUEST };
    let mut response = response(status, [NO_STORE, NO_REFERRER], Bytes::new());
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The response to an OPTIONS request that may go no further (RFC 9110 section 7.6.2).
pub(crate) fn options() -> Response<Bytes> {
    let allow = (ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response(StatusCode::NO_CONTENT, [allow], Bytes::new())
}

/// The response to an ACME http-01 challenge.
pub(crate) fn challenge(answer: String) -> Response<Bytes> {
    response(StatusCode::OK, [(CONTENT_TYPE, "application/octet-stream"), NO_STORE], answer)
}

/// JSON for scripts on the site's own pages.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let headers = [(CONTENT_TYPE, "application/json")].into_iter().chain(for_own_scripts());
    response(status, headers, body.to_string())
}

/// An empty response for scripts on the site's own pages.
pub(crate) fn no_content() -> Response<Bytes> {
    response(StatusCode::NO_CONTENT, for_own_scripts(), Bytes::new())
}

fn for_own_scripts() -> [(HeaderName, &'static str); 4] {
    [NO_STORE, NO_SNIFF, NO_REFERRER, (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin")]
}
