//! Serves one request.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::{Response, StatusCode};
use tracing::{debug, warn};

use crate::base::error_chain::Chain;
use crate::base::request_id::RequestId;
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::request::access_log::{Access, RequestInfo};
use crate::request::client_stream::{Abort, ClientStream, ReceivedHead, Refusal};
use crate::request::connection::{Connection, Context, Entry};
use crate::request::endpoint::{self, EndpointRequest};
use crate::request::error_page::Failure;
use crate::request::forward::{self, ForwardRequest};
use crate::request::route::{Route, route};

/// What to do with a request.
enum Plan {
    Forward(ForwardRequest),
    Endpoint(Box<EndpointRequest>),
    Respond(Response<Bytes>),
}

/// Serves one request: exactly one response, and one line in the access log.
pub(crate) async fn serve<C: ClientStream>(client: &mut C, connection: &Connection) {
    let request_id = connection.worker.next_request_id();
    let (access, plan) = client.read_head(|head| {
        let address = head.fields.as_ref().map(|fields| connection.client_address(fields));
        let address = address.unwrap_or(connection.peer);
        let access = begin_access(&head, connection, address, request_id);
        let plan = head.request.and_then(|request| {
            plan(&request, connection, request_id, address, &access).map_err(Refusal::Page)
        });
        (access, plan)
    });
    let mut context = Context { connection, request_id, access };
    let begun = client.begin_request_body().await;
    let plan = plan.and_then(|plan| begun.map(|()| plan).map_err(Refusal::Page));
    let outcome = match plan {
        Ok(Plan::Forward(request)) => forward::forward(client, request, &mut context).await.map(|()| None),
        Ok(Plan::Endpoint(request)) => endpoint::serve(client, *request, &mut context).await.map(Some),
        Ok(Plan::Respond(page)) => Ok(Some(page)),
        Err(Refusal::Page(failure)) => Err(failure),
        Err(Refusal::Reset) => {
            context.access.answered(StatusCode::BAD_REQUEST);
            context.access.complete();
            return client.abort(Abort::MalformedRequest);
        }
    };
    match outcome {
        Ok(Some(page)) => client.send_page(with_hsts(page, connection), None, &mut context.access).await,
        Ok(None) => {}
        Err(Failure::ClientGone) => client.abort(Abort::ClientGone),
        Err(failure) => {
            context.access.failed(failure.name());
            let page = with_hsts(error_page(&failure, request_id, connection), connection);
            client.send_page(page, Some(&failure), &mut context.access).await;
        }
    }
}

fn with_hsts(mut page: Response<Bytes>, connection: &Connection) -> Response<Bytes> {
    if let Some(hsts) = connection.hsts().and_then(|hsts| HeaderValue::try_from(hsts).ok()) {
        page.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    page
}

fn begin_access<F: HeaderFields>(
    head: &ReceivedHead<'_, F>,
    connection: &Connection,
    client: IpAddr,
    request_id: RequestId,
) -> Access {
    let gateway = &connection.worker.gateway;
    let info = RequestInfo {
        method: head.method,
        host: &head.host,
        path: head.path,
        version: head.version,
        trace: head.fields.as_ref().and_then(|fields| fields.first("traceparent")),
        client,
        is_https: matches!(connection.entry, Entry::Https { .. }),
        // Only needed for exported traces.
        is_vouched_for: gateway.trace_exporter.is_some() && gateway.trusts(connection.peer),
    };
    Access::begin(&info, request_id, &connection.worker)
}

/// Routes a request and extracts everything that is needed from its head.
fn plan<F: HeaderFields>(
    head: &RequestHead<'_, F>,
    connection: &Connection,
    request_id: RequestId,
    client: IpAddr,
    access: &Access,
) -> Result<Plan, Failure> {
    Ok(match route(head, client, connection)? {
        Route::Respond(page) => Plan::Respond(page),
        Route::Endpoint(to, app, endpoint) => {
            let request = EndpointRequest::new(head, connection, &to, app, endpoint, request_id)?;
            Plan::Endpoint(Box::new(request))
        }
        Route::Forward(to) => Plan::Forward(ForwardRequest::new(head, connection, &to, request_id, access)?),
    })
}

/// Logs a failed request and returns its error page.
fn error_page(failure: &Failure, request_id: RequestId, connection: &Connection) -> Response<Bytes> {
    let error = Chain(failure);
    if failure.is_client_error() {
        debug!(%request_id, %error, "answered with an error page");
    } else {
        warn!(%request_id, %error, "answered with an error page");
    }
    let gateway = &connection.worker.gateway;
    // A host of no site has no start page here.
    let site = connection.site().filter(|_| !matches!(failure, Failure::MisdirectedRequest));
    let home = site.map(|site| gateway.sites[site].home());
    failure.page(&gateway.pages, &request_id.to_string(), home)
}
