//! Changes of a Zendesk account: users in jobs or one by one, sessions, organizations and memberships.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::zendesk::api::{Api, ApiError};

/// Users that one job takes.
pub(crate) const MAX_IN_JOB: usize = 100;
/// Zendesk allows one update of a single user per second and account.
const SINGLE_INTERVAL: Duration = Duration::from_millis(1050);
/// How often a request is repeated that Zendesk answers with 409 or a server error.
const MAX_ATTEMPTS: u32 = 4;

/// A change was not made. No variant contains text from the response, except for codes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the Zendesk API")]
    Api(#[from] ApiError),
    /// The status, and the codes of the fields: `email: DuplicateValue`.
    #[error("Zendesk refused the change: status {0} ({1})")]
    Refused(StatusCode, String),
    #[error("the account has no bulk import (Zendesk Support enables it)")]
    NoBulkImport,
    #[error("30 jobs of the account are in progress")]
    TooManyJobs,
}

impl WriteError {
    /// The outcome of a change that was not made, such as `failed: 422 email: DuplicateValue`.
    pub(crate) fn outcome(&self) -> String {
        match self {
            Self::Refused(status, codes) => format!("failed: {} {codes}", status.as_u16()),
            Self::Api(_) | Self::NoBulkImport | Self::TooManyJobs => format!("failed: {self}"),
        }
    }
}

/// The state of a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum JobState {
    Running,
    /// One result per record, in the order of the request.
    Done(Vec<Result<Option<u64>, String>>),
    /// It ended early. Part of it may have been done.
    Failed,
    /// Zendesk does not know it any more.
    Vanished,
}

