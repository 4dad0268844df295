//! The lines of a plan: what happens to each member and user, and how many changes are too many.

use rusqlite::params;
use serde_json::{Map, Value, json};

use crate::sync::compare::FieldChange;
use crate::sync::error::SyncError;
use crate::sync::organizations::MembershipChanges;
use crate::sync::state::State;

/// What happens to a member or user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Create,
    /// A user with the same e-mail address and without external ID gets the iMIS ID.
    Link,
    Update,
    /// The user was suspended by an earlier run, and may sign in again.
    Restore,
    EndSessions,
    Suspend,
    /// The member may not sign in any more; nothing is written.
    Leaver,
    /// The member's record or the rules of the app give no user.
    Refused,
    /// It is not clear which user belongs to the member.
    Conflict,
    /// The user is an agent or admin.
    Staff,
    /// The member has no user, and none is created.
    NoUser,
    Unchanged,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Create,
        Self::Link,
        Self::Update,
        Self::Restore,
        Self::EndSessions,
        Self::Suspend,
        Self::Leaver,
        Self::Refused,
        Self::Conflict,
        Self::Staff,
        Self::NoUser,
        Self::Unchanged,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Link => "link",
            Self::Update => "update",
            Self::Restore => "restore",
            Self::EndSessions => "end_sessions",
            Self::Suspend => "suspend",
            Self::Leaver => "leaver",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Staff => "staff",
            Self::NoUser => "no_user",
            Self::Unchanged => "unchanged",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a run that applies the plan writes something.
    pub(crate) fn is_written(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Link | Self::Update | Self::Restore | Self::EndSessions | Self::Suspend
        )
    }

    /// Whether an existing user changes.
    fn changes_user(self) -> bool {
        matches!(self, Self::Link | Self::Update | Self::Restore)
    }

    /// Whether the member of an existing user may not sign in any more.
    fn is_leaver(self) -> bool {
        matches!(self, Self::EndSessions | Self::Suspend | Self::Leaver)
    }
}

/// One line of the plan.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) imis_id: Option<String>,
    pub(crate) user_id: Option<i64>,
    pub(crate) reason: Option<String>,
    pub(crate) fields: Vec<FieldChange>,
    pub(crate) body: Option<Map<String, Value>>,
    pub(crate) memberships: MembershipChanges,
    /// Hashes of values that Zendesk does not return, by property.
    pub(crate) extra: Map<String, Value>,
}

impl Change {
    pub(super) fn new(kind: Kind, imis_id: &str, user_id: Option<i64>, reason: Option<&str>) -> Self {
        Self {
            kind,
            imis_id: Some(imis_id.to_owned()),
            user_id,
            reason: reason.map(str::to_owned),
            fields: Vec::new(),
            body: None,
            memberships: MembershipChanges::default(),
            extra: Map::new(),
        }
    }
}

/// Counts of a plan, for the report and the safety threshold.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    /// Members whom iMIS lists.
    pub(crate) members: u64,
    /// End users with an external ID.
    pub(crate) known_users: u64,
    pub(crate) changed: u64,
    pub(crate) disappeared: u64,
    pub(crate) lost_a_field: u64,
}

/// Why a run stops before it writes.
#[derive(Debug, thiserror::Error)]
#[error(
    "{count} of {of} {what}, which is more than {percent} % (sync.max_change_percent; --max-change for this run)"
)]
pub(crate) struct TooManyChanges {
    count: u64,
    of: u64,
    what: &'static str,
    percent: u64,
}

impl Totals {
    /// Counts a line of a plan.
    pub(crate) fn add(&mut self, change: &Change) {
        self.changed += u64::from(change.kind.changes_user());
        self.disappeared += u64::from(change.kind.is_leaver());
        self.lost_a_field += u64::from(change.fields.iter().any(FieldChange::loses_value));
    }

    /// Checks the safety threshold.
    pub(crate) fn check(&self, percent: u64) -> Result<(), TooManyChanges> {
        let checks = [
            (self.changed, self.members, "members would change"),
            (self.disappeared, self.known_users, "users would be leavers"),
            (self.lost_a_field, self.members, "members would lose the value of a field"),
        ];
        for (count, of, what) in checks {
            if count * 100 > of.max(1) * percent {
                return Err(TooManyChanges { count, of, what, percent });
            }
        }
        Ok(())
    }
}

/// Adds lines to the plan.
pub(super) fn store(state: &State, changes: Vec<Change>) -> Result<(), SyncError> {
    let transaction = state.database.unchecked_transaction()?;
    for change in changes {
        let json = |value: Value| value.to_string();
        let mut insert = state.database.prepare_cached(
            "INSERT INTO changes (kind, imis_id, user_id, reason, fields, body, memberships, extra)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![
            change.kind.name(),
            change.imis_id,
            change.user_id,
            change.reason,
            json(json!(change.fields)),
            change.body.map(|body| json(Value::Object(body))),
            (!change.memberships.is_empty()).then(|| json(json!(change.memberships))),
            json(Value::Object(change.extra)),
        ])?;
    }
    Ok(transaction.commit()?)
}

/// The counts of the whole plan.
pub(super) fn totals(state: &State) -> Result<Totals, SyncError> {
    let mut totals = Totals {
        members: state.count("SELECT count(*) FROM members")?,
        known_users: state.count("SELECT count(*) FROM users WHERE external_id IS NOT NULL")?,
        ..Totals::default()
    };
    each(state, |change| {
        totals.add(&change);
        Ok(())
    })?;
    Ok(totals)
}

/// Calls `take` with each line of the plan, in order.
pub(crate) fn each(
    state: &State,
    mut take: impl FnMut(Change) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    let mut statement = state.database.prepare(
        "SELECT kind, imis_id, user_id, reason, fields, body, memberships, extra FROM changes ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |index: usize| row.get::<_, Option<String>>(index);
        let Some(kind) = text(0)?.as_deref().and_then(Kind::of) else { continue };
        take(Change {
            kind,
            imis_id: text(1)?,
            user_id: row.get(2)?,
            reason: text(3)?,
            fields: parsed(text(4)?),
            body: text(5)?.and_then(|text| serde_json::from_str(&text).ok()),
            memberships: parsed(text(6)?),
            extra: parsed(text(7)?),
        })?;
    }
    Ok(())
}

pub(crate) fn parsed<T: Default + serde::de::DeserializeOwned>(text: Option<String>) -> T {
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
