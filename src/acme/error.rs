//! Why a certificate order fails.

use std::path::PathBuf;
use std::time::Duration;

use instant_acme::Error;

/// After a rate limit of the CA.
const RATE_LIMITED_WAIT: Duration = Duration::from_secs(3600);
/// Characters; longer texts of a CA are cut off.
const MAX_TEXT: usize = 600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    #[error("{} cannot be {action}", .path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is not an ACME account; move it away to create a new account", .path.display())]
    AccountFile { path: PathBuf, source: serde_json::Error },
    #[error("the CA does not answer as expected: {0}")]
    Directory(String),
    #[error(transparent)]
    Ca(#[from] Error),
    #[error("the CA could not validate {host}: {reason}")]
    Validation { host: String, reason: String },
    #[error("the order or its certificate cannot be used: {0}")]
    Unusable(String),
    #[error("the CA took too long")]
    Timeout,
    #[error("a fault of the gateway")]
    Internal,
}

impl AcmeError {
    /// How long the CA does not want another order.
    pub(super) fn retry_after(&self) -> Duration {
        let Self::Ca(Error::Api(problem)) = self else { return Duration::ZERO };
        let is_rate_limit = problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:rateLimited");
        if is_rate_limit { RATE_LIMITED_WAIT } else { Duration::ZERO }
    }
}

/// The text of a CA as one line of limited length.
pub(super) fn one_line(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MAX_TEXT).chain(text.chars().nth(MAX_TEXT).map(|_| '…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_says_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\r\n\u{1b}[2Jb"), "a   [2Jb");
        assert_eq!(one_line(&"x".repeat(2_000)).chars().count(), MAX_TEXT + 1);
    }
}
