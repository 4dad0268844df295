//! One certificate: an account with the CA, an order, the CA's look at each host, and what comes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::info;

use super::challenges::{Challenges, Stand};
use super::{client, store};
use crate::ambient;
use crate::config::{Acme, Challenge};
use crate::telemetry::Chain;
use crate::tls::pem;

/// How long the CA may take to look at the hosts, and then to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
/// Seconds that a CA's clock may be ahead of ours.
const CLOCKS_DIFFER: i64 = 300;
/// One account is made at a time.
static MAKING: Mutex<()> = Mutex::const_new(());
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
    #[error("a certificate for the challenge cannot be made")]
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
    /// Whether the CA has been asked too often.
    pub(super) fn is_about_how_often(&self) -> bool {
        matches!(self, Self::Ca(instant_acme::Error::Api(problem)) if is_of_type(problem, "rateLimited"))
    }
}

/// RFC 8555 section 6.7.
fn is_of_type(problem: &instant_acme::Problem, kind: &str) -> bool {
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

fn clean(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_TEXT).collect();
    if text.chars().nth(MOST_TEXT).is_some() {
        line.push('…');
    }
    line
}

/// As it lies in its file.
#[derive(Serialize, Deserialize)]
struct Kept {
    contact: Option<String>,
    credentials: AccountCredentials,
}

/// The account that the gateway has with a CA, made when there is none.
pub(super) async fn account(acme: &Acme) -> Result<Account, AcmeError> {
    let path = &acme.account_file;
    // The library takes anything for one.
    let asked = client::directory(&acme.directory, acme.roots.0.clone()).await;
    asked.map_err(|error| AcmeError::NoAnswer(acme.directory.to_string(), error))?;
    let builder = Account::builder_with_http(client::client(acme.roots.0.clone())?);
    let uri = acme.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = uri.iter().map(String::as_str).collect();
    let mut kept = kept_account(acme).await?;
    // Several sites may find none at once, and one account is enough for all.
    let _making = if kept.is_none() {
        let making = MAKING.lock().await;
        kept = kept_account(acme).await?;
        Some(making)
    } else {
        None
    };
    let Some((kept, text)) = kept else {
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = acme.external_account.as_ref().and_then(|external| {
            let key = BASE64_URL_SAFE_NO_PAD.decode(external.key.expose().trim_end_matches('=')).ok()?;
            Some(ExternalAccountKey::new(external.id.clone(), &key))
        });
        let (account, credentials) =
            builder.create(&new, acme.directory.to_string(), external.as_ref()).await?;
        keep(path, Kept { contact: acme.contact.clone(), credentials }).await?;
        return Ok(account);
    };
    let is_changed = kept.contact != acme.contact;
    let account = builder.from_credentials(kept.credentials).await?;
    if is_changed {
        account.update_contacts(&contact).await.map_err(|error| unknown_account(error, path))?;
        let Kept { credentials, .. } = serde_json::from_slice(&text)
            .map_err(|source| AcmeError::Account { path: path.display().to_string(), source })?;
        keep(path, Kept { contact: acme.contact.clone(), credentials }).await?;
    }
    Ok(account)
}

/// The account in its file, if there is one.
async fn kept_account(acme: &Acme) -> Result<Option<(Kept, Vec<u8>)>, AcmeError> {
    let path = &acme.account_file;
    let shown = || path.display().to_string();
    match read(path).await {
        Ok(text) => {
            let kept: Kept = serde_json::from_slice(&text)
                .map_err(|source| AcmeError::Account { path: shown(), source })?;
            Ok(Some((kept, text)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AcmeError::Store { path: shown(), what: "read", source }),
    }
}

/// What an error of the CA's means for the account.
fn unknown_account(error: instant_acme::Error, path: &Path) -> AcmeError {
    let is_unknown =
        matches!(&error, instant_acme::Error::Api(problem) if is_of_type(problem, "accountDoesNotExist"));
    if is_unknown { AcmeError::NoAccount { path: path.display().to_string() } } else { error.into() }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || crate::config::read_file(&path)).await;
    read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

async fn keep(path: &Path, kept: Kept) -> Result<(), AcmeError> {
    let shown = || path.display().to_string();
    let text = serde_json::to_vec(&kept).map_err(|source| AcmeError::Account { path: shown(), source })?;
    let written = store::write(path, text).await;
    written.map_err(|source| AcmeError::Store { path: shown(), what: "written", source })
}

/// A new key and the CA's chain for it, as they are kept.
pub(super) async fn obtain(
    account: &Account,
    (acme, hosts): (&Acme, &[String]),
    replaced: Option<&CertificateDer<'_>>,
    challenges: &Arc<Challenges>,
) -> Result<String, AcmeError> {
    let mut order = begin(account, (acme, hosts), replaced).await?;
    let (mut standing, mut refused) = (Vec::new(), None);
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
        if let Err(error) = challenge.set_ready().await {
            // A CA that looks at once has perhaps seen already that we are not there.
            refused = Some(AcmeError::from(error));
            break;
        }
    }
    if refused.is_none() {
        refused = match order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Ready) => None,
            Ok(_) => Some(AcmeError::Useless("the order is invalid, and the CA does not say why".to_owned())),
            Err(error) => Some(error.into()),
        };
    }
    match refused {
        None => {}
        Some(error) if error.is_about_how_often() => return Err(error),
        Some(error) => return Err(not_ours(&mut order).await.unwrap_or(error)),
    }
    drop(standing);
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    let kept = format!("{key}{chain}");
    let pair = pem::both(kept.as_bytes()).map_err(|why| AcmeError::Useless(clean(&why)))?;
    if let Some(host) = hosts.iter().find(|host| !pem::covers(&pair, host)) {
        return Err(AcmeError::Useless(format!("it is not for {host}")));
    }
    let times = pair.cert.first().and_then(pem::validity);
    is_good(times, ambient::unix_now_signed()).map_err(AcmeError::Useless)?;
    Ok(kept)
}

/// Whether a certificate with these times is good now. It may end before the one whose place it takes: CAs give shorter ones as time
/// goes by, and wish some replaced that would be good for long.
fn is_good(times: Option<(i64, i64)>, now: i64) -> Result<(), String> {
    let Some((from, until)) = times else { return Err("it does not say how long it is good".to_owned()) };
    let shown = ambient::rfc_3339_of;
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
                info!(directory = %acme.directory, said, "the CA takes no order that says what it replaces");
            }
            Err(instant_acme::Error::Unsupported(_) | instant_acme::Error::Other(_)) => {}
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
    let key = crate::tls::provider().key_provider.load_private_key(key)?;
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
