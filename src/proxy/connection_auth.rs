//! Windows authentication: NTLM and Negotiate sign a TCP connection in, not a request.
//!
//! Once they are asked for or used, an upstream connection carries one person's identity. It serves the client
//! connection it was opened for, alone, and is closed with it; it never goes back to the pool.

/// Whether a request signs its connection in.
pub(crate) fn used_by<'a>(mut request: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
    request.any(|(name, value)| name.eq_ignore_ascii_case("authorization") && names_windows_scheme(value))
}

/// Whether a response asks for that.
pub(crate) fn asked_for_by<'a>(mut response: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
    response.any(|(name, value)| name.eq_ignore_ascii_case("www-authenticate") && names_windows_scheme(value))
}

fn names_windows_scheme(challenges: &[u8]) -> bool {
    challenges.split(|byte| *byte == b',').any(|challenge| {
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

    #[test]
    fn the_schemes_are_told_in_any_case_and_place() {
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
