//! The response of a stored query, which must be one row.

use serde_json::Value;

use crate::imis::identity::Row;
use crate::imis::json::{Rows, list_or_empty, unwrapped};

/// The response of a query does not identify a person.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum QueryError {
    #[error("the page has no anti-forgery token, or more than one")]
    NoToken,
    #[error("the response of the query is not a page of rows")]
    NotRows,
    #[error("the query returns more than one row; it does not filter by the signed-in person")]
    SeveralRows,
    #[error(
        "the query returns no row for a signed-in person; it must select every contact and filter by \"LoggedIn User Key\""
    )]
    NoRow,
    #[error("the query has no column `{0}`, or the column has no valid value")]
    Column(String),
    #[error("the query returns the row of another person; it does not filter by the signed-in person")]
    AnotherPerson,
}

/// The row of a response, if it has one. `api/query` returns rows as plain objects, the older `api/iqa` as
/// lists of properties.
pub(crate) fn only_row(json: &[u8]) -> Result<Option<Row>, QueryError> {
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

pub(crate) fn columns(row: &Value) -> Result<Row, QueryError> {
    let Value::Object(object) = row else { return Err(QueryError::NotRows) };
    let pairs: Vec<(String, Value)> = match object.get("Properties") {
        Some(properties) => {
            let named = |property: &Value| {
                Some((property["Name"].as_str()?.to_owned(), unwrapped(&property["Value"]).clone()))
            };
            list_or_empty(properties).iter().map(named).collect::<Option<_>>().ok_or(QueryError::NotRows)?
        }
        None => object.iter().map(|(name, value)| (name.clone(), unwrapped(value).clone())).collect(),
    };
    let count = pairs.len();
    let row: Row = pairs.into_iter().filter(|(name, _)| !name.starts_with('$')).collect();
    let meta =
        object.keys().filter(|name| name.starts_with('$') && !object.contains_key("Properties")).count();
    // A duplicate column could have two values.
    if row.len() + meta == count { Ok(row) } else { Err(QueryError::NotRows) }
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
}
