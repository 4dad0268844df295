//! `sites[].apps[].sync`: the profile sync of an app.

use std::path::PathBuf;

use crate::config::expression::{Expression, Language};
use crate::config::recognise::{ProfileColumns, profile_columns, query_path};
use crate::config::section::Value;
use crate::config::values;

/// The fields of a user that a policy may name, besides `user_fields.KEY`.
const FIELDS: [&str; 12] = [
    "name",
    "email",
    "external_id",
    "phone",
    "organizations",
    "organization_id",
    "tags",
    "locale",
    "locale_id",
    "remote_photo_url",
    "role",
    "custom_role_id",
];

/// How `imis-gateway sync` keeps the users of a Zendesk account up to date.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) source: Source,
    /// A property of `Party` with the time of the last change, to read only what has changed since the last run.
    pub(crate) changed_since: Option<String>,
    /// Policies by the name of the field. Other fields are `Always` written.
    pub(crate) fields: Vec<(String, Policy)>,
    /// Whether members without a user get one.
    pub(crate) create: bool,
    pub(crate) leavers: Leavers,
    /// iMIS IDs of staff members whose Zendesk users may be written.
    pub(crate) staff: Vec<String>,
    pub(crate) organizations: Organizations,
    /// A run stops before the first write if more than this percentage of members would change, disappear or lose a
    /// field.
    pub(crate) max_change_percent: u64,
    pub(crate) writes: Writes,
    pub(crate) folder: PathBuf,
}

/// Where the members come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A filter of the `Party` list, as a query string: `CustomerTypeCode=in:M|S`.
    Party(String),
    /// All members of a group.
    Group(String),
    /// The rows of a stored query.
    Query {
        path: String,
        id_column: String,
        /// The whole profile, if the query returns it.
        columns: Option<ProfileColumns>,
    },
}

/// When a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    /// Only if Zendesk has no value.
    IfEmpty,
    Never,
}

/// What happens to users whose members may not sign in any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leavers {
    Report,
    EndSessions,
    Suspend,
}

/// How organizations are found.
#[derive(Debug)]
pub(crate) struct Organizations {
    /// External IDs of a member's organizations. Without it, the claims `organization` and `organizations` name them.
    pub(crate) external_ids: Option<Expression>,
    /// Whether organizations that do not exist are created.
    pub(crate) create: bool,
}

/// How users are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// In jobs, or one by one if the account has no bulk import.
    Auto,
    Jobs,
    Single,
}

impl Sync {
    pub(crate) fn policy(&self, field: &str) -> Policy {
        self.fields.iter().find(|(name, _)| name == field).map_or(Policy::Always, |(_, policy)| *policy)
    }
}

pub(super) fn sync(section: &Value<'_>, language: &Language) -> Option<Sync> {
    let source = section.section("source");
    let changed_since = source.as_ref().and_then(|source| source.parsed("changed_since", property));
    let folder = section.parsed("folder", values::not_empty);
    let organizations = section.with_defaults("organizations");
    let source_kind = source.as_ref().and_then(self::source);
    if let (Some(source), Some(Source::Group(_) | Source::Query { .. }), Some(_)) =
        (&source, &source_kind, &changed_since)
    {
        source.report("`changed_since` goes only with `party`");
    }
    Some(Sync {
        changed_since,
        fields: section.value("fields").map(|value| fields(&value)).unwrap_or_default(),
        create: section.boolean("create"),
        leavers: section.word(
            "leavers",
            &[
                ("report", Leavers::Report),
                ("end_sessions", Leavers::EndSessions),
                ("suspend", Leavers::Suspend),
            ],
        ),
        staff: section.texts("staff", values::not_empty),
        organizations: Organizations {
            external_ids: organizations.parsed("external_ids", |text| language.read(text)),
            create: organizations.boolean("create"),
        },
        max_change_percent: section.number("max_change_percent"),
        writes: section
            .word("writes", &[("auto", Writes::Auto), ("jobs", Writes::Jobs), ("single", Writes::Single)]),
        folder: section.files().at(folder?),
        source: source_kind?,
    })
}

fn source(section: &Value<'_>) -> Option<Source> {
    let party = section.parsed("party", party_filter);
    let group = section.parsed("group", values::not_empty);
    let query = section.parsed("query", query_path);
    let columns = section.section("columns");
    match (party, group, query) {
        (Some(filter), None, None) => Some(Source::Party(filter)),
        (None, Some(group), None) => Some(Source::Group(group)),
        (None, None, Some(path)) => Some(Source::Query {
            path,
            id_column: columns
                .as_ref()
                .map_or_else(|| "ID".to_owned(), |columns| columns.text("id", values::not_empty)),
            columns: columns.as_ref().and_then(profile_columns),
        }),
        _ => {
            section.report("name one source of members: party, group or query");
            None
        }
    }
}

/// A query string that adds conditions to the list of contacts.
fn party_filter(text: &str) -> Result<String, String> {
    let is_pair = |pair: &str| {
        pair.split_once('=').is_some_and(|(name, value)| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && value.contains(':')
        })
    };
    let is_filter = text.is_empty() || text.split('&').all(is_pair);
    let paged = ["limit", "offset"].iter().any(|own| text.split('&').any(|pair| pair.starts_with(own)));
    if !is_filter || paged || text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '#') {
        return Err(format!(
            "`{text}` is not a filter; write conditions of the Party list, like CustomerTypeCode=in:M|S&Status=eq:A"
        ));
    }
    Ok(text.to_owned())
}

fn property(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not the name of a property, like UpdatedOn"))
}

fn fields(value: &Value<'_>) -> Vec<(String, Policy)> {
    let policies = [("always", Policy::Always), ("if_empty", Policy::IfEmpty), ("never", Policy::Never)];
    let mut fields = Vec::new();
    for (name, value) in value.entries() {
        if !FIELDS.contains(&name) && !name.starts_with("user_fields.") {
            let hint = match crate::config::section::nearest(&FIELDS, name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the fields are {}, and user_fields.KEY", FIELDS.join(", ")),
            };
            value.report(format!("unknown field; {hint}"));
        }
        fields.extend(value.as_word(&policies).map(|policy| (name.to_owned(), policy)));
    }
    fields
}
