//! Why a run of the sync cannot go on.

use std::path::PathBuf;

use crate::imis::ProfileError;
use crate::sso::error::SignInError;
use crate::zendesk::api::{ApiBuildError, ApiError};
use crate::zendesk::writes::WriteError;

/// A run cannot go on. What it has written stays; the next run continues.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("another sync of this app is in progress")]
    InProgress,
    #[error("a job of the last run is still in progress in Zendesk; try again later")]
    JobInProgress,
    #[error("cannot use the folder {0}")]
    Folder(PathBuf, #[source] std::io::Error),
    #[error("the state file (it can be deleted)")]
    State(#[from] rusqlite::Error),
    #[error("cannot read the members from iMIS")]
    Members(#[source] ProfileError),
    #[error("cannot decide about a member")]
    Decision(#[source] Box<SignInError>),
    #[error("cannot read the users from Zendesk")]
    Users(#[source] ApiError),
    #[error("cannot read the staff list from Zendesk")]
    Staff(#[source] ApiError),
    #[error("sync needs an OAuth client: set zendesk.api.client_id and client_secret")]
    NoApi,
    #[error("the client of the Zendesk API")]
    Client(#[from] ApiBuildError),
    #[error("cannot write to Zendesk")]
    Write(#[source] WriteError),
    #[error("cannot write the report")]
    Output(#[source] std::io::Error),
    #[error("the system's random number generator failed")]
    Random(#[source] getrandom::Error),
}
