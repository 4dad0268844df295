//! A request for one of an app's own paths, with the form that may come with it.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::codec::Length;
use crate::edge::client_socket::Socket;
use crate::edge::http1::plan::Facts;
use crate::edge::http1::{After, Browser, upload};
use crate::pages::Failure;
use crate::proxy::exchange::UploadError;
use crate::proxy::upstream::UpstreamError;
use crate::request::connection::{Connection, MOST_FORM, Visited};

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Browser<S> {
    /// Answers for one of an app's own paths.
    pub(crate) async fn visit(
        &mut self,
        visited: Box<Visited>,
        facts: &mut Facts,
        connection: &Connection,
    ) -> After {
        let form = if visited.has_form() { self.form(facts, connection).await } else { Ok(Bytes::new()) };
        let form = match form {
            Ok(form) => form,
            Err(failure) => return self.fail(&failure, facts, connection).await,
        };
        let visit = crate::request::connection::visit(&connection.worker, *visited, form, facts.incident);
        match self.while_there(visit).await {
            Some(Ok(page)) => self.respond(page, facts).await,
            Some(Err(failure)) => self.fail(&failure, facts, connection).await,
            None => After::Gone,
        }
    }

    /// Collects a form, which is short and has to come soon.
    async fn form(&mut self, facts: &Facts, connection: &Connection) -> Result<Bytes, Failure> {
        if matches!(facts.length, Length::Known(bytes) if bytes > MOST_FORM as u64) {
            return Err(Failure::FormTooLarge);
        }
        if facts.expects_continue && self.receiver.data().is_empty() && !self.receiver.is_over() {
            self.sender.head().extend_from_slice(upload::CONTINUE);
            // Whether it goes is seen when the answer is sent.
            let _ = self.flush().await;
        }
        self.deadline.set(connection.worker.gateway.timeouts.request_head);
        let mut form = Vec::new();
        let collected = poll_fn(|cx| {
            loop {
                form.extend_from_slice(self.receiver.data());
                self.receiver.consume(self.receiver.data().len());
                if form.len() > MOST_FORM {
                    return Poll::Ready(Err(Failure::FormTooLarge));
                }
                if self.receiver.is_over() {
                    return Poll::Ready(Ok(()));
                }
                match self.receiver.poll_body(cx, &mut self.io) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        let error = UploadError::Browser(error);
                        return Poll::Ready(Err(Failure::Upstream(UpstreamError::UploadBroke(error))));
                    }
                    Poll::Pending => break,
                }
            }
            self.draining.poll_waiting_within(cx);
            if self.draining.is_evicted() {
                return Poll::Ready(Err(Failure::RequestTimeout));
            }
            self.deadline.poll(cx).map(|()| Err(Failure::RequestTimeout))
        })
        .await;
        self.draining.works();
        collected.map(|()| form.into())
    }
}
