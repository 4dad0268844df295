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
    what: What,
}

enum What {
    Answer { token: String, answer: String },
    Certificate { host: String, certificate: Arc<CertifiedKey> },
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
        let what = What::Answer { token: token.to_owned(), answer: answer.to_owned() };
        Stand { challenges: self.clone(), what }
    }

    pub(super) fn stand_certificate(self: &Arc<Self>, host: &str, certificate: CertifiedKey) -> Stand {
        let mut standing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let certificate = Arc::new(certificate);
        standing.certificates.insert(host.to_owned(), certificate.clone());
        Stand { challenges: self.clone(), what: What::Certificate { host: host.to_owned(), certificate } }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let mut standing = self.challenges.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have taken its place, for another order.
        match &self.what {
            What::Answer { token, answer } => {
                if standing.answers.get(token) == Some(answer) {
                    standing.answers.remove(token);
                }
            }
            What::Certificate { host, certificate } => {
                if standing.certificates.get(host).is_some_and(|stands| Arc::ptr_eq(stands, certificate)) {
                    standing.certificates.remove(host);
                }
            }
        }
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
        let next = challenges.stand_answer("token", "token.other");
        drop(stand);
        assert_eq!(challenges.answer("token").unwrap(), "token.other", "another's by now");
        drop(next);
        assert!(challenges.answer("token").is_none());
    }
}
