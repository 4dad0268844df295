//! Background jobs: what a bulk request asks for is done later, and a client polls for the results.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::writes::{Refused, Target};
use super::{Account, Origin};

/// What makes jobs move on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// This many polls complete a job; without polls it stays where it is.
    Polls(u32),
    /// A job completes after this time, whether or not anybody polls. Tests that kill the client need this one.
    Time(Duration),
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It completes.
    Completes,
    /// It ends as `failed` after this many items. The others are not carried out.
    FailsAfter {
        /// The number of items that are carried out.
        items: usize,
        /// Whether the failed job lists their results.
        with_results: bool,
    },
    /// Its URL answers 404.
    Vanishes {
        /// Whether its items were carried out all the same.
        carried_out: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    CreateOrUpdateUsers,
    UpdateUsers,
    CreateOrganizations,
    CreateMemberships,
}

impl JobKind {
    fn name(self) -> &'static str {
        match self {
            Self::CreateOrUpdateUsers => "Bulk Create or Update User",
            Self::UpdateUsers => "Bulk Update User",
            Self::CreateOrganizations => "Bulk Create Organization",
            Self::CreateMemberships => "Bulk Create Organization Membership",
        }
    }
}

struct Job {
    kind: JobKind,
    /// Forgotten when they have been carried out.
    items: Vec<Value>,
    total: usize,
    origin: Origin,
    results: Vec<Value>,
    fate: Fate,
    polls: u32,
    started: Instant,
}

impl Job {
    /// How many items are ever carried out.
    fn end(&self) -> usize {
        match self.fate {
            Fate::Completes | Fate::Vanishes { carried_out: true } => self.total,
            Fate::FailsAfter { items, .. } => items.min(self.total),
            Fate::Vanishes { carried_out: false } => 0,
        }
    }
}

pub(crate) struct Jobs {
    all: HashMap<String, Job>,
    in_flight: Vec<String>,
    pub(crate) pace: Pace,
    pub(crate) max_in_flight: usize,
    /// What becomes of the next jobs, in the order in which they are asked for.
    pub(crate) fates: VecDeque<Fate>,
    /// Results look as users have seen them: a failed one has the index as `id`, and none has `index` or `success`.
    pub(crate) as_observed: bool,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            in_flight: Vec::new(),
            pace: Pace::Polls(2),
            max_in_flight: 30,
            fates: VecDeque::new(),
            as_observed: false,
        }
    }
}

impl Account {
    /// Queues a job; the answer is the job as queued, or 429.
    pub(crate) fn queue(
        &mut self,
        kind: JobKind,
        items: Vec<Value>,
        id: String,
        origin: &Origin,
    ) -> Result<Value, Refused> {
        if self.jobs.in_flight.len() >= self.jobs.max_in_flight {
            let text = "Too many jobs are queued or running";
            return Err(Refused { status: 429, body: json!({"error": "TooManyJobs", "description": text}) });
        }
        let fate = self.jobs.fates.pop_front().unwrap_or(Fate::Completes);
        let origin = Origin { job: Some(id.clone()), ..origin.clone() };
        let (total, results, started) = (items.len(), Vec::new(), Instant::now());
        let job = Job { kind, items, total, origin, results, fate, polls: 0, started };
        let queued = json!({"id": id, "job_type": kind.name(), "url": url(&id), "total": job.total,
            "progress": null, "status": "queued", "message": null, "results": null});
        self.jobs.all.insert(id.clone(), job);
        self.jobs.in_flight.push(id.clone());
        // Nobody can poll it.
        if matches!((fate, self.jobs.pace), (Fate::Vanishes { .. }, Pace::Polls(_))) {
            self.advance(&id, usize::MAX);
        }
        Ok(queued)
    }

    /// The state of a job at a poll.
    pub(crate) fn poll(&mut self, id: &str) -> Option<Value> {
        let job = self.jobs.all.get_mut(id).filter(|job| !matches!(job.fate, Fate::Vanishes { .. }))?;
        job.polls += 1;
        if let Pace::Polls(needed) = self.jobs.pace {
            let share = job.total * job.polls as usize / needed.max(1) as usize;
            let all = job.polls >= needed;
            self.advance(id, if all { usize::MAX } else { share });
        }
        let is_done = !self.jobs.in_flight.iter().any(|own| own == id);
        let job = self.jobs.all.get(id)?;
        let (status, shows_results) = match (is_done, job.fate) {
            (false, _) if job.results.is_empty() => ("queued", false),
            (false, _) => ("working", false),
            (true, Fate::FailsAfter { with_results, .. }) => ("failed", with_results),
            (true, Fate::Completes | Fate::Vanishes { .. }) => ("completed", true),
        };
        let results = shows_results.then_some(&job.results);
        let message = is_done.then(|| match status {
            "failed" => "The job failed".to_owned(),
            _ => "Completed at 2026-12-01 00:00:00 +0000".to_owned(),
        });
        Some(json!({"id": id, "job_type": job.kind.name(), "url": url(id), "total": job.total,
            "progress": job.results.len(), "status": status, "message": message, "results": results}))
    }

