//! The users in the order of their ids, found by id, external id and address without a search.

use std::collections::HashMap;

use crate::zendesk::User;

#[derive(Default)]
pub(crate) struct Directory {
    /// Sorted by id.
    users: Vec<User>,
    by_id: HashMap<u64, usize>,
    /// In lower case, as the next one: Zendesk compares both without case.
    by_external_id: HashMap<String, usize>,
    /// All addresses of a user, the primary one first.
    by_email: HashMap<String, usize>,
    next_id: u64,
}

impl Directory {
    pub(crate) fn new(users: Vec<User>) -> Self {
        let mut directory = Self { users, ..Self::default() };
        directory.index_again();
        directory
    }

    fn index_again(&mut self) {
        self.users.sort_by_key(|user| user.id);
        self.by_id.clear();
        self.by_external_id.clear();
        self.by_email.clear();
        for index in 0..self.users.len() {
            self.index(index);
        }
        self.next_id = self.users.last().map_or(0, |user| user.id) + 1;
    }

    fn index(&mut self, index: usize) {
        let user = &self.users[index];
        self.by_id.insert(user.id, index);
        // Users who have been deleted are known by their id alone.
        if !user.active {
            return;
        }
        if let Some(id) = &user.external_id {
            self.by_external_id.entry(id.to_lowercase()).or_insert(index);
        }
        for email in [&user.email].into_iter().chain(&user.other_emails).filter(|email| !email.is_empty()) {
            self.by_email.entry(email.to_lowercase()).or_insert(index);
        }
    }

    pub(crate) fn all(&self) -> &[User] {
        &self.users
    }

    /// The users whose ids are greater.
    pub(crate) fn after(&self, id: u64) -> &[User] {
        &self.users[self.users.partition_point(|user| user.id <= id)..]
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<&User> {
        self.by_id.get(&id).map(|index| &self.users[*index])
    }

    pub(crate) fn by_external_id(&self, id: &str) -> Option<&User> {
        self.by_external_id.get(&id.to_lowercase()).map(|index| &self.users[*index])
    }

    pub(crate) fn by_email(&self, email: &str) -> Option<&User> {
        self.by_email.get(&email.to_lowercase()).map(|index| &self.users[*index])
    }

    /// The id that the next user gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Adds a user with the next id, or replaces the one that has the same id.
    pub(crate) fn put(&mut self, user: User) {
        let Some(index) = self.by_id.get(&user.id).copied() else {
            self.next_id = self.next_id.max(user.id) + 1;
            self.users.push(user);
            self.index(self.users.len() - 1);
            return;
        };
        let old = std::mem::replace(&mut self.users[index], user);
        if let Some(id) = old.external_id {
            remove_own(&mut self.by_external_id, &id, index);
        }
        for email in [old.email].iter().chain(&old.other_emails) {
            remove_own(&mut self.by_email, email, index);
        }
        self.index(index);
    }

    /// Any change at all; takes as long as there are users.
    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut Vec<User>)) {
        edit(&mut self.users);
        self.index_again();
    }
}

fn remove_own(map: &mut HashMap<String, usize>, key: &str, index: usize) {
    let key = key.to_lowercase();
    if map.get(&key) == Some(&index) {
        map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_user_is_found_by_the_new_values_only() {
        let mut directory = Directory::new(Vec::new());
        let user = User { email: "a@x".to_owned(), external_id: Some("Old".to_owned()), ..User::new(1, 0) };
        directory.put(user.clone());
        let other_emails = vec!["B@x".to_owned()];
        directory.put(User { external_id: Some("new".to_owned()), other_emails, ..user });
        assert!(directory.by_external_id("old").is_none() && directory.by_external_id("NEW").is_some());
        assert!(directory.by_email("b@X").is_some() && directory.by_email("a@x").is_some());
        assert_eq!((directory.after(0).len(), directory.after(1).len(), directory.next_id()), (1, 0, 2));
    }
}
