//! The request for which the gateway sends requests to iMIS.

use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::uri::Authority;

use crate::upstream::forwarded::Forwarded;

/// What recognition needs of a visitor's request.
pub(crate) struct Visitor<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) forwarded: &'a Forwarded,
    pub(crate) authority: &'a Authority,
}

/// The User-Agent of requests that commands send.
pub(crate) const DOCTOR_AGENT: &str =
    concat!("Mozilla/5.0 (compatible; imis-gateway doctor ", env!("CARGO_PKG_VERSION"), ")");

/// Headers of a request that a command sends without a visitor.
pub(crate) fn visitor_headers() -> HeaderMap {
    HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(DOCTOR_AGENT))])
}
