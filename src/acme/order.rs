//! One certificate: an order, the CA's look at each host, and what comes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;
use tracing::info;

use crate::acme::account::unknown_account;
use crate::acme::challenges::{Challenges, Stand};
use crate::acme::client;
use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::base::x509;
use crate::config::{Acme, Challenge};

/// How long the CA may take to look at the hosts, and then to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
/// How often a certificate is fetched that the CA has agreed to: at once, and after these, and whenever the CA is asked next.
const BETWEEN_TRIES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
const TRIES: usize = 8;
/// CAs forget orders.
const GRANTED_LASTS: Duration = Duration::from_secs(24 * 3600);
/// Seconds that a CA's clock may be ahead of ours.
const CLOCKS_DIFFER: i64 = 300;
/// Longer texts of a CA's are cut off in logs.
const MOST_TEXT: usize = 600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    #[error("{path} cannot be {what}")]
    Store { path: String, what: &'static str, source: std::io::Error },
    #[error("{path} is no account with a CA; move it away for a new one")]
    Account { path: String, source: serde_json::Error },
    #[error("the CA cannot be asked at {0}")]
    NoAnswer(String, #[source] client::NoAnswer),
    #[error("{}", said(.0))]
    Ca(instant_acme::Error),
    #[error("the CA does not offer {challenge} for {host}")]
    NotOffered { host: String, challenge: &'static str },
    #[error("the CA does not take {host} for ours: {why}")]
    NotOurs { host: String, why: String },
    #[error("the CA's answer to {host} is `{status}`")]
    Authorization { host: String, status: String },
    #[error("a key, or what is to be signed, cannot be made")]
    Making(#[from] rcgen::Error),
    #[error("a key for the challenge cannot be used")]
    Key(#[from] rustls::Error),
    #[error("what the CA gave is of no use: {0}")]
    Useless(String),
    #[error("the CA does not know the account in {path} any more; move it away for a new one")]
    NoAccount { path: String },
    #[error("it was not done within {0} s")]
    Late(u64),
}

impl AcmeError {
    /// Whether the same question may have a better answer in a while.
    fn may_pass(&self) -> bool {
        use instant_acme::Error::{Api, Json, Other, Str, Timeout};
        if let Self::Ca(Api(problem)) = self {
            return problem.status.is_some_and(|status| status >= 500)
                || ["rateLimited", "serverInternal", "badNonce"]
                    .iter()
                    .any(|kind| is_of_type(problem, kind));
        }
        matches!(self, Self::Ca(Other(_) | Timeout(_) | Str(_) | Json(_)) | Self::NoAnswer(..))
    }

    /// Whether the CA has said so.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Ca(instant_acme::Error::Api(_)) | Self::Useless(_))
    }

    /// Whether the CA has been asked too often.
    pub(super) fn is_about_how_often(&self) -> bool {
        matches!(self, Self::Ca(instant_acme::Error::Api(problem)) if is_of_type(problem, "rateLimited"))
    }
}

/// RFC 8555 section 6.7.
pub(super) fn is_of_type(problem: &instant_acme::Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|of| of.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

impl From<instant_acme::Error> for AcmeError {
    fn from(error: instant_acme::Error) -> Self {
        Self::Ca(error)
    }
}

/// What a CA says, as one line of bounded length: it is somebody else's text.
fn said(error: &instant_acme::Error) -> String {
    if let instant_acme::Error::Api(problem) = error {
        format!("the CA refuses: {}", clean(&problem.to_string()))
    } else if let instant_acme::Error::Timeout(_) = error {
        "the CA was not done in time".to_owned()
    } else {
        clean(&Chain(error).to_string())
    }
}

pub(super) fn clean(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_TEXT).collect();
    if text.chars().nth(MOST_TEXT).is_some() {
        line.push('…');
    }
    line
}

/// An order that the CA takes for ours: what is left is to fetch the certificate.
#[derive(Clone)]
pub(super) struct Granted {
    url: String,
    account: PathBuf,
    hosts: Vec<String>,
    key: String,
    at: Instant,
    tries: usize,
}

/// A new key and the CA's chain for it, as they are kept. What was `granted` and could not be fetched is left there, and fetched the next
/// time: CAs count the certificates that they give.
pub(super) async fn obtain(
    account: &Account,
    (acme, hosts): (&Acme, &[String]),
    replaced: Option<&CertificateDer<'_>>,
    (challenges, granted): (&Arc<Challenges>, &mut Option<Granted>),
) -> Result<String, AcmeError> {
    let of_before = granted.take().filter(|granted| {
        granted.hosts == hosts && granted.account == acme.account_file && granted.at.elapsed() < GRANTED_LASTS
    });
    let (mut order, granted_now) = match of_before {
        Some(before) => (None, before),
        None => {
            let order = authorized(account, (acme, hosts), replaced, challenges).await?;
            let key = KeyPair::generate()?.serialize_pem();
            let url = order.url().to_owned();
            let (account, hosts) = (acme.account_file.clone(), hosts.to_vec());
            (Some(order), Granted { url, account, hosts, key, at: Instant::now(), tries: 0 })
        }
    };
    // There for as long as nothing is known of it, should this be given up in the middle.
    let of_ours = granted.insert(granted_now);
    loop {
        of_ours.tries += 1;
        let asked = match order.take() {
            Some(order) => Ok(order),
            None => account.order(of_ours.url.clone()).await,
        };
        let fetched = match asked {
            Ok(order) => fetch(order, of_ours).await,
            Err(error) => Err(error.into()),
        };
        let again = fetched.as_ref().is_err_and(AcmeError::may_pass) && of_ours.tries < TRIES;
        if !again {
            *granted = None;
            return fetched;
        }
        let pause = BETWEEN_TRIES.get(of_ours.tries - 1);
        match pause.filter(|_| !fetched.as_ref().is_err_and(AcmeError::is_about_how_often)) {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return fetched,
        }
    }
}

/// An order whose hosts the CA takes for ours.
async fn authorized(
    account: &Account,
    (acme, hosts): (&Acme, &[String]),
    replaced: Option<&CertificateDer<'_>>,
    challenges: &Arc<Challenges>,
) -> Result<Order, AcmeError> {
    let mut order = begin(account, (acme, hosts), replaced).await?;
    match looked_at(&mut order, (acme, hosts), challenges).await {
        Ok(()) => Ok(order),
        Err(error) if error.is_an_answer() && !error.is_about_how_often() => {
            Err(not_ours(&mut order).await.unwrap_or(error))
        }
        Err(error) => Err(error),
    }
}

/// Has the CA look at each host.
async fn looked_at(
    order: &mut Order,
    (acme, hosts): (&Acme, &[String]),
    challenges: &Arc<Challenges>,
) -> Result<(), AcmeError> {
    let mut standing = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let host = clean(&authorization.identifier().to_string());
        if !hosts.contains(&host) {
            return Err(AcmeError::Useless(format!("it asks about {host}, which was not ordered")));
        }
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated => {
                let status = format!("{:?}", authorization.status).to_lowercase();
                return Err(AcmeError::Authorization { host, status });
            }
        }
        let kind = match acme.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            return Err(AcmeError::NotOffered { host, challenge: acme.challenge.name() });
        };
        standing.push(stand(&challenge, &host, acme.challenge, challenges)?);
        // A CA that looks at once has perhaps seen already that we are not there.
        challenge.set_ready().await?;
    }
    if order.poll_ready(&PATIENCE).await? == OrderStatus::Ready {
        return Ok(());
    }
    Err(AcmeError::Useless("the order is invalid, and the CA does not say why".to_owned()))
}

