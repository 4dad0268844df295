//! Reads the members that a profile sync works on, page by page.

use serde_json::Value;

use crate::base::query::encoded;
use crate::config::ProfileColumns;
use crate::config::sync::Source;
use crate::imis::Imis;
use crate::imis::api::ProfileError;
use crate::imis::identity::{PartyId, Row};
use crate::imis::json::non_blank;
use crate::imis::party::Party;
use crate::imis::profile::{PartyError, Profile};
use crate::imis::recognise::query_row;

/// Records of contacts take about 4 KiB each.
const PAGE: u64 = 200;

/// One page of a list of members.
pub(crate) struct MemberPage {
    pub(crate) members: Vec<Listed>,
    /// The offset of the next page; `None` after the last one.
    pub(crate) next: Option<u64>,
    /// The number of all members, if iMIS reports it.
    pub(crate) total: Option<u64>,
}

/// One entry of a list.
pub(crate) enum Listed {
    /// The list contains the whole profile.
    Profile(Box<Profile>),
    /// The list contains only the iMIS ID.
    Id(PartyId),
    /// The entry cannot be used. Its iMIS ID, if it has a valid one.
    Invalid(Option<PartyId>, PartyError),
}

impl Imis {
    /// Reads the page at `offset`. `since`: only contacts whose property has changed since a time (RFC 3339).
    pub(crate) async fn members(
        &self,
        source: &Source,
        since: Option<(&str, &str)>,
        offset: u64,
    ) -> Result<MemberPage, ProfileError> {
        let list = match source {
            Source::Party(filter) => {
                format!("api/Party?{filter}{}", if filter.is_empty() { "" } else { "&" })
            }
            Source::Group(group) => format!("api/GroupMember?GroupId=eq:{}&", encoded(group)),
            Source::Query { path, .. } => format!("api/query?QueryName={}&", encoded(path)),
        };
        let since =
            since.map(|(property, time)| format!("{property}=gt:{}&", encoded(time))).unwrap_or_default();
        let rows = self.api.rows(&format!("{list}{since}limit={PAGE}&offset={offset}"), None).await?;
        let members = rows.items().iter().map(|row| self.listed(source, row)).collect();
        Ok(MemberPage { members, next: rows.next(offset).ok_or(PartyError::NotRows)?, total: rows.total() })
    }

    /// The record of one contact. `None` if there is no such contact any more.
    pub(crate) async fn member(&self, id: &PartyId) -> Result<Option<Profile>, ProfileError> {
        match self.api.party(id, None).await {
            Ok(party) => Ok(Some(party.profile(id, &self.phones)?)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn listed(&self, source: &Source, row: &Value) -> Listed {
        match source {
            Source::Party(_) => match Party::parse(row.to_string().as_bytes()) {
                Ok(party) => {
                    let id = party.id();
                    let profile = id.as_ref().ok_or(PartyError::NotAParty);
                    match profile.and_then(|id| party.profile(id, &self.phones)) {
                        Ok(profile) => Listed::Profile(Box::new(profile)),
                        Err(error) => Listed::Invalid(id, error),
                    }
                }
                Err(error) => Listed::Invalid(row["PartyId"].as_str().and_then(PartyId::parse), error),
            },
            Source::Group(_) => {
                match non_blank(&row["Party"]["PartyId"]).and_then(|id| PartyId::parse(&id)) {
                    Some(id) => Listed::Id(id),
                    None => Listed::Invalid(None, PartyError::NotAParty),
                }
            }
            Source::Query { id_column, columns, .. } => self.queried(row, id_column, columns.as_ref()),
        }
    }

    fn queried(&self, row: &Value, id_column: &str, columns: Option<&ProfileColumns>) -> Listed {
        let Ok(row) = query_row::columns(row) else { return Listed::Invalid(None, PartyError::NotRows) };
        let id = row.get(id_column).and_then(non_blank).and_then(|id| PartyId::parse(&id));
        let Some(id) = id else {
            return Listed::Invalid(None, PartyError::NoColumn(id_column.to_owned()));
        };
        let profile = |columns| Profile::of_row(&row as &Row, columns, &id, &self.phones);
        match columns.map(profile) {
            None => Listed::Id(id),
            Some(Ok(profile)) => Listed::Profile(Box::new(profile)),
            Some(Err(error)) => Listed::Invalid(Some(id), error),
        }
    }
}
