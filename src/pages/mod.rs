//! The pages and small responses that the gateway makes itself. All other pages come from iMIS.

mod message;
mod render;
mod response;

pub(crate) use message::{Link, Message};
pub(crate) use render::{HandOff, Pages};
pub(crate) use response::{challenge, json, no_content, options, redirect};