/// The certificate of an order that is ready, or further.
async fn fetch(mut order: Order, granted: &Granted) -> Result<String, AcmeError> {
    if order.state().status == OrderStatus::Ready {
        // By hand, since the key has to outlive whatever becomes of this.
        let key = KeyPair::from_pem(&granted.key)?;
        let mut params = CertificateParams::new(granted.hosts.as_slice())?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    }
    let chain = match order.poll_certificate(&PATIENCE).await {
        Ok(chain) => chain,
        Err(error) if order.state().status == OrderStatus::Invalid => {
            return Err(AcmeError::Useless(format!("the order has become invalid: {}", said(&error))));
        }
        Err(error) => return Err(error.into()),
    };
    let kept = format!("{}{chain}", granted.key);
    let pair = x509::parse_bundle(kept.as_bytes()).map_err(|why| AcmeError::Useless(clean(&why)))?;
    if let Some(host) = granted.hosts.iter().find(|host| !x509::covers(&pair, host)) {
        return Err(AcmeError::Useless(format!("it is not for {host}")));
    }
    let times = pair.cert.first().and_then(x509::validity);
    is_good(times, clock::unix_now_signed()).map_err(AcmeError::Useless)?;
    Ok(kept)
}

/// Whether a certificate with these times is good now. It may end before the one whose place it takes: CAs give shorter ones as time
/// goes by, and wish some replaced that would be good for long.
fn is_good(times: Option<(i64, i64)>, now: i64) -> Result<(), String> {
    let Some((from, until)) = times else { return Err("it does not say how long it is good".to_owned()) };
    let shown = clock::rfc_3339_of;
    if from > now + CLOCKS_DIFFER {
        Err(format!("it is not good before {} (is this machine's clock right?)", shown(from)))
    } else if until <= now {
        Err(format!("it has ended already, at {}", shown(until)))
    } else {
        Ok(())
    }
}

