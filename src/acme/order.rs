//! One order: the CA validates each host, then issues the certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use crate::acme::error::AcmeError;
use crate::acme::state::{ManagedSite, State};
use crate::acme::{client, store};
use crate::base::{tls_client, x509};
use crate::config::Challenge;

/// How the CA is polled while it validates, and while it signs.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));
/// Orders a certificate and writes it to its file. Returns when it expires, in seconds since 1970.
pub(super) async fn issue(state: Arc<State>, site: Arc<ManagedSite>) -> Result<i64, AcmeError> {
    // Before the order: CAs limit the number of certificates, so that none should be lost.
    let file = store::NewFile::create(&site.acme.certificate_file).await?;
    let account = client::account(&site.acme).await?;
    let mut order = new_order(&account, &site).await?;
    if let Err(error) = validate(&state, &site, &mut order).await {
        return Err(failed_validation(&mut order).await.unwrap_or(error));
    }
    let key = order.finalize().await?;
    let bundle = key + &order.poll_certificate(&POLL).await?;
    let certificate = x509::parse_bundle(bundle.as_bytes()).map_err(AcmeError::Unusable)?;
    if let Some(host) = site.hosts.iter().find(|host| !x509::covers(&certificate, host)) {
        return Err(AcmeError::Unusable(format!("it is not for {host}")));
    }
    file.commit(&bundle).await?;
    Ok(certificate.cert.first().and_then(x509::validity).map_or(0, |(_, until)| until))
}

/// An order that names the certificate that it replaces (RFC 9773 section 5), if the CA supports that.
async fn new_order(account: &Account, site: &ManagedSite) -> Result<Order, Error> {
    let hosts: Vec<_> = site.hosts.iter().map(|host| Identifier::Dns(host.clone())).collect();
    let replaced = site.leaf.as_ref().filter(|_| !site.lacks_host);
    if let Some(id) = replaced.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok())
        && let Ok(order) = account.new_order(&NewOrder::new(&hosts).replaces(id)).await
    {
        return Ok(order);
    }
    account.new_order(&NewOrder::new(&hosts)).await
}

/// Has the CA validate each host. What it is to find is published until this returns.
async fn validate(state: &State, site: &ManagedSite, order: &mut Order) -> Result<(), AcmeError> {
    let mut published: Vec<Box<dyn Send>> = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let kind = match site.acme.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            let reason = format!("it does not offer {}", site.acme.challenge.name());
            return Err(AcmeError::Validation { host, reason });
        };
        let answer = challenge.key_authorization();
        match site.acme.challenge {
            Challenge::TlsAlpn01 => {
                let certificate =
                    challenge_certificate(&host, answer.digest().as_ref()).map_err(Error::Other)?;
                published.push(Box::new(state.certificates.publish(&host, certificate)));
            }
            Challenge::Http01 => {
                published.push(Box::new(state.answers.publish(&challenge.token, answer.as_str().to_owned())));
            }
        }
        challenge.set_ready().await?;
    }
    if order.poll_ready(&POLL).await? == OrderStatus::Invalid {
        return Err(AcmeError::Unusable("the CA calls it invalid".to_owned()));
    }
    Ok(())
}

/// The self-signed certificate for a TLS-ALPN-01 challenge (RFC 8737 section 3).
fn challenge_certificate(
    host: &str,
    digest: &[u8],
) -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    // Not checked as a pair: rustls does not read certificates with this critical extension.
    let key = tls_client::provider().key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// The host that the CA could not validate, and why.
async fn failed_validation(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            let (host, reason) = (state.identifier().to_string(), problem.to_string());
            return Some(AcmeError::Validation { host, reason });
        }
    }
    None
}
