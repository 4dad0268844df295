//! Stored queries of a service account, and their rows.

use serde_json::{Value, json};

use crate::members::Member;

/// What a column of a stored query shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Column {
    Id,
    FullName,
    FirstName,
    LastName,
    Email,
    Phone,
    Status,
    CustomerType,
    PaidThrough,
    UpdatedOn,
    Chapter,
    CompanyId,
    CompanyName,
    IsCompany,
    /// This text, for all members.
    Fixed(String),
}

/// A stored query that returns all members, whoever asks.
#[derive(Debug, Clone)]
pub struct StoredQuery {
    /// Its path, such as `$/Gateway/AllMembers`.
    pub name: String,
    /// Names and values of its columns. A column without a value is left out of the row.
    pub columns: Vec<(String, Column)>,
    /// The members that it returns.
    pub only: fn(&Member) -> bool,
}

impl StoredQuery {
    /// All contacts, with the usual columns.
    pub fn all_members(name: &str) -> Self {
        let columns = [
            ("ID", Column::Id),
            ("Full Name", Column::FullName),
            ("Email", Column::Email),
            ("Mobile Phone", Column::Phone),
            ("Member Status", Column::Status),
            ("Member Type", Column::CustomerType),
            ("Is Company", Column::IsCompany),
            ("Paid Through", Column::PaidThrough),
            ("Updated On", Column::UpdatedOn),
            ("Chapter", Column::Chapter),
            ("Company ID", Column::CompanyId),
            ("Company", Column::CompanyName),
        ];
        let columns = columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect();
        Self { name: name.to_owned(), columns, only: |_| true }
    }

    /// A row of `api/query`, or with named properties as `api/iqa` has them.
    pub(super) fn row(&self, member: &Member, properties: bool) -> Value {
        let company = |part: fn(&(String, String)) -> &String| member.company.as_ref().map(part).cloned();
        let value = |column: &Column| match column {
            Column::Id => Some(json!(member.id)),
            Column::FullName => Some(json!(member.name())),
            Column::FirstName => Some(json!(member.first)),
            Column::LastName => Some(json!(member.last)),
            Column::Email => member.email.as_ref().map(|text| json!(text)),
            Column::Phone => member.phone.as_ref().map(|text| json!(text)),
            Column::Status => Some(json!(member.status)),
            Column::CustomerType => Some(json!(member.customer_type)),
            Column::PaidThrough => member.paid_through.as_ref().map(|text| json!(text)),
            Column::UpdatedOn => Some(json!(member.updated_on)),
            Column::Chapter => Some(json!(member.chapter)),
            Column::CompanyId => company(|(id, _)| id).map(Value::from),
            Column::CompanyName => company(|(_, name)| name).map(Value::from),
            Column::IsCompany => Some(json!({"$type": "System.Boolean", "$value": member.is_company})),
            Column::Fixed(text) => Some(json!(text)),
        };
        let shown = self.columns.iter().filter_map(|(name, column)| Some((name, value(column)?)));
        if properties {
            let property = |(name, value): (&String, Value)| {
                json!({"$type": "Asi.Soa.Core.DataContracts.GenericPropertyData, Asi.Contracts",
                    "Name": name, "Value": value})
            };
            json!({"$type": "Asi.Soa.Core.DataContracts.GenericEntityData, Asi.Contracts",
                "EntityTypeName": "ANY", "Properties": {"$values": shown.map(property).collect::<Vec<_>>()}})
        } else {
            let mut row = json!({"$type": "System.Dynamic.ExpandoObject, System.Core"});
            shown.for_each(|(name, value)| row[name] = value);
            row
        }
    }
}
