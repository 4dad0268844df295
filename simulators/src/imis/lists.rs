//! Lists that synchronisation reads: parties by filter, members of a group, stored queries. Each has pages.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Reply;
use super::population::{Population, Slot};
use super::queries::StoredQuery;
use super::{Imis, State, lock};
use crate::members::Member;
use crate::server::{self, Answer, Received, html};

/// How one page fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFailure {
    /// This status, such as 401, 500 or 503.
    Status(u16),
    /// HTML with status 200.
    Html,
    /// The connection is dropped.
    Drop,
}

/// How lists misbehave. Offsets count from 0; a fault is for the page that starts there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFaults {
    /// The page before says that there are more, and from here on pages are empty.
    pub ends_early_at: Option<usize>,
    /// This page has the rows of the one before, so that its own are in none.
    pub repeats_at: Option<usize>,
    /// Every page says that the list has this many rows.
    pub total_count: Option<usize>,
    /// Pages that fail, each once.
    pub failures: Vec<(usize, PageFailure)>,
    /// Every page waits this long.
    pub delay: Option<Duration>,
    /// A filter on `UpdatedOn` has no effect, as the vendor's documents warn.
    pub ignores_updated_on: bool,
}

type Later = Box<dyn FnOnce(&mut Population) + Send>;

/// Everything about lists that can change.
pub(super) struct Lists {
    pub(super) population: Population,
    pub(super) faults: ListFaults,
    /// Rows of a page at most.
    page_cap: usize,
    queries: Vec<StoredQuery>,
    /// Changes that happen when a page at this offset, or a later one, is asked for.
    later: Vec<(usize, Later)>,
    /// The last filter, with the version of the population that it was applied to.
    filtered: Option<(String, u64, Arc<Vec<Slot>>)>,
}

impl Lists {
    pub(super) fn new(people: Vec<super::Person>) -> Self {
        Self {
            population: Population::new(people),
            faults: ListFaults::default(),
            // So that a handful of people fill several pages.
            page_cap: 3,
            queries: vec![StoredQuery::all_members("$/Gateway/AllMembers")],
            later: Vec::new(),
            filtered: None,
        }
    }

    /// The members that a filter leaves. Kept until the next filter or change, since a list has many pages.
    fn filtered(&mut self, key: &str, keep: impl Fn(&Member) -> bool) -> Arc<Vec<Slot>> {
        let version = self.population.version;
        if let Some((_, _, slots)) =
            self.filtered.as_ref().filter(|(own, of, _)| own == key && *of == version)
        {
            return slots.clone();
        }
        let population = &self.population;
        let slots: Vec<Slot> = population.slots().filter(|slot| keep(&population.member(*slot))).collect();
        let slots = Arc::new(slots);
        self.filtered = Some((key.to_owned(), version, slots.clone()));
        slots
    }

    /// A page of a list, with its faults; `None` drops the connection.
    fn page(
        &mut self,
        request: &Received,
        key: &str,
        keep: impl Fn(&Member) -> bool,
        show: impl Fn(&Population, Slot) -> Value,
    ) -> Answer {
        let number = |name: &str| parameter(request, name).and_then(|text| text.parse::<usize>().ok());
        let limit = number("limit").unwrap_or(100).clamp(1, self.page_cap);
        let offset = number("offset").unwrap_or_default();
        let all = std::mem::take(&mut self.later);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at, _)| *at <= offset);
        self.later = later;
        for (_, change) in due {
            change(&mut self.population);
        }
        let is_this = |at: usize| (offset..offset + limit).contains(&at);
        if let Some(index) = self.faults.failures.iter().position(|(at, _)| is_this(*at)) {
            let (_, failure) = self.faults.failures.remove(index);
            return match failure {
                PageFailure::Status(status) => {
                    let text = json!({"Errors": {"$values": [{"Message": "Something failed"}]}});
                    Some(server::json(status, &text))
                }
                PageFailure::Html => Some(html(200, "<html><body>Request blocked</body></html>")),
                PageFailure::Drop => None,
            };
        }
        let slots = self.filtered(key, keep);
        let shift = if self.faults.repeats_at.is_some_and(is_this) { limit.min(offset) } else { 0 };
        let ended = self.faults.ends_early_at.is_some_and(|at| offset >= at);
        let rows = slots.iter().skip(offset - shift).take(if ended { 0 } else { limit });
        let rows: Vec<Value> = rows.map(|slot| show(&self.population, *slot)).collect();
        let has_next = !rows.is_empty() && offset + rows.len() < slots.len();
        let total = self.faults.total_count.unwrap_or(slots.len());
        Some(server::json(
            200,
            &json!({"$type": "Asi.Soa.Core.DataContracts.PagedResult, Asi.Contracts",
                "Items": {"$type": "System.Collections.Generic.List, mscorlib", "$values": rows},
                "Offset": offset, "Limit": limit, "Count": rows.len(), "TotalCount": total,
                "HasNext": has_next, "NextOffset": if has_next { offset + limit } else { 0 }}),
        ))
    }
}

