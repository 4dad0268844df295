//! Windows authentication: NTLM and Negotiate authenticate a TCP connection, not a request.
//!
//! Once one of them is requested or used, an upstream connection carries one person's identity. It serves only the
//! client connection that it was opened for, closes with it, and never returns to the pool.

/// Whether a request authenticates its connection.
pub(crate) fn used_by<'a>(mut request: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
    request.any(|(name, value)| name.eq_ignore_ascii_case("authorization") && names_windows_scheme(value))
}

/// Whether a response requests this.
pub(crate) fn asked_for_by<'a>(mut response: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
    response.any(|(name, value)| name.eq_ignore_ascii_case("www-authenticate") && names_windows_scheme(value))
}

fn names_windows_scheme(challenges: &[u8]) -> bool {
    challenges.split(|byte| *byte == b',').any(|challenge| {
        let challenge = challenge.trim_ascii();
        // Any character that cannot be part of a token ends the scheme.
        let token =
            challenge.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
        let scheme = &challenge[..token];
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemes_are_found_in_any_case_and_position() {
        let asks = |line: &str| asked_for_by([("WWW-Authenticate", line.as_bytes())].into_iter());
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
        let uses = |line: &'static [u8]| used_by([("authorization", line)].into_iter());
        assert!(uses(b"NTLM TlRMTVNTUAAB"));
        assert!(!uses(b"Basic eDp5"));
    }
}
