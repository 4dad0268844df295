//! A stored query (IQA) that iMIS filters by the signed-in person. It returns identity and profile with the
//! visitor's own rights.
//!
//! The REST API accepts a visitor's cookies only with the anti-forgery token of a page, so a page is fetched
//! first. A query without the filter returns all contacts, so more than one row is an error, and so is a row
//! that contradicts the page.

use http::header::{HeaderName, HeaderValue};
use reqwest::StatusCode;

use crate::base::query::encoded;
use crate::config::WhoamiQuery;
use crate::imis::client::{self, ApiError};
use crate::imis::identity::{Identity, PartyId};
use crate::imis::json::non_blank;
use crate::imis::recognise::client_context;
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::page::Page;
use crate::imis::recognise::query_row::{QueryError, only_row};
use crate::imis::recognise::visitor_client::{PageResponse, VisitorRequest, VisitorSession, with_cookies};

const VERIFICATION_TOKEN: HeaderName = HeaderName::from_static("requestverificationtoken");
const MAX_ROW_BYTES: usize = 1024 * 1024;
const MAX_TOKEN_BYTES: usize = 4096;

pub(super) async fn identify(
    session: &mut VisitorSession<'_>,
    query: &WhoamiQuery,
) -> Result<Option<Identity>, RecogniseError> {
    let PageResponse::Page { page, set_cookies } = session.page(&query.page).await? else { return Ok(None) };
    // iMIS runs queries of anonymous visitors as a user of its own, who may have a row, so the page decides.
    let Some(signed_in) = client_context::read(&page)? else { return Ok(None) };
    let target = target(query);
    let request = VisitorRequest {
        name: "query",
        accept: "application/json",
        cookie: with_cookies(session.visitor.headers, &set_cookies),
        extra_header: Some((VERIFICATION_TOKEN, anti_forgery_token(&page)?)),
        ..VisitorRequest::page(&target)
    };
    let response = session.send(&request).await?;
    if response.status() != StatusCode::OK {
        return Err(ApiError::Status(response.status()).into());
    }
    let json = client::json_body(response, MAX_ROW_BYTES).await?;
    let row = only_row(&json)?.ok_or(QueryError::NoRow)?;
    session.report.set_columns(row.keys().map(String::as_str));
    let id = row.get(&query.id_column).and_then(non_blank).and_then(|text| PartyId::parse(&text));
    let id = id.ok_or_else(|| QueryError::Column(query.id_column.clone()))?;
    if id.is_guest() {
        return Ok(None);
    }
    if signed_in.id != id {
        return Err(QueryError::AnotherPerson.into());
    }
    let row = query.profile_columns.is_some().then_some(row);
    Ok(Some(Identity { on_behalf_of: signed_in.on_behalf_of, row, sees_on_behalf: true, ..Identity::of(id) }))
}

fn target(query: &WhoamiQuery) -> String {
    let separator = if query.endpoint.contains('?') { '&' } else { '?' };
    // Two rows are enough to detect a missing filter.
    format!("{}{separator}QueryName={}&limit=2", query.endpoint, encoded(&query.query))
}

fn anti_forgery_token(page: &Page) -> Result<HeaderValue, QueryError> {
    let [token] = page.anti_forgery.as_slice() else { return Err(QueryError::NoToken) };
    let plain = token.iter().all(u8::is_ascii_graphic) && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES;
    let mut value = HeaderValue::from_bytes(token).ok().filter(|_| plain).ok_or(QueryError::NoToken)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

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
