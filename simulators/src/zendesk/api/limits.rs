//! Limits of the account, and the protection in front of it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Reply;
use crate::server::{self, html, with};

/// How the protection in front of the account says 429: with a page instead of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Without `Retry-After`.
    Html,
    /// With `Retry-After` as an HTTP date, this many seconds from now.
    HtmlWithDate(i64),
}

/// Limits, which can change at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// API requests a minute of the account.
    pub requests_per_minute: u32,
    /// The time between two writes to single users of the account: a second at Zendesk.
    pub between_updates: Option<Duration>,
    /// This many writes to one user in this time: five in a minute at Zendesk.
    pub updates_of_user: Option<(u32, Duration)>,
    /// Each n-th request is stopped before the account sees it.
    pub edge: Option<(Edge, u32)>,
    /// A token is rejected after this many requests.
    pub requests_per_token: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_minute: 700,
            between_updates: None,
            updates_of_user: None,
            edge: None,
            requests_per_token: None,
        }
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) limits: Limits,
    /// (minute, requests in it).
    window: (i64, u32),
    /// All requests, for the protection in front.
    seen: u32,
    last_update: Option<Instant>,
    updates: HashMap<u64, VecDeque<Instant>>,
    /// How often which limit has answered 429.
    pub(crate) refused: HashMap<&'static str, usize>,
}

impl Counters {
    /// The page of the protection, if it stops this request.
    pub(super) fn edge(&mut self, now: i64) -> Option<Reply> {
        let (edge, every) = self.limits.edge?;
        self.seen += 1;
        if !self.seen.is_multiple_of(every.max(1)) {
            return None;
        }
        *self.refused.entry("edge").or_default() += 1;
        let reply = html(429, "<html><head><title>Too many requests</title></head><body>1015</body></html>");
        Some(match edge {
            Edge::Html => reply,
            Edge::HtmlWithDate(seconds) => with(reply, "retry-after", &http_date(now + seconds)),
        })
    }

    /// Requests left in this minute and the limit, or the refusal.
    pub(super) fn count(&mut self, now: i64) -> Result<(u32, u32), Box<Reply>> {
        if self.window.0 != now / 60 {
            self.window = (now / 60, 0);
        }
        self.window.1 += 1;
        let limit = self.limits.requests_per_minute;
        match limit.checked_sub(self.window.1) {
            Some(left) => Ok((left, limit)),
            None => {
                let wait = (60 - now % 60).to_string();
                let reply =
                    self.too_many("account", "Number of allowed API requests per minute exceeded", &wait);
                let reply = with(reply, "ratelimit-limit", &limit.to_string());
                let reply = with(reply, "ratelimit-remaining", "0");
                Err(Box::new(with(reply, "ratelimit-reset", &wait)))
            }
        }
    }

    /// Counts a write to a single user; the refusal, if it comes too early.
    pub(super) fn update(&mut self, user: Option<u64>) -> Option<Reply> {
        let now = Instant::now();
        let since = |earlier: Instant| now.saturating_duration_since(earlier);
        if let (Some(between), Some(last)) = (self.limits.between_updates, self.last_update)
            && since(last) < between
        {
            let text = "Number of allowed user updates per second exceeded";
            return Some(self.too_many("update", text, &seconds(between - since(last))));
        }
        if let (Some((count, window)), Some(user)) = (self.limits.updates_of_user, user) {
            let own = self.updates.entry(user).or_default();
            while own.front().is_some_and(|earliest| since(*earliest) >= window) {
                own.pop_front();
            }
            if own.len() >= count as usize {
                let wait = own.front().map_or(window, |earliest| window - since(*earliest));
                let text = "Number of allowed updates of this user per minute exceeded";
                return Some(self.too_many("user", text, &seconds(wait)));
            }
            own.push_back(now);
        }
        self.last_update = Some(now);
        None
    }

    fn too_many(&mut self, limit: &'static str, text: &str, wait: &str) -> Reply {
        *self.refused.entry(limit).or_default() += 1;
        let reply = server::json(429, &json!({"error": "APIRateLimitExceeded", "description": text}));
        with(reply, "retry-after", wait)
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> String {
    (wait.as_millis().div_ceil(1000)).max(1).to_string()
}

/// The date of RFC 9110.
fn http_date(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let (weekday, month) = (time.weekday().to_string(), month.to_string());
    format!("{:.3}, {day:02} {:.3} {year:04} {hour:02}:{minute:02}:{second:02} GMT", weekday, month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_written_as_rfc_9110_has_it() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
