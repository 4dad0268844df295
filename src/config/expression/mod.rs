//! Expressions in the configuration: the conditions of rules and the values of claims.
//!
//! The syntax is minijinja's, with a fixed vocabulary. An unknown name is a problem of the configuration. Reading an
//! attribute that a person does not have is an error, so that no comparison can succeed because of it.

mod facts;
mod language;
mod names;

pub(crate) use facts::Facts;
pub(crate) use language::{Expression, Language};
pub(crate) use names::ExpressionError;
