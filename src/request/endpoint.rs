//! The SSO endpoints of the apps. They run on the control runtime, so that a slow iMIS API never holds up a worker.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::base::request_id::RequestId;
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::config::App;
use crate::proxy::exchange::while_connected;
use crate::request::app_path::Endpoint;
use crate::request::client_stream::ClientStream;
use crate::request::connection::{Connection, Context};
use crate::request::error_page::Failure;
use crate::request::route::Destination;
use crate::sso;
use crate::sso::request::{AuditSubject, SsoRequest};
use crate::upstream::forwarded::Forwarded;

/// The largest form that an endpoint reads, in bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// A request for an SSO endpoint, independent of its connection.
pub(crate) struct EndpointRequest {
    /// Index of the site.
    site: usize,
    endpoint: Endpoint,
    request: SsoRequest,
}

impl EndpointRequest {
    pub(crate) fn new<F: HeaderFields>(
        head: &RequestHead<'_, F>,
        connection: &Connection,
        to: &Destination<'_>,
        app: Arc<App>,
        endpoint: Endpoint,
        request_id: RequestId,
    ) -> Result<Self, Failure> {
        let gateway = &connection.worker.gateway;
        let sign_on = gateway.sites[to.site].sign_on.clone().ok_or(Failure::Internal)?;
        let forwarded = Forwarded {
            client: to.client,
            chain: connection.forwarded_for(&head.fields).into_owned(),
            host: to.host.to_owned(),
            incident: request_id.to_string(),
        };
        let request = SsoRequest {
            services: gateway.services.clone(),
            sign_on,
            app,
            query: head.query().to_owned(),
            forwarded,
            is_head: head.method == "HEAD",
            authority: Authority::try_from(to.host).map_err(|_| Failure::BadRequest)?,
            headers: header_map(&head.fields)?,
            audit_subject: AuditSubject::default(),
        };
        Ok(Self { site: to.site, endpoint, request })
    }
}

/// Serves a request for an SSO endpoint. A client that leaves ends its sign-in.
pub(crate) async fn serve<C: ClientStream>(
    client: &mut C,
    request: EndpointRequest,
    context: &mut Context<'_>,
) -> Result<Response<Bytes>, Failure> {
    let EndpointRequest { site, endpoint, request } = request;
    context.access.site = Some(site);
    let worker = &context.connection.worker;
    let task = match endpoint {
        Endpoint::Login => worker.control.spawn(sso::login::respond(request)),
        Endpoint::Logout => worker.control.spawn(sso::logout::respond(request)),
        Endpoint::MessagingToken => worker.control.spawn(sso::messaging_token::respond(request)),
        Endpoint::ImisCallback => {
            let form = client.read_form(MAX_FORM_BYTES, worker.gateway.timeouts.request_head).await?;
            worker.control.spawn(sso::imis_callback::respond(request, form))
        }
    };
    let response = while_connected(client, AbortOnDropHandle::new(task)).await;
    response.ok_or(Failure::ClientGone)?.map_err(|error| {
        // Only whether it panicked: the text of a panic could quote a value.
        error!(request_id = %context.request_id, panicked = error.is_panic(), "a sign-in ended abnormally");
        Failure::Internal
    })
}

fn header_map(fields: &impl HeaderFields) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.pairs() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Failure::BadRequest)?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|_| Failure::BadRequest)?);
    }
    Ok(headers)
}
