//! Why a valid configuration cannot be run.

use crate::imis;
use crate::upstream::site::UpstreamBuildError;
use crate::zendesk::api::ApiBuildError;

/// Why a valid configuration cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the upstream cannot be set up")]
    Upstream(#[from] UpstreamBuildError),
    #[error("the clients of iMIS cannot be set up")]
    Imis(#[from] imis::BuildError),
    #[error("the client of Zendesk's API cannot be set up")]
    Zendesk(#[from] ApiBuildError),
    #[error("site {site}: {why}. The certificate in use is valid, so it is not replaced")]
    WorseCertificate { site: String, why: String },
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
}
