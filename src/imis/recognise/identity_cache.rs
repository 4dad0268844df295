//! Who a session belongs to, remembered for a moment: for ten tabs that open at once, and for whoever clicks again.
//!
//! Entries are found by a keyed hash of all session cookies of a request, under a key that lives as long as the process; no cookie
//! is kept. Those who ask at the same time share one answer. Once a sign-out has passed, nothing is remembered of any session
//! that one of its cookies belongs to, until everything that could have been on its way at that moment has been forgotten.

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

/// No more sessions than these are remembered.
const MAX_ENTRIES: u64 = 10_000;
/// No more cookies of sign-outs than these.
const MAX_SIGNED_OUT: u64 = 100_000;
/// How long it is remembered that a session is nobody's.
const ANONYMOUS_TTL: Duration = Duration::from_secs(5);
/// How long somebody is remembered who could begin to act for another contact at any moment.
const ON_BEHALF_TTL: Duration = Duration::from_secs(5);
/// Longer than an answer can be on its way and then be remembered.
const SIGN_OUT_TTL: Duration = Duration::from_secs(120);

type Key = [u8; 32];

/// See the module.
pub(super) struct IdentityCache {
    key: hmac::Key,
    known: Cache<Key, Option<Arc<Identity>>>,
    /// By single cookies.
    signed_out: Cache<Key, ()>,
}

/// How an answer was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheResult {
    /// iMIS was asked.
    Miss,
    /// It had been asked before, or somebody else was asking.
    Hit,
}

/// How long each answer is remembered.
struct Lifetimes {
    somebody: Duration,
}

impl Expiry<Key, Option<Arc<Identity>>> for Lifetimes {
    fn expire_after_create(&self, _: &Key, known: &Option<Arc<Identity>>, _: Instant) -> Option<Duration> {
        Some(match known {
            None => ANONYMOUS_TTL.min(self.somebody),
            // A profile is read anew for each token, and who acts for another may stop at any moment.
            Some(identity) if identity.row.is_some() || identity.on_behalf_of.is_some() => Duration::ZERO,
            Some(identity) if identity.sees_on_behalf => ON_BEHALF_TTL.min(self.somebody),
            Some(_) => self.somebody,
        })
    }
}

impl IdentityCache {
    /// `lifetime`: how long somebody's identity is remembered; zero is not at all.
    pub(super) fn new(lifetime: Duration) -> Result<Self, getrandom::Error> {
        let key = clock::random_hex()? + &clock::random_hex()?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()),
            known: Cache::builder()
                .max_capacity(MAX_ENTRIES)
                .expire_after(Lifetimes { somebody: lifetime })
                .build(),
            // The newest are those that matter.
            signed_out: Cache::builder()
                .max_capacity(MAX_SIGNED_OUT)
                .time_to_live(SIGN_OUT_TTL)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        })
    }

    /// Each name and value is preceded by its length, so that no two sets of cookies look the same.
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

    /// Who a session belongs to: remembered, or what `ask` finds out.
    pub(super) async fn identity<F>(
        &self,
        cookies: &SessionCookies,
        ask: impl Fn() -> F,
    ) -> Result<(Option<Identity>, CacheResult), RecogniseError>
    where
        F: Future<Output = Result<Option<Identity>, RecogniseError>>,
    {
        if cookies.is_empty() || self.is_signed_out(cookies) {
            // Nothing that tells one visitor from another, or nothing that could be relied upon.
            return Ok((ask().await?, CacheResult::Miss));
        }
        let mut result = CacheResult::Hit;
        let known = self.known.try_get_with(self.key_of(cookies.iter()), async {
            result = CacheResult::Miss;
            Ok::<_, RecogniseError>(ask().await?.map(Arc::new))
        });
        let known = known.await.map_err(RecogniseError::Shared)?;
        if result == CacheResult::Hit && self.is_signed_out(cookies) {
            // It has passed while we waited for somebody else's answer.
            return Ok((ask().await?, CacheResult::Miss));
        }
        Ok((known.map(|identity| Identity::clone(&identity)), result))
    }

    /// A sign-out of the sessions of these cookies has passed, each of them for itself: which one iMIS goes by is its own affair.
    pub(super) async fn forget(&self, cookies: &SessionCookies) {
        for cookie in cookies.iter() {
            self.signed_out.insert(self.key_of(std::iter::once(cookie)), ()).await;
        }
    }

    /// How many sessions are remembered, about.
    pub(super) fn entries(&self) -> u64 {
        self.known.entry_count()
    }
}
