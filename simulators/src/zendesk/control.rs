//! What a test of synchronisation does to the account, and asks about it.

use std::time::Duration;

use serde_json::Value;

use super::account::Refusal;
use super::account::fields::UserField;
use super::account::jobs::{Fate, Pace};
use super::api::limits::Limits;
use super::{Account, State, User, Write, WriteKind, Zendesk, lock};
use crate::members::Member;

/// A moment in a run: API requests count from 1, requests for a token among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request has arrived, and nothing has been done about it.
    Before(u64),
    /// The request has been carried out, and the answer has not been sent.
    After(u64),
}

type Hook = Box<dyn FnOnce(&State) + Send>;

/// What happens at which moment.
#[derive(Default)]
pub(super) struct Hooks {
    requests: u64,
    waiting: Vec<(Moment, Hook)>,
}

impl Hooks {
    /// The number of a new request.
    pub(super) fn count(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

pub(super) fn run_hooks(state: &State, moment: Moment) {
    let all = std::mem::take(&mut lock(&state.hooks).waiting);
    let (due, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at, _)| *at == moment);
    lock(&state.hooks).waiting.extend(waiting);
    for (_, hook) in due {
        hook(state);
    }
}

impl Zendesk {
    /// How many API requests have arrived.
    pub fn requests(&self) -> u64 {
        lock(&self.state.hooks).requests
    }

    /// Does something at a moment, such as to kill the client. It must not use the simulator.
    pub fn at(&self, moment: Moment, act: impl FnOnce() + Send + 'static) {
        lock(&self.state.hooks).waiting.push((moment, Box::new(move |_| act())));
    }

    /// Changes a user at a moment, as somebody else would.
    pub fn edit_user_at(
        &self,
        moment: Moment,
        external_id: &str,
        edit: impl FnOnce(&mut User) + Send + 'static,
    ) {
        let id = external_id.to_owned();
        let hook: Hook = Box::new(move |state| edit_user(&mut lock(&state.account), &id, edit));
        lock(&self.state.hooks).waiting.push((moment, hook));
    }

    /// Every write that the account has carried out, in order.
    pub fn journal(&self) -> Vec<Write> {
        self.with_account(|account| account.journal.clone())
    }

    /// Empties the journal, before a second run.
    pub fn clear_journal(&self) {
        self.with_account(|account| account.journal.clear());
    }

    /// How many writes of this kind the account has carried out.
    pub fn writes(&self, kind: WriteKind) -> usize {
        self.with_account(|account| account.journal.iter().filter(|write| write.kind == kind).count())
    }

    /// The users as JSON, without what differs between two equal runs: ids and times. Sorted by external id; those
    /// without one are first. Each has the names of its organizations and its other addresses.
    pub fn snapshot(&self) -> Vec<Value> {
        self.with_account(|account| account.snapshot())
    }

    /// The user with this external id.
    pub fn user(&self, external_id: &str) -> Option<User> {
        self.with_account(|account| account.users.by_external_id(external_id).cloned())
    }

    /// Changes one user, as somebody else would.
    pub fn edit_user(&self, external_id: &str, edit: impl FnOnce(&mut User)) {
        self.with_account(|account| edit_user(account, external_id, edit));
    }

    /// Adds users for the members with these numbers, as a run that has synchronised iMIS ID, name, address and phone
    /// leaves them.
    pub fn fill(&self, members: std::ops::Range<usize>) {
        self.fill_with(members, |_, _| {});
    }

    /// Adds users for the members with these numbers, each changed by `edit` first.
    pub fn fill_with(&self, members: std::ops::Range<usize>, edit: impl Fn(usize, &mut User)) {
        self.with_account(|account| {
            for number in members {
                let member = Member::generated(number);
                let mut user = User::new(account.users.next_id(), 0);
                user.name = member.name();
                user.email = member.email.unwrap_or_default();
                user.external_id = Some(member.id);
                user.phone = member.phone;
                edit(number, &mut user);
                account.users.put(user);
            }
        });
    }

    /// Adds an organization; the answer is its id.
    pub fn add_organization(&self, name: &str, external_id: Option<&str>) -> u64 {
        self.with_account(|account| account.organizations.add(name, external_id.map(str::to_owned), 0))
    }

    /// Changes the user fields.
    pub fn edit_fields(&self, edit: impl FnOnce(&mut Vec<UserField>)) {
        self.with_account(|account| edit(&mut account.fields));
    }

    /// Whether the account has bulk import.
    pub fn set_bulk_enabled(&self, enabled: bool) {
        self.with_account(|account| account.bulk_enabled = enabled);
    }

    /// What makes jobs move on; at first, two polls complete one.
    pub fn set_job_pace(&self, pace: Pace) {
        self.with_account(|account| account.jobs.pace = pace);
    }

    /// How many jobs may be queued or running; 30 at first.
    pub fn set_max_jobs(&self, max: usize) {
        self.with_account(|account| account.jobs.max_in_flight = max);
    }

    /// What becomes of the next jobs, in order; jobs after those complete.
    pub fn set_next_jobs(&self, fates: impl IntoIterator<Item = Fate>) {
        self.with_account(|account| account.jobs.fates = fates.into_iter().collect());
    }

    /// Results of jobs as users of Zendesk have seen them, instead of as documented: a failed one has the index as
    /// `id`, and none has `index`, `action` or `success`.
    pub fn set_observed_results(&self, observed: bool) {
        self.with_account(|account| account.jobs.as_observed = observed);
    }

    /// Carries out whatever jobs have left, as the account does when the client has gone.
    pub fn finish_jobs(&self) {
        self.with_account(Account::finish_jobs);
    }

    /// The next `times` writes to a member fail, alone or in a job. `member` is an external id or an address. The code
    /// `DatabaseConflict` is a 409, any other one is a 422.
    pub fn refuse(&self, member: &str, code: &'static str, times: u32) {
        let refusal = Refusal { member: member.to_owned(), code, times };
        self.with_account(|account| account.refusals.push(refusal));
    }

    /// Changes the limits.
    pub fn edit_limits(&self, edit: impl FnOnce(&mut Limits)) {
        edit(&mut lock(&self.state.api).counters.limits);
    }

    /// The limits of Zendesk for writes to single users: 1 a second, and 5 a minute for one user.
    pub fn limit_updates(&self) {
        self.edit_limits(|limits| {
            limits.between_updates = Some(Duration::from_secs(1));
            limits.updates_of_user = Some((5, Duration::from_secs(60)));
        });
    }

    /// How often a limit has answered 429: `account`, `update`, `user` or `edge`.
    pub fn refused_by(&self, limit: &str) -> usize {
        lock(&self.state.api).counters.refused.get(limit).copied().unwrap_or_default()
    }

    /// The scopes of the tokens that are given out from now on, such as `read users:write`.
    pub fn set_scope(&self, scope: &str) {
        lock(&self.state.api).scope = Some(scope.to_owned());
    }

    /// Ends every token that has been given out.
    pub fn expire_tokens(&self) {
        lock(&self.state.api).expire_tokens();
    }

    /// Brings jobs that move with time up to date first.
    fn with_account<T>(&self, use_it: impl FnOnce(&mut Account) -> T) -> T {
        let account = &mut *lock(&self.state.account);
        account.settle();
        use_it(account)
    }
}

fn edit_user(account: &mut Account, external_id: &str, edit: impl FnOnce(&mut User)) {
    if let Some(mut user) = account.users.by_external_id(external_id).cloned() {
        edit(&mut user);
        account.users.put(user);
    }
}
