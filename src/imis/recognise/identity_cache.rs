//! A short-lived cache of the persons whose sessions they are, so that ten tabs that open at once need one
//! request to iMIS.
//!
//! The key is a keyed hash of all session cookies of a request; cookies are not stored. Concurrent lookups
//! share one request. After a sign-out, sessions with one of its cookies are not cached until all requests of
//! that time have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::base::clock;
use crate::imis::identity::Identity;
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::session_cookie::SessionCookies;

/// Cached sessions.
const MAX_ENTRIES: u64 = 10_000;
/// Cookies of recent sign-outs.
const MAX_SIGNED_OUT: u64 = 100_000;
/// Lifetime of the result that nobody is signed in.
const ANONYMOUS_TTL: Duration = Duration::from_secs(5);
/// Lifetime for persons who could start to act on behalf of another contact.
const ON_BEHALF_TTL: Duration = Duration::from_secs(5);
/// Longer than a response takes plus the time it stays in the cache.
const SIGN_OUT_TTL: Duration = Duration::from_secs(120);

type Key = [u8; 32];

/// The identities of one site's sessions.
pub(super) struct IdentityCache {
    key: hmac::Key,
    known: Cache<Key, Option<Arc<Identity>>>,
    /// By single cookies.
    signed_out: Cache<Key, ()>,
}

/// Where an identity came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheResult {
    /// From iMIS.
    Miss,
    /// From the cache, or from another request's lookup.
    Hit,
}

/// Lifetimes of entries.
struct Lifetimes {
    signed_in: Duration,
}

impl Expiry<Key, Option<Arc<Identity>>> for Lifetimes {
    fn expire_after_create(&self, _: &Key, known: &Option<Arc<Identity>>, _: Instant) -> Option<Duration> {
        Some(match known {
            None => ANONYMOUS_TTL.min(self.signed_in),
            // Rows with a profile are read for each token, and acting on behalf of another can end at any time.
            Some(identity) if identity.row.is_some() || identity.on_behalf_of.is_some() => Duration::ZERO,
            Some(identity) if identity.sees_on_behalf => ON_BEHALF_TTL.min(self.signed_in),
            Some(_) => self.signed_in,
        })
    }
}

impl IdentityCache {
    /// `lifetime`: of the identity of a signed-in person. Zero disables the cache.
    pub(super) fn new(lifetime: Duration) -> Result<Self, getrandom::Error> {
        let key = clock::random_hex()? + &clock::random_hex()?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()),
            known: Cache::builder()
                .max_capacity(MAX_ENTRIES)
                .expire_after(Lifetimes { signed_in: lifetime })
                .build(),
            // The latest matter most.
            signed_out: Cache::builder()
                .max_capacity(MAX_SIGNED_OUT)
                .time_to_live(SIGN_OUT_TTL)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        })
    }

    /// Lengths are included so that no two sets of cookies have the same input.
    fn key_of<'a>(&self, cookies: impl Iterator<Item = (&'a str, &'a str)>) -> Key {
        let mut context = hmac::Context::with_key(&self.key);
        for (name, value) in cookies {
            for part in [name, value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part.as_bytes());
            }
        }
        let tag = context.sign();
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }

    fn is_signed_out(&self, cookies: &SessionCookies) -> bool {
        cookies.iter().any(|cookie| self.signed_out.contains_key(&self.key_of(std::iter::once(cookie))))
    }

    /// The person whose session it is, from the cache or from `ask`.
    pub(super) async fn identity<F>(
        &self,
        cookies: &SessionCookies,
        ask: impl Fn() -> F,
    ) -> Result<(Option<Identity>, CacheResult), RecogniseError>
    where
        F: Future<Output = Result<Option<Identity>, RecogniseError>>,
    {
        if cookies.is_empty() || self.is_signed_out(cookies) {
            // There is no key for the visitor, or the session was just signed out.
            return Ok((ask().await?, CacheResult::Miss));
        }
        let mut result = CacheResult::Hit;
        let known = self.known.try_get_with(self.key_of(cookies.iter()), async {
            result = CacheResult::Miss;
            Ok::<_, RecogniseError>(ask().await?.map(Arc::new))
        });
        let known = known.await.map_err(RecogniseError::Shared)?;
        if result == CacheResult::Hit && self.is_signed_out(cookies) {
            // It was signed out while we waited for another request's lookup.
            return Ok((ask().await?, CacheResult::Miss));
        }
        Ok((known.map(|identity| Identity::clone(&identity)), result))
    }

    /// Removes all sessions with any of these cookies, because it is not known which one iMIS uses.
    pub(super) async fn forget(&self, cookies: &SessionCookies) {
        for cookie in cookies.iter() {
            self.signed_out.insert(self.key_of(std::iter::once(cookie)), ()).await;
        }
    }

    /// The approximate number of entries.
    pub(super) fn entries(&self) -> u64 {
        self.known.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imis::identity::PartyId;

    #[test]
    fn nobody_and_members_who_may_act_for_others_are_cached_for_five_seconds() {
        let cached_for = |known: Option<Identity>, configured| {
            let lifetimes = Lifetimes { signed_in: Duration::from_secs(configured) };
            lifetimes
                .expire_after_create(&[0; 32], &known.map(Arc::new), Instant::now())
                .map(|it| it.as_secs())
        };
        let id = |text| PartyId::parse(text).unwrap();
        let member = || Identity::of(id("7"));
        let acting = || Identity { on_behalf_of: Some(id("8")), ..member() };
        for (configured, [nobody, signed_in, may_act]) in [(60, [5, 60, 5]), (2, [2, 2, 2]), (0, [0, 0, 0])] {
            assert_eq!(cached_for(None, configured), Some(nobody));
            assert_eq!(cached_for(Some(member()), configured), Some(signed_in));
            let sees = Identity { sees_on_behalf: true, ..member() };
            assert_eq!(cached_for(Some(sees), configured), Some(may_act));
            assert_eq!(cached_for(Some(acting()), configured), Some(0), "it may end at any moment");
        }
    }
}
