//! A stored query (IQA) that iMIS filters on whoever is signed in: identity and profile in one call, with the visitor's own rights.
//!
//! REST takes a visitor's cookies only together with the anti-forgery token of a page made for that visitor, so one page goes
//! before. A query that is not filtered would answer with everybody, the same first row for each visitor: more than one row is
//! nobody's identity, and so is a row that contradicts the page.

use std::collections::BTreeMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::StatusCode;
use serde_json::Value;

use crate::base::query::encoded;
use crate::config::WhoamiQuery;
use crate::imis::client::{self, ApiError};
use crate::imis::json::{Rows, entries, filled, unwrapped};
use crate::imis::recognise::page::Page;
use crate::imis::recognise::probe::{Asked, Probe, Question, with_cookies};
use crate::imis::recognise::seen::Seen;
use crate::imis::recognise::{Identity, RecogniseError, client_context};
use crate::imis::{PartyId, Visitor};

const VERIFICATION_TOKEN: HeaderName = HeaderName::from_static("requestverificationtoken");
const MOST_ROW_BYTES: usize = 1024 * 1024;
const MOST_TOKEN_BYTES: usize = 4096;

/// Why a query does not tell who is signed in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum QueryError {
    #[error("the page carries no anti-forgery token, or several")]
    NoToken,
    #[error("the query's answer is not a page of rows")]
    NotRows,
    #[error("the query answers with more than one row: it is not filtered on the person who is signed in")]
    SeveralRows,
    #[error(
        "the query answers with no row for somebody who is signed in: does it select every contact, with \"LoggedIn User Key\"?"
    )]
    NoRow,
    #[error("the query has no column `{0}`, or nothing usable in it")]
    Column(String),
    #[error(
        "the query's row is of another person than the page: it is not filtered on the person who is signed in"
    )]
    AnotherPerson,
}

/// One row, by the names of its columns.
pub(crate) type Row = BTreeMap<String, Value>;

pub(super) async fn ask(
    probe: &Probe,
    query: &WhoamiQuery,
    visitor: &Visitor<'_>,
    seen: &mut Seen,
) -> Result<Option<Identity>, RecogniseError> {
    let (page, set_cookies) = match probe.page(&query.page, visitor, seen).await? {
        Asked::SignIn => return Ok(None),
        Asked::Page { page, set_cookies } => (page, set_cookies),
    };
    // Anonymous visitors run as a user of their own in iMIS, for whom a query may have a row: the page has the first word.
    let Some(signed_in) = client_context::read(&page)? else { return Ok(None) };
    let token = anti_forgery_token(&page)?;
    let target = target(query);
    let question = Question {
        what: "query",
        accept: "application/json",
        cookie: cookies(visitor.headers, &set_cookies),
        more: Some((VERIFICATION_TOKEN, token)),
        ..Question::page(&target)
    };
    let response = probe.ask(&question, visitor, seen).await?;
    if response.status() != StatusCode::OK {
        return Err(ApiError::Status(response.status()).into());
    }
    let json = client::json_body(response, MOST_ROW_BYTES).await?;
    let row = only_row(&json)?.ok_or(QueryError::NoRow)?;
    seen.columns(row.keys().map(String::as_str));
    let id = row.get(&query.columns.id).and_then(filled).and_then(|text| PartyId::parse(&text));
    let id = id.ok_or_else(|| QueryError::Column(query.columns.id.clone()))?;
    if signed_in.id != id {
        return Err(QueryError::AnotherPerson.into());
    }
    let row = query.columns.profile.is_some().then_some(row);
    Ok(Some(Identity { on_behalf_of: signed_in.on_behalf_of, row, sees_on_behalf: true, ..Identity::of(id) }))
}

fn target(query: &WhoamiQuery) -> String {
    let separator = if query.endpoint.contains('?') { '&' } else { '?' };
    // Two rows are enough to see that it is not filtered.
    format!("{}{separator}QueryName={}&limit=2", query.endpoint, encoded(&query.query))
}

fn anti_forgery_token(page: &Page) -> Result<HeaderValue, QueryError> {
    let [token] = page.anti_forgery.as_slice() else { return Err(QueryError::NoToken) };
    let plain =
        token.iter().all(u8::is_ascii_graphic) && !token.is_empty() && token.len() <= MOST_TOKEN_BYTES;
    let value = HeaderValue::from_bytes(token).ok().filter(|_| plain);
    value.map(sensitive).ok_or(QueryError::NoToken)
}

