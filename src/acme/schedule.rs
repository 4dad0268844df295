//! When to order: renewal as the CA advises (RFC 9773) or by the validity period, and waits between two orders.

use std::time::Duration;

use instant_acme::RenewalInfo;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::base::x509;

/// Seconds to wait after the first failure, the second, and so on. Let's Encrypt allows five failures an hour.
const WAITS: [u64; 5] = [60, 300, 900, 3600, 6 * 3600];
/// The least time between two orders, in seconds, even when an operator reloads; and after more than three failures.
const MIN_INTERVAL: u64 = 60;
const MIN_INTERVAL_AFTER_FAILURES: u64 = 900;
/// Seconds between two certificates, whatever the CA advises; at most a quarter of their life.
const SUCCESS_INTERVAL: u64 = 3600;
/// Limits of the time after which the CA wants to be asked about renewal again, and that time when it gave no advice.
const MIN_ADVICE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_ADVICE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
const NO_ADVICE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// The waits between two orders of one certificate.
#[derive(Default)]
pub(super) struct Backoff {
    failures: usize,
    /// A reload ends this wait,
    retry_at: Option<Instant>,
    /// but not this one.
    blocked_until: Option<Instant>,
}

impl Backoff {
    /// Returns the wait after a failed order, which is at least the CA's `retry_after`.
    pub(super) fn failed(&mut self, retry_after: Duration) -> Duration {
        let wait = Duration::from_secs(WAITS[self.failures.min(WAITS.len() - 1)]);
        self.failures += 1;
        let min = if self.failures > 3 { MIN_INTERVAL_AFTER_FAILURES } else { MIN_INTERVAL };
        let min = Duration::from_secs(min).max(retry_after);
        (self.retry_at, self.blocked_until) = (Some(Instant::now() + wait), Some(Instant::now() + min));
        wait.max(min)
    }

    /// `lifetime`: seconds that the new certificate is valid.
    pub(super) fn succeeded(&mut self, lifetime: i64) {
        let wait = u64::try_from(lifetime / 4).unwrap_or(0).min(SUCCESS_INTERVAL);
        self.failures = 0;
        self.retry_at = Some(Instant::now() + Duration::from_secs(wait));
        self.blocked_until = Some(Instant::now() + Duration::from_secs(MIN_INTERVAL));
    }

    pub(super) fn reset_failures(&mut self) {
        self.failures = 0;
    }

    /// An operator may have fixed the cause of the last failure.
    pub(super) fn end_wait(&mut self) {
        self.retry_at = self.retry_at.filter(|_| self.failures == 0);
    }

