//! Windows authentication: NTLM and Negotiate sign a TCP connection in, not a request.
//!
//! Once they are asked for or used, an upstream connection carries one person's identity. It serves the client
//! connection it was opened for, alone, and is closed with it; it never goes back to the pool.

use std::cell::RefCell;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use hyper::client::conn::http1::SendRequest;

use super::upload::Upload;

/// The place of a client connection for the upstream connection that is its own.
#[derive(Default)]
pub(crate) struct Bound(RefCell<Option<SendRequest<Upload>>>);

impl Bound {
    /// The connection, if there is one and it is still open. It is not there until it is put back.
    pub(super) async fn take(&self) -> Option<SendRequest<Upload>> {
        let mut connection = self.0.borrow_mut().take()?;
        // Requests of one client connection come one after the other, so it is soon ready, or gone.
        connection.ready().await.is_ok().then_some(connection)
    }

    pub(super) fn put(&self, connection: SendRequest<Upload>) {
        *self.0.borrow_mut() = Some(connection);
    }
}

/// Whether a request signs its connection in.
pub(super) fn used_by(request: &HeaderMap) -> bool {
    names_windows_scheme(request, AUTHORIZATION)
}

/// Whether a response asks for that.
pub(super) fn asked_for_by(response: &HeaderMap) -> bool {
    names_windows_scheme(response, WWW_AUTHENTICATE)
}

fn names_windows_scheme(headers: &HeaderMap, name: HeaderName) -> bool {
    let lines = headers.get_all(name).iter();
    let mut challenges = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    challenges.any(|challenge| {
        let challenge = challenge.trim_ascii();
        // The scheme is a token: whatever ends it, a tab or a stray character, ends it for us.
        let token =
            challenge.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
        let scheme = &challenge[..token];
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_schemes_are_told_in_any_case_and_place() {
        let asks =
            |line| asked_for_by(&HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(line))]));
        for line in [
            "NTLM",
            "Negotiate",
            "negotiate oXcwdaADCgEBoloE",
            "Basic realm=\"x\", NTLM",
            "NTLM\tTlRM",
            "Negotiate=x",
        ] {
            assert!(asks(line), "{line}");
        }
        for line in ["Basic realm=\"x\"", "Bearer", "Digest realm=\"ntlm\"", ""] {
            assert!(!asks(line), "{line}");
        }
        assert!(used_by(&HeaderMap::from_iter([(
            AUTHORIZATION,
            HeaderValue::from_static("NTLM TlRMTVNTUAAB")
        )])));
        assert!(!used_by(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"))])));
    }
}
