//! The members whom lists are made from: the people of the options, generated ones and added ones. Generated members
//! take no memory until they change.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::people::{self, Person};
use crate::members::Member;

/// Where a member is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Person(usize),
    Generated(usize),
    Added(usize),
}

/// All contacts, in the order in which lists have them.
#[derive(Debug, Default)]
pub struct Population {
    people: Vec<Person>,
    generated: usize,
    added: Vec<Member>,
    /// Generated members who have changed, by number.
    changed: HashMap<usize, Member>,
    /// Ids that are in no list and have no record.
    gone: HashSet<String>,
    /// Ids that are in lists and have no record.
    merged: HashSet<String>,
    /// Counts the changes.
    pub(super) version: u64,
}

impl Population {
    pub(super) fn new(people: Vec<Person>) -> Self {
        Self { people, ..Self::default() }
    }

    /// The number of generated members, numbered from 0.
    pub fn set_generated(&mut self, count: usize) {
        self.version += 1;
        self.generated = count;
    }

    /// Leaves out the people of the options, in lists and as records.
    pub fn without_people(&mut self) {
        self.version += 1;
        self.people.clear();
    }

    /// Adds a member at the end of lists.
    pub fn add(&mut self, member: Member) {
        self.version += 1;
        self.added.push(member);
    }

    /// Changes a generated or added member.
    pub fn edit(&mut self, id: &str, edit: impl FnOnce(&mut Member)) {
        self.version += 1;
        if let Some(member) = self.added.iter_mut().find(|member| member.id == id) {
            return edit(member);
        }
        if let Some(number) = self.number(id) {
            edit(self.changed.entry(number).or_insert_with(|| Member::generated(number)));
        }
    }

    /// Removes a contact: it is in no list, and its record is a 404.
    pub fn remove(&mut self, id: &str) {
        self.version += 1;
        self.gone.insert(id.to_owned());
    }

    /// Merges a contact into another one: lists still have it, and its record is a 404.
    pub fn merge(&mut self, id: &str) {
        self.version += 1;
        self.merged.insert(id.to_owned());
    }

    /// A member as lists have it.
    pub fn get(&self, id: &str) -> Option<Member> {
        self.slot(id).map(|slot| self.member(slot))
    }

    fn number(&self, id: &str) -> Option<usize> {
        let number = id.parse::<usize>().ok()?.checked_sub(1_000_000)?;
        (number < self.generated).then_some(number)
    }

    pub(super) fn slot(&self, id: &str) -> Option<Slot> {
        if self.gone.contains(id) {
            return None;
        }
        let person = self.people.iter().position(|person| person.id == id).map(Slot::Person);
        let added = || self.added.iter().position(|member| member.id == id).map(Slot::Added);
        person.or_else(|| self.number(id).map(Slot::Generated)).or_else(added)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        let people = (0..self.people.len()).map(Slot::Person);
        let added = (0..self.added.len()).map(Slot::Added);
        let all = people.chain((0..self.generated).map(Slot::Generated)).chain(added);
        all.filter(|slot| self.gone.is_empty() || !self.gone.contains(&self.id(*slot)))
    }

    fn id(&self, slot: Slot) -> String {
        match slot {
            Slot::Person(index) => self.people[index].id.clone(),
            Slot::Generated(number) => Member::id_of(number),
            Slot::Added(index) => self.added[index].id.clone(),
        }
    }

    pub(super) fn member(&self, slot: Slot) -> Member {
        match slot {
            Slot::Person(index) => self.people[index].member(),
            Slot::Generated(number) => {
                self.changed.get(&number).cloned().unwrap_or_else(|| Member::generated(number))
            }
            Slot::Added(index) => self.added[index].clone(),
        }
    }

    /// The record of `api/Party`.
    pub(super) fn party(&self, slot: Slot) -> Value {
        match slot {
            Slot::Person(index) => self.people[index].party.clone(),
            Slot::Generated(_) | Slot::Added(_) => people::record(&self.member(slot)),
        }
    }

    /// The record with this id, unless it has been removed or merged.
    pub(super) fn party_by_id(&self, id: &str) -> Option<Value> {
        let slot = self.slot(id).filter(|_| !self.merged.contains(id))?;
        Some(self.party(slot))
    }
}