fn cookies(own: &HeaderMap, set: &[HeaderValue]) -> Option<HeaderValue> {
    with_cookies(own, set).map(sensitive)
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The one row of an answer; none when there is none.
///
/// `api/query` gives rows as plain objects, the older `api/iqa` as a list of named properties.
fn only_row(json: &[u8]) -> Result<Option<Row>, QueryError> {
    let rows = Rows::parse(json).ok_or(QueryError::NotRows)?;
    match rows.items() {
        [] => Ok(None),
        [row] => {
            let more = rows.total().is_some_and(|count| count > 1);
            if more { Err(QueryError::SeveralRows) } else { columns(row).map(Some) }
        }
        [_, _, ..] => Err(QueryError::SeveralRows),
    }
}

fn columns(row: &Value) -> Result<Row, QueryError> {
    let Value::Object(object) = row else { return Err(QueryError::NotRows) };
    let pairs: Vec<(String, Value)> = match object.get("Properties") {
        Some(properties) => {
            let named = |property: &Value| {
                Some((property["Name"].as_str()?.to_owned(), unwrapped(&property["Value"]).clone()))
            };
            entries(properties).iter().map(named).collect::<Option<_>>().ok_or(QueryError::NotRows)?
        }
        None => object.iter().map(|(name, value)| (name.clone(), unwrapped(value).clone())).collect(),
    };
    let count = pairs.len();
    let row: Row = pairs.into_iter().filter(|(name, _)| !name.starts_with('$')).collect();
    let meta =
        object.keys().filter(|name| name.starts_with('$') && !object.contains_key("Properties")).count();
    // A column that stands twice could say two things.
    if row.len() + meta == count { Ok(row) } else { Err(QueryError::NotRows) }
}

/// Reads an answer, for fuzz targets and benchmarks: how many columns its row has.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_rows(json: &[u8]) -> Option<usize> {
    only_row(json).ok().flatten().map(|row| row.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(answer: &Value) -> Result<Option<Row>, QueryError> {
        only_row(answer.to_string().as_bytes())
    }

    fn page(rows: Value) -> Value {
        json!({"$type": "PagedResult", "Items": {"$type": "List", "$values": rows}, "Count": 1, "TotalCount": 1})
    }

    #[test]
    fn both_forms_of_a_row_are_read() {
        let plain = page(
            json!([{"$type": "x", "ID": "104019", "Email": "ann@example.org", "Member": {"$type": "System.Boolean", "$value": true}}]),
        );
        let named = page(
            json!([{"$type": "GenericEntityData", "EntityTypeName": "x", "Properties": {"$type": "y", "$values": [
            {"$type": "z", "Name": "ID", "Value": "104019"}, {"Name": "Email", "Value": "ann@example.org"},
            {"Name": "Member", "Value": {"$type": "System.Boolean", "$value": true}}]}}]),
        );
        for answer in [plain, named] {
            let row = row(&answer).unwrap().unwrap();
            assert_eq!(
                (row.len(), &row["ID"], &row["Email"]),
                (3, &json!("104019"), &json!("ann@example.org"))
            );
            assert_eq!(row["Member"], json!(true));
        }
        assert_eq!(row(&page(json!([]))), Ok(None));
        let marked = [b"\xef\xbb\xbf", page(json!([{"ID": 7}])).to_string().as_bytes()].concat();
        assert_eq!(only_row(&marked).unwrap().unwrap()["ID"], json!(7));
    }

    #[test]
    fn a_query_that_is_not_filtered_is_nobodys() {
        assert_eq!(row(&page(json!([{"ID": "1"}, {"ID": "2"}]))), Err(QueryError::SeveralRows));
        let mut counted = page(json!([{"ID": "1"}]));
        counted["TotalCount"] = json!(5000);
        assert_eq!(row(&counted), Err(QueryError::SeveralRows));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for json in
            ["", "[]", "null", "{}", r#"{"Items":null}"#, r#"{"Items":{}}"#, r#"{"Items":["x"]}"#, "<html>"]
        {
            assert_eq!(only_row(json.as_bytes()), Err(QueryError::NotRows), "{json}");
        }
        let twice = r#"{"Items":[{"ID":"1"}],"Items":[{"ID":"2"}]}"#;
        assert_eq!(only_row(twice.as_bytes()), Err(QueryError::NotRows));
        let named = page(
            json!([{"Properties": {"$values": [{"Name": "ID", "Value": "1"}, {"Name": "ID", "Value": "2"}]}}]),
        );
        assert_eq!(row(&named), Err(QueryError::NotRows));
    }

    #[test]
    fn there_is_one_token_or_none() {
        let field = |value: &str| {
            format!("<input name=__RequestVerificationToken id=__RequestVerificationToken value=\"{value}\">")
        };
        let token = |html: &str| anti_forgery_token(&Page::parse(html.as_bytes()));
        assert_eq!(token(&field("abc-_=")).unwrap(), "abc-_=");
        for wrong in [
            String::new(),
            field(""),
            field("a b"),
            field("a\nb"),
            field("a") + &field("b"),
            field(&"a".repeat(5000)),
        ] {
            assert_eq!(token(&wrong), Err(QueryError::NoToken));
        }
    }
}
