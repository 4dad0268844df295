//! What expressions are worked out over, so that nothing that is not there can be taken for a value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object};
use minijinja::{Error, ErrorKind, State, Value};

use crate::config::expression::{ExpressionError, NAMES};

/// What an expression is worked out over: a value for each name, some of them none.
pub(crate) struct Facts {
    values: Value,
    missed: Missed,
}

/// What was asked for and is not there. Filters and tests may swallow the error of a lookup, and go on with a value that is equal to
/// nothing; what stands here does not get lost.
type Missed = Arc<Mutex<Option<ExpressionError>>>;

fn miss(missed: &Missed, error: ExpressionError) -> Error {
    *missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    Error::from(ErrorKind::UndefinedError)
}

/// Attributes of a person, by their names in lower case; none where there is no telling what it is. Asking for one that is not there
/// is an error.
#[derive(Debug)]
struct Attributes {
    all: BTreeMap<String, Option<Value>>,
    missed: Missed,
}

impl Attributes {
    /// The value; what is said for one that is not there.
    fn find(&self, name: &Value) -> Result<Value, Error> {
        let name = name.as_str().unwrap_or("?");
        match self.all.get(&name.to_lowercase()) {
            Some(Some(value)) => Ok(value.clone()),
            Some(None) => Err(miss(&self.missed, ExpressionError::Unreadable(name.to_owned()))),
            None => Err(miss(&self.missed, ExpressionError::NoAttribute(name.to_owned()))),
        }
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

/// One of a list of things with parts; asking for a part that there is none of is an error.
#[derive(Debug)]
struct Fields {
    all: BTreeMap<&'static str, Value>,
    missed: Missed,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str().unwrap_or("?");
        let found = self.all.get(name).cloned();
        Some(
            found.unwrap_or_else(|| {
                Value::from(miss(&self.missed, ExpressionError::NoField(name.to_owned())))
            }),
        )
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.all.keys().map(|name| Value::from(*name)).collect())
    }
}

impl Facts {
    pub(crate) fn values(&self) -> Value {
        self.values.clone()
    }

    /// What was missed since this was asked last.
    pub(crate) fn take_missed(&self) -> Option<ExpressionError> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Of the values by their names; a name that is not given is none. An attribute without a value is one that cannot be read.
    pub(crate) fn new(
        values: &BTreeMap<&'static str, Value>,
        attributes: impl IntoIterator<Item = (String, Option<Value>)>,
        memberships: impl IntoIterator<Item = BTreeMap<&'static str, Value>>,
    ) -> Self {
        let missed = Missed::default();
        let mut roots: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for name in NAMES {
            let (root, leaf) = name.split_once('.').unwrap_or((name, ""));
            let value = values.get(name).cloned().unwrap_or(Value::from(()));
            roots.entry(root).or_default().insert(leaf, value);
        }
        let mut all: BTreeMap<String, Option<Value>> = BTreeMap::new();
        for (name, value) in attributes {
            all.entry(name.to_lowercase())
                .and_modify(|known| {
                    if *known != value {
                        *known = None;
                    }
                })
                .or_insert(value);
        }
        let fields = |all| Value::from_object(Fields { all, missed: missed.clone() });
        let profile = roots.entry("profile").or_default();
        profile.insert("memberships", memberships.into_iter().map(fields).collect());
        profile.insert("attributes", Value::from_object(Attributes { all, missed: missed.clone() }));
        let values =
            Value::from_pairs(roots.into_iter().map(|(root, leaves)| (root, Value::from_pairs(leaves))));
        Self { values, missed }
    }
}
