//! The forwarding headers of requests that the gateway makes for a visitor.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The forwarding headers of a visitor's request, for the requests that a sign-in makes on the visitor's behalf.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    /// The visitor's address: the last one that is not a trusted proxy.
    pub(crate) client: IpAddr,
    pub(crate) chain: String,
    pub(crate) host: String,
    pub(crate) incident: String,
}

impl Forwarded {
    /// The forwarding headers of a request that the gateway makes by itself.
    pub(crate) fn of_this_machine(host: &str, incident: &str) -> Self {
        let client = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        Self { client, chain: client.to_string(), host: host.to_owned(), incident: incident.to_owned() }
    }

    /// Sets the forwarding headers. All values are ours or were parsed.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
        headers.insert(X_FORWARDED_FOR, HeaderValue::try_from(&self.chain)?);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_HOST, HeaderValue::try_from(&self.host)?);
        headers.insert(X_REQUEST_ID, HeaderValue::try_from(&self.incident)?);
        Ok(())
    }
}
