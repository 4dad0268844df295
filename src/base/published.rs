//! Values that one part of the program publishes for another, such as answers to ACME challenges.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Published values by their names.
#[derive(Debug)]
pub(crate) struct Published<T>(RwLock<HashMap<String, Arc<T>>>);

impl<T> Default for Published<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

/// Keeps one value published until it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Publication<T> {
    published: Arc<Published<T>>,
    name: String,
    value: Arc<T>,
}

impl<T> Published<T> {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Publishes a value. Replaces the value with the same name.
    pub(crate) fn publish(self: &Arc<Self>, name: &str, value: T) -> Publication<T> {
        let value = Arc::new(value);
        let mut values = self.0.write().unwrap_or_else(PoisonError::into_inner);
        values.insert(name.to_owned(), value.clone());
        Publication { published: self.clone(), name: name.to_owned(), value }
    }
}

impl<T> Drop for Publication<T> {
    fn drop(&mut self) {
        let mut values = self.published.0.write().unwrap_or_else(PoisonError::into_inner);
        // A later publication under the same name stays.
        if values.get(&self.name).is_some_and(|value| Arc::ptr_eq(value, &self.value)) {
            values.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_published_only_while_its_publication_is_held() {
        let answers = Arc::new(Published::default());
        let first = answers.publish("token", "token.thumb");
        assert_eq!(*answers.get("token").unwrap(), "token.thumb");
        assert!(answers.get("other").is_none() && answers.get("").is_none());
        let second = answers.publish("token", "token.other");
        drop(first);
        assert_eq!(*answers.get("token").unwrap(), "token.other", "replaced before the drop");
        drop(second);
        assert!(answers.get("token").is_none());
    }
}