/// Names of parameters ignore case.
fn parameter(request: &Received, wanted: &str) -> Option<String> {
    let query = request.head.uri.query().unwrap_or_default();
    let mut all = url::form_urlencoded::parse(query.as_bytes());
    all.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.into_owned())
}

/// A filter: the name of an attribute, an operator and its operand.
struct Filter {
    name: String,
    operator: String,
    operand: String,
}

const OPERATORS: [&str; 14] = [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "contains",
    "startswith",
    "endswith",
    "in",
    "between",
    "isempty",
    "notempty",
    "equal",
];

impl Filter {
    fn new(name: &str, value: &str) -> Self {
        let (operator, operand) = match value.split_once(':') {
            Some((own, operand)) if OPERATORS.contains(&own.to_ascii_lowercase().as_str()) => (own, operand),
            _ => ("eq", value),
        };
        let operator = operator.to_ascii_lowercase();
        Self { name: name.to_ascii_lowercase(), operator, operand: operand.to_lowercase() }
    }

    /// The attribute of a member, or nothing for a name that iMIS does not filter on. `id` is likely, not confirmed.
    fn value(&self, member: &Member) -> Option<String> {
        let value = match self.name.as_str() {
            "id" | "partyid" => &member.id,
            "firstname" => &member.first,
            "lastname" => &member.last,
            "email" => member.email.as_deref().unwrap_or_default(),
            "status" => &member.status,
            "customertypecode" => &member.customer_type,
            "updatedon" => &member.updated_on,
            _ => return None,
        };
        Some(value.to_lowercase())
    }

    fn keeps(&self, member: &Member) -> bool {
        let value = self.value(member).unwrap_or_default();
        // Dates and times without a zone are in order as text.
        let operand = self.operand.as_str();
        match self.operator.as_str() {
            "ne" => value != operand,
            "lt" => value.as_str() < operand,
            "le" => value.as_str() <= operand,
            "gt" => value.as_str() > operand,
            "ge" => value.as_str() >= operand,
            "contains" => value.contains(operand),
            "startswith" => value.starts_with(operand),
            "endswith" => value.ends_with(operand),
            "in" => operand.split('|').any(|one| value == one),
            "between" => {
                operand.split_once('|').is_some_and(|(from, to)| (from..=to).contains(&value.as_str()))
            }
            "isempty" => value.is_empty(),
            "notempty" => !value.is_empty(),
            _ => value == operand,
        }
    }
}

/// Whether a request is for a list that `ListFaults::delay` slows down.
pub(super) fn is_list(path: &str) -> bool {
    ["api/party", "api/groupmember", "api/query", "api/iqa"].contains(&path)
}

