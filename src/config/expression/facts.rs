//! The values of the variables for one person. A missing value is an error, never a value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object};
use minijinja::{Error, ErrorKind, State, Value};

use crate::config::expression::names::{ExpressionError, NAMES};

/// The value of every variable; `none` where there is none.
pub(crate) struct Facts {
    values: Value,
    missing: Missing,
}

/// The last lookup that failed. Filters and tests of minijinja can ignore the error of a lookup; this keeps it.
type Missing = Arc<Mutex<Option<ExpressionError>>>;

fn report(missing: &Missing, error: ExpressionError) -> Error {
    *missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    Error::from(ErrorKind::UndefinedError)
}

/// Attributes of a person, by name in lower case; `None` for one with several values.
#[derive(Debug)]
struct Attributes {
    all: BTreeMap<String, Option<Value>>,
    missing: Missing,
}

impl Attributes {
    fn find(&self, name: &Value) -> Result<Value, Error> {
        let name = name.as_str().unwrap_or("?");
        let error = match self.all.get(&name.to_lowercase()) {
            Some(Some(value)) => return Ok(value.clone()),
            Some(None) => ExpressionError::Unreadable(name.to_owned()),
            None => ExpressionError::NoAttribute(name.to_owned()),
        };
        Err(report(&self.missing, error))
    }

    fn has(&self, name: &Value) -> bool {
        name.as_str().is_some_and(|name| self.all.contains_key(&name.to_lowercase()))
    }
}

impl Object for Attributes {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(self.find(key).unwrap_or_else(Value::from))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        match (method, arguments) {
            ("has", [name]) => Ok(Value::from(self.has(name))),
            ("get", [name]) => self.find(name),
            ("get", [name, otherwise]) if !self.has(name) => Ok(otherwise.clone()),
            ("get", [name, otherwise]) => {
                self.find(name).map(|found| if found.is_none() { otherwise.clone() } else { found })
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// A membership. A lookup of an unknown field is an error.
#[derive(Debug)]
struct Fields {
    all: BTreeMap<&'static str, Value>,
    missing: Missing,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str().unwrap_or("?");
        let missing = || Value::from(report(&self.missing, ExpressionError::NoField(name.to_owned())));
        Some(self.all.get(name).cloned().unwrap_or_else(missing))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.all.keys().map(|name| Value::from(*name)).collect())
    }
}

impl Facts {
    pub(crate) fn values(&self) -> Value {
        self.values.clone()
    }

    /// The lookup that failed since the last call.
    pub(crate) fn take_missing(&self) -> Option<ExpressionError> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From values by variable; other variables are `none`. An attribute without a value has several.
    pub(crate) fn new(
        values: &BTreeMap<&'static str, Value>,
        attributes: impl IntoIterator<Item = (String, Option<Value>)>,
        memberships: impl IntoIterator<Item = BTreeMap<&'static str, Value>>,
    ) -> Self {
        let missing = Missing::default();
        let mut roots: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for name in NAMES {
            let (root, leaf) = name.split_once('.').unwrap_or((name, ""));
            let value = values.get(name).cloned().unwrap_or(Value::from(()));
            roots.entry(root).or_default().insert(leaf, value);
        }
        let mut all: BTreeMap<String, Option<Value>> = BTreeMap::new();
        for (name, value) in attributes {
            let known = all.entry(name.to_lowercase()).or_insert_with(|| value.clone());
            if *known != value {
                *known = None;
            }
        }
        let fields = |all| Value::from_object(Fields { all, missing: missing.clone() });
        let profile = roots.entry("profile").or_default();
        profile.insert("memberships", memberships.into_iter().map(fields).collect());
        profile.insert("attributes", Value::from_object(Attributes { all, missing: missing.clone() }));
        let values =
            Value::from_pairs(roots.into_iter().map(|(root, leaves)| (root, Value::from_pairs(leaves))));
        Self { values, missing }
    }
}