/// Makes changes, as fast as the limits of the account allow.
pub(crate) struct Writer<'a> {
    api: &'a Api,
    /// When the next single update may be sent.
    next_single: Mutex<Instant>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(api: &'a Api) -> Self {
        Self { api, next_single: Mutex::new(Instant::now()) }
    }

    /// Starts a job that updates users by their Zendesk ID, or that creates users. Returns the ID of the job.
    pub(crate) async fn start_job(&self, users: &[Value], creates: bool) -> Result<String, WriteError> {
        let (method, path) = if creates {
            (Method::POST, "users/create_or_update_many")
        } else {
            (Method::PUT, "users/update_many")
        };
        self.job(method, path, &json!({"users": users})).await
    }

    async fn job(&self, method: Method, path: &str, json: &Value) -> Result<String, WriteError> {
        match self.api.request(method, path, Some(json)).await? {
            (status, Some(body)) if status.is_success() => match body["job_status"]["id"].as_str() {
                Some(id) if id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => Ok(id.to_owned()),
                _ => Err(ApiError::Answer.into()),
            },
            (StatusCode::FORBIDDEN, _) => Err(WriteError::NoBulkImport),
            (StatusCode::TOO_MANY_REQUESTS, _) => Err(WriteError::TooManyJobs),
            (status, body) => Err(refused(status, body.as_ref())),
        }
    }

    pub(crate) async fn job_state(&self, id: &str) -> Result<JobState, WriteError> {
        match self.api.request(Method::GET, &format!("job_statuses/{id}"), None).await? {
            (StatusCode::OK, Some(body)) => Ok(job_state(&body["job_status"])),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Ok(JobState::Vanished),
            (status, _) => Err(ApiError::Status(status).into()),
        }
    }

    /// Whether a job of the account is queued or working. Zendesk lists the recent ones.
    pub(crate) async fn has_running_job(&self) -> Result<bool, WriteError> {
        let body = self.api.get("job_statuses").await?;
        let jobs = body["job_statuses"].as_array().ok_or(ApiError::Answer)?;
        Ok(jobs.iter().any(|job| job_state(job) == JobState::Running))
    }

    /// Updates a user, or creates one without `id`. Returns the user's ID.
    pub(crate) async fn write_user(&self, id: Option<u64>, user: &Value) -> Result<u64, WriteError> {
        let json = json!({"user": user});
        let body = match id {
            Some(id) => self.single(Method::PUT, &format!("users/{id}"), Some(&json)).await?,
            None => self.single(Method::POST, "users/create_or_update", Some(&json)).await?,
        };
        body.as_ref().and_then(|body| body["user"]["id"].as_u64()).ok_or_else(|| ApiError::Answer.into())
    }

    /// Ends all sessions of at most 100 users.
    pub(crate) async fn end_sessions(&self, ids: &[u64]) -> Result<(), WriteError> {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let path = format!("users/logout_many?ids={}", ids.join(","));
        match self.api.request(Method::POST, &path, None).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, body) => Err(refused(status, body.as_ref())),
        }
    }

    /// Creates an organization and returns its ID.
    pub(crate) async fn create_organization(&self, name: &str) -> Result<u64, WriteError> {
        let json = json!({"organization": {"name": name}});
        let body = self.single(Method::POST, "organizations", Some(&json)).await?;
        body.and_then(|body| body["organization"]["id"].as_u64()).ok_or_else(|| ApiError::Answer.into())
    }

    pub(crate) async fn add_to_organization(&self, user: u64, organization: u64) -> Result<(), WriteError> {
        let json = json!({"organization_membership": {"user_id": user, "organization_id": organization}});
        match self.single(Method::POST, "organization_memberships", Some(&json)).await {
            // The membership exists.
            Err(WriteError::Refused(StatusCode::UNPROCESSABLE_ENTITY, codes))
                if codes.contains("DuplicateValue") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    pub(crate) async fn end_membership(&self, id: u64) -> Result<(), WriteError> {
        match self.single(Method::DELETE, &format!("organization_memberships/{id}"), None).await {
            Err(WriteError::Refused(StatusCode::NOT_FOUND, _)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// One change, not faster than the limit allows.
    async fn single(
        &self,
        method: Method,
        path: &str,
        json: Option<&Value>,
    ) -> Result<Option<Value>, WriteError> {
        for attempt in 1.. {
            let mut next = self.next_single.lock().await;
            tokio::time::sleep_until(*next).await;
            let answer = self.api.request(method.clone(), path, json).await;
            // A request that was repeated counts from its last attempt.
            *next = Instant::now() + SINGLE_INTERVAL;
            drop(next);
            let (status, body) = answer?;
            if status.is_success() {
                return Ok(body);
            }
            let may_repeat = status == StatusCode::CONFLICT || status.is_server_error();
            if !may_repeat || attempt == MAX_ATTEMPTS {
                return Err(refused(status, body.as_ref()));
            }
            tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
        }
        Err(ApiError::Answer.into())
    }
}

fn job_state(job: &Value) -> JobState {
    match job["status"].as_str() {
        Some("completed") => {
            let mut results = job["results"].as_array().cloned().unwrap_or_default();
            // In the order of the request; some accounts send no index.
            if results.iter().all(|result| result["index"].is_u64()) {
                results.sort_by_key(|result| result["index"].as_u64());
            }
            JobState::Done(results.iter().map(item_result).collect())
        }
        Some("failed" | "killed") => JobState::Failed,
        _ => JobState::Running,
    }
}

/// The result of one record: the user's ID, or the code of the error.
fn item_result(result: &Value) -> Result<Option<u64>, String> {
    let status = result["status"].as_str().unwrap_or_default();
    let failed =
        status.eq_ignore_ascii_case("failed") || result["success"] == false || !result["error"].is_null();
    if !failed {
        return Ok(result["id"].as_u64());
    }
    let code = [&result["error"], &result["errors"], &result["details"]].into_iter().find_map(code_in);
    Err(code.unwrap_or_else(|| "Failed".to_owned()))
}

/// A code of Zendesk, such as `DuplicateValue`. Texts of responses are localised and may contain personal data.
fn code_in(value: &Value) -> Option<String> {
    const KNOWN: [&str; 12] = [
        "DuplicateValue",
        "InvalidValue",
        "BlankValue",
        "InvalidFormat",
        "TooLong",
        "UserUpdateError",
        "UserCreateError",
        "PermissionDenied",
        "RecordNotFound",
        "RecordInvalid",
        "UserNotFound",
        "AlreadyTaken",
    ];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    KNOWN.iter().find(|code| text.contains(**code)).map(|code| (*code).to_owned())
}

fn refused(status: StatusCode, body: Option<&Value>) -> WriteError {
    let details = body.and_then(|body| body["details"].as_object());
    let fields = details.into_iter().flatten().filter_map(|(field, problems)| {
        let is_name = field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let code = code_in(&problems[0]["error"]).unwrap_or_else(|| "invalid".to_owned());
        is_name.then(|| format!("{field}: {code}"))
    });
    let fields = fields.collect::<Vec<_>>().join(", ");
    let error = || body.and_then(|body| code_in(&body["error"])).unwrap_or_else(|| "no details".to_owned());
    WriteError::Refused(status, if fields.is_empty() { error() } else { fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_a_job_give_ids_or_codes_but_no_texts() {
        let job = json!({"status": "completed", "results": [
            {"id": 7, "status": "Created"},
            {"status": "Failed", "errors": "Email: ann@example.org ya existe", "error": "DuplicateValue"},
            {"index": 2, "success": false, "details": {"email": [{"error": "InvalidFormat"}]}},
            {"success": false, "error": "Ann Müller"},
        ]});
        let code = |text: &str| Err(text.to_owned());
        let expected = vec![Ok(Some(7)), code("DuplicateValue"), code("InvalidFormat"), code("Failed")];
        assert_eq!(job_state(&job), JobState::Done(expected));
        assert_eq!(job_state(&json!({"status": "queued"})), JobState::Running);
        assert_eq!(job_state(&json!({"status": "failed"})), JobState::Failed);
    }

    #[test]
    fn results_are_in_the_order_of_their_indexes() {
        let job = json!({"status": "completed", "results": [{"id": 8, "index": 1}, {"id": 7, "index": 0}]});
        assert_eq!(job_state(&job), JobState::Done(vec![Ok(Some(7)), Ok(Some(8))]));
        let job = json!({"status": "completed", "results": [{"id": 8}, {"id": 7}]});
        assert_eq!(job_state(&job), JobState::Done(vec![Ok(Some(8)), Ok(Some(7))]));
    }

    #[test]
    fn a_refusal_names_the_fields_and_their_codes() {
        let body = json!({"error": "RecordInvalid", "details": {"email": [{"description": "ann@x", "error": "DuplicateValue"}]}});
        let error = refused(StatusCode::UNPROCESSABLE_ENTITY, Some(&body)).to_string();
        assert!(error.contains("email: DuplicateValue") && !error.contains("ann@x"), "{error}");
    }
}
