//! TLS session tickets that all gateways of a site accept (RFC 5077, RFC 8446 section 4.6.1). Each day a new key is
//! derived from a secret that the gateways share. Without such a secret each process has its own keys.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use rustls::server::ProducesTickets;

use crate::base::clock;

const SECONDS_A_DAY: u64 = 24 * 3600;
/// How long a session can be resumed. rustls uses the same value.
const LIFETIME_SECONDS: u32 = 12 * 3600;

/// Encrypts and decrypts tickets with keys from shared secrets.
pub(crate) struct Shared {
    /// The first one encrypts. All of them decrypt.
    secrets: Vec<Prk>,
}

impl Shared {
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a str>) -> Arc<Self> {
        let salt = Salt::new(HKDF_SHA256, b"imis-gateway session tickets");
        Arc::new(Self { secrets: secrets.map(|secret| salt.extract(secret.as_bytes())).collect() })
    }

    fn key(secret: &Prk, day: u64) -> Option<LessSafeKey> {
        let day = day.to_be_bytes();
        let key = UnboundKey::from(secret.expand(&[&day], &AES_256_GCM).ok()?);
        Some(LessSafeKey::new(key))
    }

    fn seal(&self, plain: &[u8], day: u64) -> Option<Vec<u8>> {
        let nonce = clock::random_nonce().ok()?;
        let mut sealed = plain.to_vec();
        let key = Self::key(self.secrets.first()?, day)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn open(&self, ticket: &[u8], day: u64) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        // Accepts the adjacent days: tickets outlive midnight, and clocks of machines differ.
        let days = [day, day.wrapping_sub(1), day + 1];
        self.secrets.iter().flat_map(|secret| days.map(|day| (secret, day))).find_map(|(secret, day)| {
            let mut bytes = sealed.to_vec();
            let key = Self::key(secret, day)?;
            let plain =
                key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut bytes).ok()?;
            Some(plain.to_vec())
        })
    }
}

impl ProducesTickets for Shared {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::unix_now() / SECONDS_A_DAY)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, clock::unix_now() / SECONDS_A_DAY)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// Random ticket keys for this process.
pub(crate) fn own() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(current: &str, next: Option<&str>) -> Arc<Shared> {
        Shared::new(std::iter::once(current).chain(next))
    }

    #[test]
    fn a_ticket_is_accepted_with_the_same_secret_for_a_day() {
        let (one, two) = (shared("a", None), shared("a", None));
        let ticket = one.seal(b"a session", 100).unwrap();
        assert_ne!(ticket, one.seal(b"a session", 100).unwrap());
        for (day, taken) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(two.open(&ticket, day).is_some(), taken, "{day}");
        }
        assert_eq!(two.open(&ticket, 100).unwrap(), b"a session");
        assert_eq!(shared("b", None).open(&ticket, 100), None);
        assert_eq!(shared("b", Some("a")).open(&ticket, 100).unwrap(), b"a session", "during a rotation");
        for at in [0, 11, 12, 20, ticket.len() - 1] {
            let mut modified = ticket.clone();
            modified[at] ^= 1;
            assert_eq!(two.open(&modified, 100), None);
        }
        assert_eq!(two.open(&ticket[..11], 100), None);
    }
}
