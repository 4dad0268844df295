//! What a CA finds when it looks whether a host is ours: an answer on port 80, or a certificate of a special kind on port 443. Each stands
//! there for as long as it is asked for.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::sign::CertifiedKey;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Challenges(RwLock<Standing>);

#[derive(Debug, Default)]
struct Standing {
    /// Key authorizations by their tokens (RFC 8555 section 8.1).
    answers: HashMap<String, String>,
    /// Certificates by host (RFC 8737 section 3).
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

/// One of them; gone when dropped.
#[must_use]
pub(super) struct Stand {
    challenges: Arc<Challenges>,
    key: String,
}

impl Challenges {
    /// What is to be said about a token.
    pub(crate) fn answer(&self, token: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).answers.get(token).cloned()
    }

    /// What a CA is to be shown for a host.
    pub(crate) fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).certificates.get(host).cloned()
    }

    pub(super) fn stand_answer(self: &Arc<Self>, token: &str, answer: &str) -> Stand {
        let mut standing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        standing.answers.insert(token.to_owned(), answer.to_owned());
        Stand { challenges: self.clone(), key: token.to_owned() }
    }

    pub(super) fn stand_certificate(self: &Arc<Self>, host: &str, certificate: CertifiedKey) -> Stand {
        let mut standing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        standing.certificates.insert(host.to_owned(), Arc::new(certificate));
        Stand { challenges: self.clone(), key: host.to_owned() }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let mut standing = self.challenges.0.write().unwrap_or_else(PoisonError::into_inner);
        standing.answers.remove(&self.key);
        standing.certificates.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_stands_only_as_long_as_it_is_held() {
        let challenges = Arc::new(Challenges::default());
        let stand = challenges.stand_answer("token", "token.thumb");
        assert_eq!(challenges.answer("token").unwrap(), "token.thumb");
        assert!(challenges.answer("other").is_none() && challenges.answer("").is_none());
        drop(stand);
        assert!(challenges.answer("token").is_none());
    }
}
