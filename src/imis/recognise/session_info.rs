//! Whether iMIS still knows a session. Signing out does not revoke a forms authentication ticket, so the
//! ticket alone cannot tell.

use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::imis::client;
use crate::imis::json::readable;
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::visitor_client::{VisitorRequest, VisitorSession, require_ok};

const MAX_BODY_BYTES: usize = 16 * 1024;
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Asks `target`, the path of `GetSessionInfoFromCookie`, which scripts of iMIS ask, too.
pub(super) async fn is_alive(session: &mut VisitorSession<'_>, target: &str) -> Result<bool, RecogniseError> {
    let request = VisitorRequest {
        name: "session",
        method: Method::POST,
        accept: "application/json",
        extra_header: Some((REQUESTED_WITH, HeaderValue::from_static("XMLHttpRequest"))),
        ..VisitorRequest::page(target)
    };
    let response = session.send(&request).await?;
    require_ok(&response)?;
    read(&client::json_body(response, MAX_BODY_BYTES).await?).ok_or(RecogniseError::Liveness)
}

/// `null` is a session that has ended. `None` if this is not a response of `GetSessionInfoFromCookie`.
fn read(json: &[u8]) -> Option<bool> {
    match serde_json::from_slice(&readable(json)).ok()? {
        Value::Null => Some(false),
        Value::Object(info) => info.get("StillGoodSeconds")?.as_f64().map(|seconds| seconds > 0.0),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_alive_dead_or_not_told() {
        let good = |json: &str| read(json.as_bytes());
        assert_eq!(good(r#"{"StillGoodSeconds":1187.2,"ExpireMinutes":20,"IsDesktop":false}"#), Some(true));
        assert_eq!(good("null"), Some(false));
        assert_eq!(good("\u{feff}null"), Some(false));
        assert_eq!(good(r#"{"StillGoodSeconds":0,"ExpireMinutes":20}"#), Some(false));
        for odd in ["", "{}", "true", "[]", r#"{"StillGoodSeconds":"1"}"#, r#"{"d":null}"#, "<html>"] {
            assert_eq!(good(odd), None, "{odd}");
        }
    }
}
