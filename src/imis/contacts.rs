//! Reads all contacts page by page, to find duplicate e-mail addresses.

use std::collections::HashSet;

use serde_json::Value;

use crate::imis::api::{Api, ProfileError};
use crate::imis::client::ApiError;
use crate::imis::json::non_blank;
use crate::imis::party::Party;
use crate::imis::profile::{Kind, PartyError};

const PAGE: u64 = 500;
/// Five million contacts.
const MAX_PAGES: usize = 10_000;

/// A contact with what matters for e-mail addresses.
pub(crate) struct Contact {
    pub(crate) id: String,
    pub(crate) is_person: bool,
    pub(crate) is_active: bool,
    /// In lower case.
    pub(crate) email: Option<String>,
    /// There is a user account for this contact.
    pub(crate) has_credentials: bool,
}

/// Reads all contacts. Calls `progress` with the number read so far and the total, if iMIS reports it.
pub(crate) async fn read_all(
    api: &Api,
    mut progress: impl FnMut(usize, Option<u64>),
) -> Result<Vec<Contact>, ProfileError> {
    let mut with_credentials = HashSet::new();
    each_page(api, "api/User", |rows, _| {
        with_credentials.extend(rows.iter().filter_map(|user| non_blank(&user["UserId"])));
        Ok(())
    })
    .await?;
    let mut all = Vec::new();
    each_page(api, "api/Party", |rows, total| {
        for row in rows {
            let party = Party::parse(row.to_string().as_bytes())?;
            let Some(id) = party.id() else { continue };
            let id = id.as_str().to_owned();
            all.push(Contact {
                is_person: !matches!(party.kind(), Ok(Kind::Company)),
                is_active: party.is_active(),
                email: party.primary_email().map(|email| email.trim().to_lowercase()),
                has_credentials: with_credentials.contains(&id),
                id,
            });
        }
        progress(all.len(), total);
        Ok(())
    })
    .await?;
    Ok(all)
}

async fn each_page(
    api: &Api,
    what: &str,
    mut take: impl FnMut(&[Value], Option<u64>) -> Result<(), PartyError>,
) -> Result<(), ProfileError> {
    let mut offset = 0;
    for _ in 0..MAX_PAGES {
        let rows = api.rows(&format!("{what}?limit={PAGE}&offset={offset}"), None).await?;
        take(rows.items(), rows.total())?;
        let Some(next) = rows.next(offset).ok_or(PartyError::NotRows)? else { return Ok(()) };
        offset = next;
    }
    Err(ApiError::TooLong(MAX_PAGES).into())
}
