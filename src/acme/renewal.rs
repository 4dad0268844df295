//! When a certificate is asked for again: as the CA advises (RFC 9773), else after two thirds of its time.

use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Error};
use rustls_pki_types::CertificateDer;

use crate::base::clock;
use crate::base::x509;

/// How often the CA is asked for its advice: as it wishes, within these.
const LEAST_PAUSE: Duration = Duration::from_secs(60);
const MOST_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Where it gives none.
const PAUSE: Duration = Duration::from_secs(6 * 3600);

/// What is known about the renewal of one certificate. Moments in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewal {
    /// When it is to be asked for.
    pub(super) at: i64,
    /// When the CA is to be asked again what it advises.
    pub(super) ask_at: i64,
    window: Option<(i64, i64)>,
    /// Whatever the CA advises, not later than this.
    latest: i64,
}

impl Renewal {
    /// From the time of the certificate alone.
    pub(super) fn of(leaf: &CertificateDer<'_>, now: i64) -> Self {
        // Nobody's browsers take one whose time cannot be told.
        let (at, latest) = x509::validity(leaf)
            .map_or((now, now), |(from, until)| (two_thirds(from, until), five_sixths(from, until)));
        Self { at, ask_at: now, window: None, latest }
    }

    /// Whether the CA is to be asked for its advice. A clock that was ahead has set a time that will not come.
    pub(super) fn is_to_be_asked(self, now: i64) -> bool {
        self.ask_at <= now || self.ask_at > now + seconds(MOST_PAUSE)
    }

    /// With what the CA advises now, and where it says why when that is news. Within the same window it stays with its moment.
    pub(super) async fn advised(
        self,
        account: &Account,
        leaf: &CertificateDer<'_>,
        now: i64,
    ) -> Result<(Self, Option<String>), Error> {
        let later = |pause: Duration| now + seconds(pause);
        let Ok(id) = CertificateIdentifier::try_from(leaf) else {
            return Ok((Self { ask_at: later(MOST_PAUSE), ..self }, None));
        };
        match account.renewal_info(&id).await {
            Ok((info, pause)) => {
                let window = (
                    info.suggested_window.start.unix_timestamp(),
                    info.suggested_window.end.unix_timestamp(),
                );
                let ask_at = later(pause.clamp(LEAST_PAUSE, MOST_PAUSE));
                // RFC 9773 section 4.2: such a window is none.
                if window.1 <= window.0 {
                    return Ok((Self { ask_at, ..self }, None));
                }
                if self.window == Some(window) {
                    return Ok((Self { ask_at, ..self }, None));
                }
                let at = within(window).min(self.latest);
                Ok((Self { at, ask_at, window: Some(window), ..self }, info.explanation_url))
            }
            Err(Error::Unsupported(_)) => Ok((Self { ask_at: later(MOST_PAUSE), ..self }, None)),
            Err(error) => Err(error),
        }
    }

    /// The CA did not answer.
    pub(super) fn unadvised(self, now: i64) -> Self {
        Self { ask_at: now + seconds(PAUSE), ..self }
    }
}

fn two_thirds(from: i64, until: i64) -> i64 {
    from + (until - from) / 3 * 2
}

fn five_sixths(from: i64, until: i64) -> i64 {
    from + (until - from) / 6 * 5
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Some moment of a window, so that not everybody comes at once.
fn within((start, end): (i64, i64)) -> i64 {
    let length = u64::try_from(end.saturating_sub(start)).unwrap_or(0);
    let random = clock::random_u64().unwrap_or(0);
    start + i64::try_from(random.checked_rem(length).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_advice_it_is_two_thirds_of_its_time() {
        assert_eq!(two_thirds(0, 90), 60);
        assert_eq!(two_thirds(1_000, 1_006), 1_004);
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_put_questions_off() {
        let renewal = Renewal { at: 0, ask_at: 1_000_000, window: None, latest: 0 };
        assert!(renewal.is_to_be_asked(1_000_000) && !renewal.is_to_be_asked(990_000));
        assert!(renewal.is_to_be_asked(1_000), "it was set in a time that never was");
    }

    #[test]
    fn a_moment_is_within_its_window() {
        for _ in 0..100 {
            assert!((100..200).contains(&within((100, 200))));
        }
    }
}
