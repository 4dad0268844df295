//! Tokens, verified by those who did not mint them: PyJWT, ruby-jwt, and the simulator's own code.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::{Stage, skip};

/// The claims of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

const PYTHON: &str = r#"
import json, sys, jwt
secret, token = sys.stdin.read().split("\n")[:2]
header = jwt.get_unverified_header(token)
assert header == {"typ": "JWT", "alg": "HS256"}, header
claims = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["iat", "jti"]})
try:
    jwt.decode(token, secret + "x", algorithms=["HS256"])
    raise SystemExit("accepted with another secret")
except jwt.InvalidSignatureError:
    pass
print(json.dumps(claims))
"#;

const RUBY: &str = r#"
require "jwt"
require "json"
secret, token = STDIN.read.split("\n")
claims, header = JWT.decode(token, secret, true, { algorithm: "HS256", verify_iat: true, verify_jti: true })
raise header.inspect unless header == { "typ" => "JWT", "alg" => "HS256" }
begin
  JWT.decode(token, secret + "x", true, { algorithm: "HS256" })
  raise "accepted with another secret"
rescue JWT::VerificationError
end
puts JSON.generate(claims)
"#;

/// Runs a verifier; `None` when it is not installed.
fn verified_by(
    program: &str,
    arguments: &[&str],
    probe: &[&str],
    secret: &str,
    token: &str,
) -> Option<Value> {
    let there = Command::new(program).args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        skip(&format!("{program} ({})", probe.join(" ")));
        return None;
    }
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Not as an argument: other users of the machine can read those.
    child.stdin.take().unwrap().write_all(format!("{secret}\n{token}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn independent_verifiers_accept_our_tokens() {
    let stage = Stage::new().await;
    let mut seen = std::collections::HashSet::new();
    for (username, id, name, phone) in [
        ("AMUELLER", "104019", "Ann Müller", Some("+15124741234")),
        ("boconnor", "104020", "Bob \"Bobby\" O'Connor <Jr.>", None),
    ] {
        let token = stage.sso("", &stage.cookie_of(username)).await.token().unwrap();
        let python = ["/usr/bin/python3", "python3"].into_iter().find(|program| {
            Command::new(program)
                .args(["-c", "import jwt"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        });
        let python = python.unwrap_or("python3");
        let by_python = verified_by(python, &["-c", PYTHON], &["-c", "import jwt"], &stage.secret, &token);
        let by_ruby = verified_by("ruby", &["-e", RUBY], &["-e", "require 'jwt'"], &stage.secret, &token);
        for claims in [by_python, by_ruby].into_iter().flatten().chain([claims(&token)]) {
            assert_eq!(claims["external_id"], id, "a string");
            assert_eq!(claims["name"], name);
            assert_eq!(claims["phone"].as_str(), phone);
            assert!(claims["iat"].is_u64());
            assert_eq!(claims["jti"].as_str().unwrap().len(), 32, "128 bits");
            assert_eq!(claims.as_object().unwrap().len(), 5 + usize::from(phone.is_some()), "nothing else");
        }
        assert!(seen.insert(claims(&token)["jti"].clone()));
    }
}

#[tokio::test]
async fn every_page_load_mints_a_token_of_its_own() {
    let stage = Stage::new().await;
    let cookie = stage.cookie_of("AMUELLER");
    let one = claims(&stage.sso("", &cookie).await.token().unwrap());
    let two = claims(&stage.sso("", &cookie).await.token().unwrap());
    assert_ne!(one["jti"], two["jti"]);
}