    /// The time until an order is allowed. A host that the last certificate lacks need not wait after a success.
    pub(super) fn left(&self, lacks_host: bool) -> Duration {
        let retry_at = self.retry_at.filter(|_| self.failures > 0 || !lacks_host);
        let until = retry_at.max(self.blocked_until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

/// When a certificate is due for renewal. Times in seconds since 1970.
#[derive(Clone, Copy)]
pub(super) struct Renewal {
    pub(super) at: i64,
    /// Not later than this, whatever the CA advises.
    latest: i64,
    /// Chooses a time within an advised window, so that not all clients come at once.
    random: u32,
    advice_due: Instant,
}

impl Renewal {
    /// After two thirds of the validity period, until the CA advises something else.
    pub(super) fn of(leaf: &CertificateDer<'_>) -> Self {
        let (from, until) = x509::validity(leaf).unwrap_or_default();
        // The end of the signature.
        let random = leaf.last_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let (at, latest) = (from + (until - from) / 3 * 2, from + (until - from) / 6 * 5);
        Self { at, latest, random, advice_due: Instant::now() }
    }

    /// The time until the renewal or the next question about it; none when it is due.
    pub(super) fn left(self, now: i64) -> Option<Duration> {
        let left = u64::try_from(self.at - now).ok().filter(|left| *left > 0)?;
        Some(Duration::from_secs(left).min(self.advice_due.saturating_duration_since(Instant::now())))
    }

    pub(super) fn wants_advice(self, now: i64) -> bool {
        self.at > now && self.advice_due <= Instant::now()
    }

    /// Takes the CA's advice, if it gives any, until it is asked again.
    pub(super) fn advise(&mut self, advice: Option<&(RenewalInfo, Duration)>) {
        let again_in = advice.map_or(NO_ADVICE_INTERVAL, |(_, again_in)| *again_in);
        self.advice_due = Instant::now() + again_in.clamp(MIN_ADVICE_INTERVAL, MAX_ADVICE_INTERVAL);
        let Some((RenewalInfo { suggested_window: window, .. }, _)) = advice else { return };
        let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
        // RFC 9773 section 4.2: a window that ends before it begins does not count.
        if let Some(moment) = i64::from(self.random).checked_rem(end - start).filter(|_| end > start) {
            self.at = (start + moment).min(self.latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::clock;

    #[tokio::test(start_paused = true)]
    async fn a_reload_shortens_waits_but_not_those_that_the_ca_wants() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.left(false).as_secs(), 0);
        for (failure, (wait, after_reload)) in
            [(60, 60), (300, 60), (900, 60), (3600, 900), (21_600, 900), (21_600, 900)]
                .into_iter()
                .enumerate()
        {
            assert_eq!(backoff.failed(Duration::ZERO).as_secs(), wait, "{failure}");
            assert_eq!(backoff.left(false).as_secs(), wait, "{failure}");
            assert_eq!(backoff.left(true).as_secs(), wait, "{failure}, although a host is missing");
            backoff.end_wait();
            assert_eq!(backoff.left(false).as_secs(), after_reload, "{failure}, after a reload");
        }
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(Duration::from_secs(3600)).as_secs(), 3600);
        backoff.end_wait();
        assert_eq!(backoff.left(false).as_secs(), 3600, "the CA was asked too often");
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_followed_by_a_wait_except_for_a_missing_host() {
        let mut backoff = Backoff::default();
        backoff.failed(Duration::ZERO);
        backoff.succeeded(90 * 24 * 3600);
        backoff.end_wait();
        assert_eq!((backoff.left(false).as_secs(), backoff.left(true).as_secs()), (3600, 60));
        backoff.succeeded(1000);
        assert_eq!(backoff.left(false).as_secs(), 250, "short-lived");
    }

    #[tokio::test]
    async fn without_advice_a_certificate_is_due_after_two_thirds_of_its_life() {
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 4, 1));
        let leaf = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let renewal = Renewal::of(leaf.der());
        let shown = [renewal.at, renewal.latest].map(clock::rfc_3339_of);
        assert_eq!(shown, ["2026-03-02T00:00:00Z", "2026-03-17T00:00:00Z"]);
    }

    fn advise(renewal: &mut Renewal, (start, end): (i64, i64), again_in: u64) {
        let window = json!({"start": clock::rfc_3339_of(start), "end": clock::rfc_3339_of(end)});
        let info = serde_json::from_value(json!({"suggestedWindow": window})).unwrap();
        renewal.advise(Some(&(info, Duration::from_secs(again_in))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_due_within_the_advised_window_but_not_after_five_sixths_of_its_life() {
        for random in [0, 1, 12_345, u32::MAX] {
            let mut renewal = Renewal { at: 60, latest: 75, random, advice_due: Instant::now() };
            assert!(renewal.wants_advice(59) && !renewal.wants_advice(60), "not about one that is due");
            assert!(renewal.left(59).is_some() && renewal.left(60).is_none() && renewal.left(61).is_none());
            advise(&mut renewal, (20, 30), 0);
            let first = renewal.at;
            assert!((20..30).contains(&first) && !renewal.wants_advice(0));
            advise(&mut renewal, (20, 30), 0);
            assert_eq!(renewal.at, first, "the same window, the same time");
            for none in [(40, 30), (40, 40)] {
                advise(&mut renewal, none, 0);
                assert_eq!(renewal.at, first, "no window");
            }
            advise(&mut renewal, (1000, 2000), 0);
            assert_eq!(renewal.at, 75);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_ca_is_asked_again_as_it_wishes_within_limits() {
        let mut renewal =
            Renewal { at: 10_000_000, latest: 10_000_000, random: 0, advice_due: Instant::now() };
        for (wish, asked_after) in [(0, 60), (600, 600), (u64::MAX, 24 * 3600)] {
            advise(&mut renewal, (10_000_000, 20_000_000), wish);
            assert_eq!(renewal.left(0).unwrap().as_secs(), asked_after);
        }
        renewal.advise(None);
        assert_eq!(renewal.left(0).unwrap().as_secs(), 6 * 3600);
    }
}
