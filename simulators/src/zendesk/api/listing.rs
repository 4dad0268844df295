//! Pages of a list: by cursor when `page[..]` is asked for, else by number.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::Received;

/// The parameters of the query.
pub(super) fn parameters(request: &Received) -> Vec<(String, String)> {
    let query = request.head.uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The id that the records of the wanted page come after.
pub(super) fn after(request: &Received) -> u64 {
    let cursor = request.query("page[after]").unwrap_or_default();
    let json: Value =
        STANDARD.decode(cursor).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    json["v"].as_u64().unwrap_or_default()
}

fn cursor(id: u64) -> String {
    STANDARD.encode(json!({"o": "id", "v": id}).to_string())
}

/// The answer of a list: `rows` are the records after the cursor, each with its id. The records of the page are given
/// to `show`.
pub(super) fn page<T>(
    request: &Received,
    name: &str,
    mut rows: impl Iterator<Item = (u64, T)>,
    mut show: impl FnMut(T) -> Value,
) -> Value {
    let all = parameters(request);
    let number = |name: &str| request.query(name).and_then(|text| text.parse::<usize>().ok());
    if !all.iter().any(|(name, _)| name.starts_with("page[")) {
        return numbered(request, name, rows, show, number("page").unwrap_or(1).max(1));
    }
    let size = number("page[size]").unwrap_or(100).clamp(1, 100);
    let mut last = None;
    let mut shown = Vec::new();
    for (id, row) in rows.by_ref().take(size) {
        last = Some(id);
        shown.push(show(row));
    }
    let has_more = rows.next().is_some();
    let cursor = last.filter(|_| has_more).map(cursor);
    let next = cursor.as_deref().map(|cursor| {
        let kept = all.iter().filter(|(name, _)| name != "page[after]");
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(kept).append_pair("page[after]", cursor);
        format!("https://{}{}?{}", request.host(), request.head.uri.path(), query.finish())
    });
    json!({name: shown, "meta": {"has_more": has_more, "after_cursor": cursor, "before_cursor": null},
        "links": {"next": next, "prev": null}})
}

/// Pages by number, at most 10,000 records deep.
fn numbered<T>(
    request: &Received,
    name: &str,
    rows: impl Iterator<Item = (u64, T)>,
    mut show: impl FnMut(T) -> Value,
    page: usize,
) -> Value {
    let rows: Vec<T> = rows.map(|(_, row)| row).collect();
    let count = rows.len();
    let is_last = page * 100 >= count.min(10_000);
    let shown: Vec<Value> = rows.into_iter().skip((page - 1) * 100).take(100).map(&mut show).collect();
    let next = (!is_last)
        .then(|| format!("https://{}{}?page={}", request.host(), request.head.uri.path(), page + 1));
    json!({name: shown, "count": count, "next_page": next, "previous_page": null})
}
