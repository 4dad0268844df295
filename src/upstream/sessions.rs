//! The learned servers of iMIS sessions, by a keyed hash of the cookie, and the values of the gateway's affinity
//! cookie.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use moka::sync::Cache;

use crate::base::clock;
use crate::base::hex::hex;
use crate::config::{Secret, Server, fingerprint};

/// The maximum number of learned sessions.
const MAX_SESSIONS: u64 = 100_000;
/// How long an unused session is remembered. Sessions of iMIS last twenty minutes.
const SESSION_IDLE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

pub(crate) struct Sessions {
    key: hmac::Key,
    servers: Cache<[u8; 32], Arc<Server>>,
}

impl Sessions {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let own = clock::random_hex()? + &clock::random_hex()?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, own.as_bytes()),
            servers: Cache::builder().max_capacity(MAX_SESSIONS).time_to_idle(SESSION_IDLE_TIMEOUT).build(),
        })
    }

    pub(crate) fn server_of(&self, cookie: &[u8; 32]) -> Option<Arc<Server>> {
        self.servers.get(cookie)
    }

    pub(crate) fn remember(&self, cookie: [u8; 32], server: &Arc<Server>) {
        self.servers.insert(cookie, server.clone());
    }

    pub(crate) fn hash(&self, name: &[u8], value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&name.to_ascii_lowercase());
        context.update(b"=");
        context.update(value);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

/// The values of the affinity cookie for a server, one per key.
pub(crate) fn cookie_values(server: &Server, keys: &[&Secret]) -> Vec<String> {
    if keys.is_empty() {
        return vec![fingerprint(&server.to_string())];
    }
    let value = |key: &&Secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
        let tag = hmac::sign(&key, format!("server\n{server}").as_bytes());
        hex(&tag.as_ref()[..8])
    };
    keys.iter().map(value).collect()
}