    /// The states of all jobs, as the list of recent jobs shows them.
    pub(crate) fn poll_all(&mut self) -> Vec<Value> {
        let ids: Vec<String> = self.jobs.all.keys().cloned().collect();
        ids.iter().filter_map(|id| self.poll(id)).collect()
    }

    /// Carries out what is due by now, for jobs that move with time.
    pub(crate) fn settle(&mut self) {
        let Pace::Time(needed) = self.jobs.pace else { return };
        for id in self.jobs.in_flight.clone() {
            let Some(job) = self.jobs.all.get(&id) else { continue };
            let elapsed = job.started.elapsed();
            if elapsed >= needed {
                self.advance(&id, usize::MAX);
            } else {
                let share = elapsed.as_secs_f64() / needed.as_secs_f64();
                let due = (0..job.total).filter(|index| (*index as f64) < share * job.total as f64);
                self.advance(&id, due.count());
            }
        }
    }

    /// Carries out whatever jobs have left, as the account does when the client has gone.
    pub(crate) fn finish_jobs(&mut self) {
        for id in self.jobs.in_flight.clone() {
            self.advance(&id, usize::MAX);
        }
    }

    /// Carries out the first `wanted` items of a job.
    fn advance(&mut self, id: &str, wanted: usize) {
        let Some(mut job) = self.jobs.all.remove(id) else { return };
        let end = job.end();
        while job.results.len() < wanted.min(end) {
            let index = job.results.len();
            let result = self.item(job.kind, &job.items[index], index, &job.origin);
            job.results.push(result);
        }
        if wanted >= job.total {
            job.items = Vec::new();
            self.jobs.in_flight.retain(|own| own != id);
        }
        self.jobs.all.insert(id.to_owned(), job);
    }

    fn item(&mut self, kind: JobKind, wanted: &Value, index: usize, origin: &Origin) -> Value {
        let (action, written) = match kind {
            JobKind::CreateOrUpdateUsers => {
                let written = self.write_user(wanted, Target::CreateOrUpdate, origin);
                let is_new = matches!(written, Ok((true, _)));
                (if is_new { "create" } else { "update" }, written.map(|(_, id)| id))
            }
            JobKind::UpdateUsers => {
                let by_external_id =
                    || self.users.by_external_id(wanted["external_id"].as_str()?).map(|u| u.id);
                // An id that nobody has is refused below.
                let id = wanted["id"].as_u64().or_else(by_external_id).unwrap_or_default();
                ("update", self.write_user(wanted, Target::Update(id), origin).map(|(_, id)| id))
            }
            JobKind::CreateOrganizations => ("create", self.create_organization(wanted, origin)),
            JobKind::CreateMemberships => ("create", self.create_membership(wanted, origin)),
        };
        let observed = self.jobs.as_observed;
        match written {
            Ok(id) => {
                let status = if action == "create" { "Created" } else { "Updated" };
                let mut result = if observed {
                    json!({"id": id, "status": status})
                } else {
                    json!({"index": index, "id": id, "action": action, "status": status, "success": true})
                };
                for name in ["email", "external_id"].into_iter().filter(|name| wanted[*name].is_string()) {
                    result[name] = wanted[name].clone();
                }
                result
            }
            Err(refused) => {
                let is_user = matches!(kind, JobKind::CreateOrUpdateUsers | JobKind::UpdateUsers);
                let error = match is_user && refused.status == 422 {
                    true => json!("UserUpdateError"),
                    false => refused.body["error"].clone(),
                };
                let details = descriptions(&refused.body);
                if observed {
                    json!({"id": index, "error": error, "details": details, "status": "Failed"})
                } else {
                    json!({"index": index, "action": action, "status": "Failed", "success": false, "error": error,
                        "details": details, "errors": details})
                }
            }
        }
    }
}

fn url(id: &str) -> String {
    format!("https://contoso.zendesk.com/api/v2/job_statuses/{id}.json")
}

/// The descriptions of a refusal in one text, without codes.
fn descriptions(body: &Value) -> String {
    let details = body["details"].as_object().into_iter().flatten();
    let texts: Vec<&str> = details.filter_map(|(_, all)| all[0]["description"].as_str()).collect();
    if texts.is_empty() {
        body["description"].as_str().unwrap_or_default().to_owned()
    } else {
        texts.join(" ")
    }
}
