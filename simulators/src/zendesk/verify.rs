//! Verifying a token as Zendesk describes it: RFC 7515 by hand.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// The claims of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Unique id of the token.
    pub jti: String,
    /// E-mail address.
    pub email: String,
    /// Full name.
    pub name: String,
    /// The id in the other system.
    pub external_id: Option<String>,
    /// E.164.
    pub phone: Option<String>,
}

const CLOCK: &str =
    "Invalid iat parameter. The supplied iat value is more than 3 minutes off, check your server clock.";
const SIGNATURE: &str =
    "JWT signature invalid. The signature cannot be verified, check that your tokens match.";
const REQUEST: &str = "Invalid JWT Request";

/// Checks everything but uniqueness. `now` is in seconds since 1970.
///
/// # Errors
/// Zendesk's message.
pub fn verify(token: &str, secret: &str, now: i64) -> Result<Claims, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { return Err(REQUEST.to_owned()) };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| REQUEST.to_owned());
    let parsed = |part: &str| -> Result<Value, String> {
        serde_json::from_slice(&decoded(part)?).map_err(|_| REQUEST.to_owned())
    };
    let header_value = parsed(header)?;
    let keys: Vec<&String> = header_value.as_object().map(|map| map.keys().collect()).unwrap_or_default();
    if keys.len() != 2 || header_value["alg"] != "HS256" || header_value["typ"] != "JWT" {
        return Err(REQUEST.to_owned());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| SIGNATURE.to_owned())?;
    mac.update(format!("{header}.{payload}").as_bytes());
    mac.verify_slice(&decoded(signature)?).map_err(|_| SIGNATURE.to_owned())?;

    let claims = parsed(payload)?;
    let iat = claims["iat"].as_i64().ok_or_else(|| CLOCK.to_owned())?;
    if (iat - now).abs() > 180 {
        return Err(CLOCK.to_owned());
    }
    let text = |name: &str| claims[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let optional = |name: &str| match &claims[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(REQUEST.to_owned()),
    };
    Ok(Claims {
        jti: text("jti").ok_or_else(|| REQUEST.to_owned())?,
        email: text("email").filter(|email| email.contains('@')).ok_or("Email is invalid")?,
        name: text("name").ok_or("Name is too short")?,
        external_id: optional("external_id")?,
        phone: optional("phone")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515 appendix A.1 has `typ` and `alg`, and a key of bytes that are not text; this one is
    /// the common example of the key `secret`.
    #[test]
    fn a_foreign_token_is_judged_by_its_signature_first() {
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
        assert_eq!(verify(token, "your-256-bit-secret", 1_516_239_022), Err(REQUEST.to_owned()), "no jti");
        assert_eq!(verify(token, "your-256-bit-secret", 1_516_240_000), Err(CLOCK.to_owned()));
        assert_eq!(verify(token, "another", 1_516_239_022), Err(SIGNATURE.to_owned()));
        assert_eq!(verify("a.b", "s", 0), Err(REQUEST.to_owned()));
    }
}
