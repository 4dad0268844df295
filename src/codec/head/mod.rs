//! Finds the end of message heads and parses them. A head is parsed when it is complete.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use crate::codec::fields::{ControlFields, Fields};
use crate::codec::message::{HeadError, Length, Version};

/// http.sys accepts 16 KiB by default. This is four times that, so that iMIS decides.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// IIS sends response heads of up to 64 KiB.
pub(crate) const MAX_RESPONSE_BYTES: usize = 128 * 1024;

/// The maximum number of field lines of a head.
pub(crate) const MAX_FIELDS: usize = 256;

/// Space for the parsed fields of a head.
pub(crate) type HeaderSlots<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

pub(crate) const fn header_slots<'b>() -> HeaderSlots<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Finds the end of a head that arrives in pieces. It scans each byte once.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    scanned: usize,
}

impl Scanner {
    /// The length of the head at the start of `bytes`, including its empty line. None: the head is incomplete.
    ///
    /// Every line must end in CR LF, because parsers disagree on whether a bare LF ends a line.
    pub(crate) fn find_end(&mut self, bytes: &[u8], max: usize) -> Result<Option<usize>, HeadError> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let at = self.scanned + found;
            self.scanned = at + 1;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(HeadError::Malformed("a line that does not end in CR LF"));
            }
            if at >= 3 && bytes[at - 2] == b'\n' {
                self.scanned = 0;
                return if at < max { Ok(Some(at + 1)) } else { Err(HeadError::TooLarge) };
            }
        }
        self.scanned = bytes.len();
        if bytes.len() < max {
            return Ok(None);
        }
        let in_request_line = !bytes.contains(&b'\n');
        Err(if in_request_line { HeadError::TargetTooLong } else { HeadError::TooLarge })
    }
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Request<'b, 'h> {
    pub(crate) method: &'b str,
    /// Origin-form or `*`. `authority` has the authority of an absolute-form.
    pub(crate) target: Cow<'b, str>,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'b, 'h>,
    /// The host that the request is for. Optional in HTTP/1.0.
    pub(crate) authority: Option<Authority<'b>>,
    /// There is a Host field. HTTP/1.0 does not require one.
    pub(crate) has_host: bool,
    pub(crate) length: Length,
    /// There is a Content-Length or Transfer-Encoding. A request without them has no body.
    pub(crate) has_length: bool,
    pub(crate) keep_alive: bool,
    /// The options of `Connection` other than `close` and `keep-alive`.
    pub(crate) named_by_connection: Vec<&'b str>,
    pub(crate) expects_continue: bool,
    /// The value of `Upgrade`.
    pub(crate) upgrade: Option<&'b [u8]>,
}

/// A host with an optional port, as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Authority<'b> {
    pub(crate) text: &'b str,
    pub(crate) host: &'b str,
}

impl<'b> Authority<'b> {
    /// Parses `uri-host [ ":" port ]` (RFC 9110 section 7.2). User information, lists and percent-encoding are invalid.
    pub(crate) fn parse(text: &'b [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let close = rest.find(']')?;
                let address = &rest[..close];
                let plain =
                    address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
                if !plain || address.is_empty() {
                    return None;
                }
                text.split_at(close + 2)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                if host.is_empty() || !host.bytes().all(plain) {
                    return None;
                }
                (host, port)
            }
        };
        match port.strip_prefix(':') {
            None if port.is_empty() => {}
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {}
            Some(_) | None => return None,
        }
        Some(Self { text, host })
    }

    /// Whether both are equal. The default port equals no port (RFC 9110 section 4.2.3).
    fn is_same(self, other: Self) -> bool {
        let plain =
            |text: &'b str| text.strip_suffix(":443").or_else(|| text.strip_suffix(':')).unwrap_or(text);
        plain(self.text).eq_ignore_ascii_case(plain(other.text))
    }
}

/// Whether a method is refused: CONNECT asks for a tunnel, TRACE echoes cookies (RFC 9110 sections 9.3.6, 9.3.8).
pub(crate) fn is_refused(method: &str) -> bool {
    matches!(method, "CONNECT" | "TRACE")
}

/// A request head that is split into its parts but not validated: enough for the access log.
#[derive(Debug)]
pub(crate) struct ParsedHead<'b, 'h> {
    pub(crate) method: &'b str,
    pub(crate) target: &'b str,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'b, 'h>,
}

impl<'b, 'h> ParsedHead<'b, 'h> {
    /// Parses a head that `Scanner` has found to be complete.
    pub(crate) fn parse(head: &'b [u8], slots: &'h mut HeaderSlots<'b>) -> Result<Self, HeadError> {
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, slots) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(HeadError::Malformed("the head")),
            Err(error) => return Err(refused(error, head)),
        }
        match parsed {
            httparse::Request { method: Some(method), path: Some(target), version: Some(minor), headers } => {
                let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
                Ok(Self { method, target, version, fields: Fields::new(head, headers) })
            }
            _ => Err(HeadError::Malformed("the head")),
        }
    }
}