/// An order, which says what it replaces where the CA wants to know (RFC 9773 section 5).
async fn begin(
    account: &Account,
    (acme, hosts): (&Acme, &[String]),
    replaced: Option<&CertificateDer<'_>>,
) -> Result<Order, AcmeError> {
    let identifiers: Vec<_> = hosts.iter().map(|host| Identifier::Dns(host.clone())).collect();
    if let Some(id) = replaced.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
        match account.new_order(&NewOrder::new(&identifiers).replaces(id)).await {
            Ok(order) => return Ok(order),
            // A CA that does not know the other one, or that somebody told before, still gives one.
            Err(instant_acme::Error::Api(problem))
                if ["alreadyReplaced", "malformed", "unauthorized", "serverInternal", "conflict"]
                    .iter()
                    .any(|kind| is_of_type(&problem, kind)) =>
            {
                let said = clean(&problem.to_string());
                info!(directory = %acme.directory, error = said, "the CA takes no order that says what it replaces");
            }
            Err(instant_acme::Error::Unsupported(_)) => {}
            // It has answered, and does not say what the order replaces.
            Err(instant_acme::Error::Other(error)) if !error.is::<client::NoAnswer>() => {}
            Err(error) => return Err(unknown_account(error, &acme.account_file)),
        }
    }
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    order.map_err(|error| unknown_account(error, &acme.account_file))
}

/// Puts up what the CA is to find.
fn stand(
    challenge: &ChallengeHandle<'_>,
    host: &str,
    kind: Challenge,
    challenges: &Arc<Challenges>,
) -> Result<Stand, AcmeError> {
    let authorization = challenge.key_authorization();
    match kind {
        Challenge::Http01 => Ok(challenges.stand_answer(&challenge.token, authorization.as_str())),
        Challenge::TlsAlpn01 => {
            let certificate = for_handshake(host, authorization.digest().as_ref())?;
            Ok(challenges.stand_certificate(host, certificate))
        }
    }
}

/// RFC 8737 section 3.
fn for_handshake(host: &str, digest: &[u8]) -> Result<CertifiedKey, AcmeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    // Not checked as a pair: readers of certificates refuse the extension, which is critical and for the CA alone.
    let key = crate::base::tls_client::provider().key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// What the CA saw where it did not see us.
async fn not_ours(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        let Ok(state) = authorization.refresh().await else { continue };
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            let host = clean(&state.identifier().to_string());
            return Some(AcmeError::NotOurs { host, why: clean(&problem.to_string()) });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_taken_when_it_is_good_now() {
        let now = 1_000_000;
        let is = |times| is_good(times, now).is_ok();
        assert!(is(Some((now - 10, now + 100))));
        assert!(is(Some((now + 60, now + 100))), "clocks differ");
        assert!(!is(None) && !is(Some((now + 1_000, now + 10_000))) && !is(Some((now - 10, now))));
    }

    #[test]
    fn what_a_ca_says_is_one_line_of_bounded_length() {
        assert_eq!(clean("a\r\n\u{1b}[2Jb"), "a   [2Jb");
        assert_eq!(clean(&"x".repeat(2_000)).chars().count(), MOST_TEXT + 1);
    }
}
