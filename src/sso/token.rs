//! The Zendesk JWT: HS256, header `typ` and `alg`, and just the claims that single sign-on takes.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{Messaging, Secret};
use crate::sso::error::{MAX_TOKEN_BYTES, MintError};
use crate::sso::policy::Permit;

/// A minted token. It has no Debug and no Display because it signs its holder in.
pub(crate) struct Token(String);

impl Token {
    /// For the one form that carries it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    /// Seconds since 1970; Zendesk allows 180 s of difference.
    iat: u64,
    jti: &'a str,
    email: &'a str,
    name: &'a str,
    external_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    /// The app's own.
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

/// Mints a token. `now` is in seconds since 1970; `jti` must never have been used before.
pub(crate) fn mint(secret: &Secret, permit: &Permit, now: u64, jti: &str) -> Result<Token, MintError> {
    let claims = Claims {
        iat: now,
        jti,
        email: permit.email(),
        name: permit.name(),
        external_id: permit.id().as_str(),
        // A claim of the app replaces it.
        phone: permit.phone().filter(|_| !permit.claims().contains_key("phone")),
        more: permit.claims(),
    };
    // Zendesk takes the secret as it is shown: its characters are the key, nothing is decoded.
    let token = sign(secret, &Header::new(Algorithm::HS256), &claims).map_err(MintError::Sign)?;
    if token.len() > MAX_TOKEN_BYTES { Err(MintError::TooLong(token.len())) } else { Ok(Token(token)) }
}

/// Signs with the bytes of the secret. An empty secret is an error.
fn sign(
    secret: &Secret,
    header: &Header,
    claims: &impl Serialize,
) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.expose().as_bytes())?)
}

/// Refuses claims that make a token too long for Zendesk, before the decision allows the sign-in.
pub(crate) fn require_short(permit: &Permit) -> Result<(), MintError> {
    let stand_in = Secret::new("only for the length");
    mint(&stand_in, permit, u64::from(u32::MAX), &"0".repeat(32)).map(|_| ())
}

/// Lifetime of a messaging token. The script requests another one after it.
pub(crate) const MESSAGING_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

#[derive(Serialize)]
struct MessagingClaims<'a> {
    scope: &'static str,
    external_id: &'a str,
    name: &'a str,
    email: &'a str,
    email_verified: bool,
    exp: u64,
}

/// Mints a token that identifies a member to Zendesk messaging. It has its own key, named by `kid`, and no claims of
/// the app.
pub(crate) fn mint_for_messaging(
    messaging: &Messaging,
    permit: &Permit,
    now: u64,
) -> Result<Token, MintError> {
    let claims = MessagingClaims {
        scope: "user",
        external_id: permit.id().as_str(),
        name: permit.name(),
        email: permit.email(),
        email_verified: true,
        exp: now + MESSAGING_TOKEN_LIFETIME.as_secs(),
    };
    let header = Header { kid: Some(messaging.key_id.clone()), ..Header::new(Algorithm::HS256) };
    sign(&messaging.secret, &header, &claims).map(Token).map_err(MintError::Sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sso::policy::test_permit;
    use serde_json::json;

    fn parts(phone: Option<&str>) -> Vec<Value> {
        use base64::Engine;
        let token = mint(&Secret::new("secret"), &test_permit(phone), 1_700_000_000, "0123").ok().unwrap();
        let decode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        token.expose().split('.').take(2).map(|part| serde_json::from_slice(&decode(part)).unwrap()).collect()
    }

    #[test]
    fn the_header_has_typ_and_alg_and_nothing_else() {
        assert_eq!(parts(None)[0], json!({"typ": "JWT", "alg": "HS256"}));
    }

    #[test]
    fn the_claims_are_those_of_single_sign_on_and_phone_only_if_there_is_one() {
        let mut claims = json!({"iat": 1_700_000_000, "jti": "0123", "email": "ann@example.org", "name": "Ann Müller",
            "external_id": "104019"});
        assert_eq!(parts(None)[1], claims);
        claims["phone"] = json!("+15124741234");
        assert_eq!(parts(Some("+15124741234"))[1], claims);
    }
}