/// `only`: the one contact that the caller may read.
pub(super) fn parties(state: &State, request: &Received, only: Option<&str>) -> Answer {
    let lists = &mut *lock(&state.lists);
    let query = request.head.uri.query().unwrap_or_default();
    let all = url::form_urlencoded::parse(query.as_bytes());
    let own = all.filter(|(name, _)| !["limit", "offset"].contains(&&*name.to_ascii_lowercase()));
    let filters: Vec<Filter> = own.map(|(name, value)| Filter::new(&name, &value)).collect();
    let nobody = Member::generated(0);
    if let Some(unknown) = filters.iter().find(|filter| filter.value(&nobody).is_none()) {
        let text = format!("{} cannot be filtered on.", unknown.name);
        return Some(server::json(400, &json!({"Errors": {"$values": [{"Message": text}]}})));
    }
    let ignores = lists.faults.ignores_updated_on;
    let mut key = format!("party {ignores} {only:?}");
    for filter in &filters {
        key.push_str(&format!("&{}={}:{}", filter.name, filter.operator, filter.operand));
    }
    let keep = |member: &Member| {
        let mut filters = filters.iter().filter(|filter| !(ignores && filter.name == "updatedon"));
        only.is_none_or(|only| member.id == only) && filters.all(|filter| filter.keeps(member))
    };
    lists.page(request, &key, keep, |population, slot| population.party(slot))
}

/// The members of a group, or the groups of a contact.
pub(super) fn group_members(state: &State, request: &Received) -> Answer {
    let lists = &mut *lock(&state.lists);
    let wanted = |name: &str| {
        let value = parameter(request, name).unwrap_or_default();
        value.strip_prefix("eq:").map_or(value.clone(), str::to_owned)
    };
    let (group, party) = (wanted("GroupId"), wanted("PartyId"));
    let row = |member: &Member, group: &str| {
        json!({"Group": {"GroupId": group}, "Party": {"PartyId": member.id, "Name": member.name()},
            "IsActive": true, "JoinDate": "2020-01-01T00:00:00",
            "MembershipDetails": {"$values": [{"EffectiveDate": "2020-01-01T00:00:00"}]}})
    };
    if !party.is_empty() {
        let member = lists.population.get(&party);
        let groups = member.iter().flat_map(|member| member.groups.iter().map(move |own| (member, own)));
        let found = groups.filter(|(_, own)| group.is_empty() || **own == group);
        return Some(super::api::page(found.map(|(member, own)| row(member, own)).collect()));
    }
    let key = format!("group {group}");
    let keep = |member: &Member| member.groups.contains(&group);
    lists.page(request, &key, keep, |population, slot| row(&population.member(slot), &group))
}

/// A stored query for a service account; nothing if there is none with this name.
pub(super) fn stored_query(state: &State, request: &Received, properties: bool) -> Option<Answer> {
    let lists = &mut *lock(&state.lists);
    let name = parameter(request, "QueryName")?;
    let query = lists.queries.iter().find(|query| query.name.eq_ignore_ascii_case(&name))?.clone();
    let show = |population: &Population, slot| query.row(&population.member(slot), properties);
    Some(lists.page(request, &format!("query {name}"), query.only, show))
}

/// 404 as iMIS answers for a query that does not exist.
pub(super) fn no_query() -> Reply {
    server::json(404, &json!({"Errors": {"$values": [{"Message": "The query does not exist."}]}}))
}

impl Imis {
    /// Adds `count` generated members, and has pages of up to 500 rows.
    pub fn fill(&self, count: usize) {
        let mut lists = lock(&self.state.lists);
        lists.population.set_generated(count);
        lists.page_cap = 500;
    }

    /// Changes the contacts that lists and records are made from.
    pub fn edit_population(&self, edit: impl FnOnce(&mut Population)) {
        edit(&mut lock(&self.state.lists).population);
    }

    /// Changes them when a list is asked for a page at this offset or a later one.
    pub fn at_offset(&self, offset: usize, edit: impl FnOnce(&mut Population) + Send + 'static) {
        lock(&self.state.lists).later.push((offset, Box::new(edit)));
    }

    /// Changes how lists misbehave.
    pub fn set_list_faults(&self, faults: ListFaults) {
        lock(&self.state.lists).faults = faults;
    }

    /// How many rows a page has at most: 3 at first, 500 after `fill`.
    pub fn set_page_cap(&self, rows: usize) {
        lock(&self.state.lists).page_cap = rows;
    }

    /// Adds a stored query, or replaces the one with the same name. `$/Gateway/AllMembers` is there at first.
    pub fn add_query(&self, query: StoredQuery) {
        let mut lists = lock(&self.state.lists);
        lists.queries.retain(|own| own.name != query.name);
        lists.queries.push(query);
        lists.filtered = None;
    }
}
