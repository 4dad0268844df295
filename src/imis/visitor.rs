//! The request on whose behalf iMIS is asked: a visitor's, or one that a command makes up.

use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::uri::Authority;

use crate::upstream::forwarded::Forwarded;

/// A visitor's request, as far as recognition needs it.
pub(crate) struct Visitor<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) forwarded: &'a Forwarded,
    pub(crate) authority: &'a Authority,
}

/// The User-Agent of requests that commands make, not visitors.
pub(crate) const DOCTOR_AGENT: &str =
    concat!("Mozilla/5.0 (compatible; imis-gateway doctor ", env!("CARGO_PKG_VERSION"), ")");

/// The headers of a request that the gateway makes by itself, without a visitor.
pub(crate) fn visitor_headers() -> HeaderMap {
    HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(DOCTOR_AGENT))])
}
