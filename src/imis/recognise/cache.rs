//! Who a session belongs to, remembered for a moment: for ten tabs that open at once, and for whoever clicks again.
//!
//! Entries are found by a keyed hash of all session cookies of a request, under a key that lives as long as the process; no cookie
//! is kept. Those who ask at the same time share one answer. What a sign-out has passed is forgotten, also when it was on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::session_cookie::SessionCookies;
use super::{Identity, RecogniseError};
use crate::ambient;

/// No more sessions than these are remembered, and no more sign-outs.
const MOST_ENTRIES: u64 = 10_000;
/// How long it is remembered that a session is nobody's.
const NOBODY: Duration = Duration::from_secs(5);
/// Longer than an answer can be on its way.
const SIGN_OUT: Duration = Duration::from_secs(60);

type Key = [u8; 32];

/// See the module.
pub(super) struct Identities {
    key: hmac::Key,
    known: Cache<Key, Arc<Known>>,
    signed_out: Cache<Key, Instant>,
}

/// What iMIS has answered.
pub(super) struct Known {
    identity: Option<Identity>,
    /// When iMIS was asked.
    asked: Instant,
}

/// How an answer was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// iMIS was asked.
    Asked,
    /// It had been asked before, or somebody else was asking.
    Remembered,
}

/// How long each answer is remembered.
struct Lifetimes {
    somebody: Duration,
}

impl Expiry<Key, Arc<Known>> for Lifetimes {
    fn expire_after_create(&self, _: &Key, known: &Arc<Known>, _: Instant) -> Option<Duration> {
        Some(match &known.identity {
            None => NOBODY.min(self.somebody),
            // A profile is read anew for each token, and who acts for another may stop at any moment.
            Some(identity) if identity.row.is_some() || identity.on_behalf_of.is_some() => Duration::ZERO,
            Some(_) => self.somebody,
        })
    }
}

impl Identities {
    /// `lifetime`: how long somebody's identity is remembered; zero is not at all.
    pub(super) fn new(lifetime: Duration) -> Result<Self, getrandom::Error> {
        let key = ambient::random_hex()? + &ambient::random_hex()?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()),
            known: Cache::builder()
                .max_capacity(MOST_ENTRIES)
                .expire_after(Lifetimes { somebody: lifetime })
                .build(),
            // The newest are those that matter.
            signed_out: Cache::builder()
                .max_capacity(MOST_ENTRIES)
                .time_to_live(SIGN_OUT)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        })
    }

    /// Each name and value is preceded by its length, so that no two sets of cookies look the same.
    fn key_of(&self, cookies: &SessionCookies) -> Key {
        let mut context = hmac::Context::with_key(&self.key);
        for (name, value) in cookies.iter() {
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

    /// Who a session belongs to: remembered, or what `ask` finds out.
    pub(super) async fn identity<F>(
        &self,
        cookies: &SessionCookies,
        ask: impl Fn() -> F,
    ) -> Result<(Option<Identity>, Source), RecogniseError>
    where
        F: Future<Output = Result<Option<Identity>, RecogniseError>>,
    {
        if cookies.is_empty() {
            // Nothing that tells one visitor from another.
            return Ok((ask().await?, Source::Asked));
        }
        let key = self.key_of(cookies);
        let mut source = Source::Remembered;
        let known = self.known.try_get_with(key, async {
            source = Source::Asked;
            let asked = Instant::now();
            Ok::<_, RecogniseError>(Arc::new(Known { identity: ask().await?, asked }))
        });
        let known = known.await.map_err(RecogniseError::Shared)?;
        let gone = self.signed_out.get(&key).await.is_some_and(|signed_out| known.asked <= signed_out);
        if !gone {
            return Ok((known.identity.clone(), source));
        }
        // It was on its way when the sign-out passed.
        self.known.invalidate(&key).await;
        Ok((ask().await?, Source::Asked))
    }

    /// A sign-out of this session has passed.
    pub(super) async fn forget(&self, cookies: &SessionCookies) {
        if cookies.is_empty() {
            return;
        }
        let key = self.key_of(cookies);
        self.signed_out.insert(key, Instant::now()).await;
        self.known.invalidate(&key).await;
    }

    /// How many sessions are remembered, about.
    pub(super) fn entries(&self) -> u64 {
        self.known.entry_count()
    }
}
