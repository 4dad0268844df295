//! The only place that reads the system clock and random numbers. Decisions take both as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
#[cfg(feature = "otel")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Seconds since 1970-01-01 UTC. Zero if the clock is before that.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Seconds since 1970-01-01 UTC, signed as in certificates and cookies.
pub(crate) fn unix_now_signed() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

/// The current time in UTC with milliseconds, in the format of RFC 3339.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
pub(crate) fn rfc_3339() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A time in UTC in the format of RFC 3339. `seconds`: since 1970.
pub(crate) fn rfc_3339_of(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The current date in UTC, `YYYY-MM-DD`.
pub(crate) fn today() -> String {
    let now = jiff::Timestamp::from_second(unix_now_signed()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.strftime("%Y-%m-%d").to_string()
}

/// The current time in the format of a `Date` header (RFC 9110 section 5.6.7).
#[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
pub(crate) fn http_date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

#[expect(clippy::disallowed_methods, reason = "the one home of randomness")]
fn random_bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// 128 random bits as 32 hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, getrandom::Error> {
    Ok(format!("{:032x}", u128::from_be_bytes(random_bytes()?)))
}

/// 96 random bits, for a nonce.
pub(crate) fn random_nonce() -> Result<[u8; 12], getrandom::Error> {
    random_bytes()
}

/// 64 random bits.
pub(crate) fn random_u64() -> Result<u64, getrandom::Error> {
    random_bytes().map(u64::from_be_bytes)
}