impl<'b, 'h> Request<'b, 'h> {
    /// Validates a head. It must have exactly one meaning.
    pub(crate) fn of(parsed_head: &ParsedHead<'b, 'h>) -> Result<Self, HeadError> {
        let ParsedHead { method, target: written, version, fields } = *parsed_head;
        let control = ControlFields::parse(fields)?;
        if is_refused(method) {
            return Err(HeadError::Method);
        }
        let (from_target, target) = target(method, written)?;
        let authority = match (control.host, control.hosts) {
            (None, _) if version == Version::Http11 => return Err(HeadError::Malformed("no Host")),
            (None, _) => None,
            (Some(host), 1) => Some(Authority::parse(host).ok_or(HeadError::Malformed("Host"))?),
            (Some(_), _) => return Err(HeadError::Malformed("more than one Host")),
        };
        if let Some(of_target) = from_target
            && authority.is_some_and(|host| !host.is_same(of_target))
        {
            return Err(HeadError::Malformed("the target and Host name two authorities"));
        }
        let length = control.length(version)?;
        Ok(Self {
            method,
            target,
            version,
            fields,
            authority: from_target.or(authority),
            has_host: authority.is_some(),
            length: length.unwrap_or(Length::Known(0)),
            has_length: length.is_some(),
            keep_alive: control.keeps_alive(version),
            named_by_connection: control.connection_options,
            expects_continue: control.expects_continue && version == Version::Http11,
            upgrade: control.upgrade,
        })
    }
}

/// Whether a target has only valid characters: no fragment, no space, only ASCII.
fn is_plain(target: &str) -> bool {
    target.bytes().all(|byte| byte != b'#' && byte.is_ascii_graphic())
}

fn is_origin_form(method: &str, target: &str) -> bool {
    target.starts_with('/') || (target == "*" && method == "OPTIONS")
}

/// Whether a `:path` of HTTP/2 is valid as a request target (RFC 9113 section 8.3.1).
pub(crate) fn is_path(method: &str, target: &str) -> bool {
    is_plain(target) && is_origin_form(method, target)
}

/// Splits a target into its authority, if it has one, and the target for iMIS (RFC 9112 section 3.2).
fn target<'b>(method: &str, written: &'b str) -> Result<(Option<Authority<'b>>, Cow<'b, str>), HeadError> {
    if !is_plain(written) {
        return Err(HeadError::Malformed("the request target"));
    }
    if is_origin_form(method, written) {
        return Ok((None, written.into()));
    }
    let scheme_end = written.find("://").ok_or(HeadError::Malformed("the request target"))?;
    let (scheme, rest) = (&written[..scheme_end], &written[scheme_end + 3..]);
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(HeadError::Malformed("the scheme of the request target"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority =
        Authority::parse(authority.as_bytes()).ok_or(HeadError::Malformed("the request target"))?;
    match path {
        "" if method == "OPTIONS" => Ok((Some(authority), "*".into())),
        path if path.starts_with('/') => Ok((Some(authority), path.into())),
        // An empty path, which equals `/`, with or without a query.
        query => Ok((Some(authority), format!("/{query}").into())),
    }
}

fn refused(error: httparse::Error, head: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version if names_a_version(head) => HeadError::Version,
        httparse::Error::HeaderName => HeadError::Malformed("a field name"),
        httparse::Error::HeaderValue => HeadError::Malformed("a field value"),
        httparse::Error::Version
        | httparse::Error::Token
        | httparse::Error::NewLine
        | httparse::Error::Status => HeadError::Malformed("the first line"),
    }
}

/// Whether the first line is well-formed and ends in another version, such as HTTP/2.0.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Response<'b, 'h> {
    pub(crate) status: u16,
    /// The first line after the version, as received: ` 200 OK`.
    pub(crate) after_version: &'b [u8],
    pub(crate) fields: Fields<'b, 'h>,
    pub(crate) length: Length,
    pub(crate) keep_alive: bool,
    /// The options of `Connection` other than `close` and `keep-alive`.
    pub(crate) named_by_connection: Vec<&'b str>,
    /// The value of `Upgrade`.
    pub(crate) upgrade: Option<&'b [u8]>,
}

impl<'b, 'h> Response<'b, 'h> {
    /// Parses a head that `Scanner` has found to be complete. `to_head`: it is the response to a HEAD request.
    pub(crate) fn parse(
        head: &'b [u8],
        slots: &'h mut HeaderSlots<'b>,
        to_head: bool,
    ) -> Result<Self, HeadError> {
        if !head.starts_with(b"HTTP/") {
            // httparse would skip empty lines before it.
            return Err(HeadError::Malformed("the first line"));
        }
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, head, slots) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(HeadError::Malformed("the head")),
            Err(error) => return Err(refused(error, head)),
        }
        let httparse::Response { version: Some(minor), code: Some(status), headers, .. } = parsed else {
            return Err(HeadError::Malformed("the head"));
        };
        if !(100..=999).contains(&status) {
            return Err(HeadError::Malformed("the status"));
        }
        let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
        let line_end = memchr::memchr(b'\r', head).unwrap_or(head.len());
        let after_version = head.get("HTTP/1.1".len()..line_end).unwrap_or_default();
        let fields = Fields::new(head, headers);
        let control = ControlFields::parse(fields)?;
        let of_fields = control.length(version)?;
        let length = if to_head || (100..200).contains(&status) || status == 204 || status == 304 {
            Length::Known(0)
        } else {
            of_fields.unwrap_or(Length::UntilClose)
        };
        Ok(Self {
            status,
            after_version,
            fields,
            keep_alive: control.keeps_alive(version) && length != Length::UntilClose,
            length,
            named_by_connection: control.connection_options,
            upgrade: control.upgrade,
        })
    }
}

#[cfg(test)]
mod tests;
