//! What the steps of serving a request share.

use crate::base::request_id::RequestId;
use crate::request::access_log::Access;
use crate::request::connection::Connection;

/// A request that is being served.
pub(crate) struct Context<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) request_id: RequestId,
    pub(crate) access: Access,
}
