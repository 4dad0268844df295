//! The field lines of a head. They are forwarded unchanged.

use crate::codec::message::{HeadError, Length, Version};

/// The maximum number of options in `Connection`.
const MAX_CONNECTION_OPTIONS: usize = 64;

/// The field lines of one head, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'b, 'h> {
    head: &'b [u8],
    lines: &'h [httparse::Header<'b>],
}

impl<'b, 'h> Fields<'b, 'h> {
    pub(crate) fn new(head: &'b [u8], lines: &'h [httparse::Header<'b>]) -> Self {
        Self { head, lines }
    }

    pub(crate) fn len(self) -> usize {
        self.lines.len()
    }

    /// Names and values.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (&'b str, &'b [u8])> + Clone + use<'b, 'h> {
        self.lines.iter().map(|line| (line.name, line.value))
    }

    /// Writes the lines for which `action` returns `Keep`, unchanged.
    pub(crate) fn write(self, out: &mut Vec<u8>, mut action: impl FnMut(&str) -> FieldAction) {
        let base = self.head.as_ptr().addr();
        // Adjacent lines are copied together.
        let mut kept_from = None;
        for line in self.lines {
            let start = line.name.as_ptr().addr() - base;
            match (action(line.name), kept_from) {
                (FieldAction::Keep, None) => kept_from = Some(start),
                (FieldAction::Keep, Some(_)) => {}
                (FieldAction::Drop, Some(from)) => {
                    out.extend_from_slice(&self.head[from..start]);
                    kept_from = None;
                }
                (FieldAction::Drop, None) => {}
            }
        }
        if let Some(from) = kept_from {
            // A head ends in an empty line.
            out.extend_from_slice(&self.head[from..self.head.len() - 2]);
        }
    }
}

/// Whether a field line is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldAction {
    Keep,
    Drop,
}

/// The fields that control how a message is read: host, length, connection (RFC 9112 sections 3.2, 6 and 9).
#[derive(Debug, Default)]
pub(crate) struct ControlFields<'b> {
    pub(crate) host: Option<&'b [u8]>,
    pub(crate) hosts: usize,
    content_length: Option<&'b [u8]>,
    content_lengths: usize,
    transfer_encoding: Option<&'b [u8]>,
    transfer_encodings: usize,
    close: bool,
    keep_alive: bool,
    /// The options of `Connection` other than `close` and `keep-alive`.
    pub(crate) connection_options: Vec<&'b str>,
    pub(crate) expects_continue: bool,
    pub(crate) upgrade: Option<&'b [u8]>,
}

impl<'b> ControlFields<'b> {
    pub(crate) fn parse(fields: Fields<'b, '_>) -> Result<Self, HeadError> {
        let mut control = Self::default();
        for (name, value) in fields.pairs() {
            // The length excludes most names.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    control.host = Some(value);
                    control.hosts += 1;
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    control.expects_continue |= expects_continue(value)
                }
                7 if name.eq_ignore_ascii_case("upgrade") => control.upgrade = Some(value),
                10 if name.eq_ignore_ascii_case("connection") => control.options(value)?,
                14 if name.eq_ignore_ascii_case("content-length") => {
                    control.content_length = Some(value);
                    control.content_lengths += 1;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    control.transfer_encoding = Some(value);
                    control.transfer_encodings += 1;
                }
                _ => {}
            }
        }
        Ok(control)
    }

    fn options(&mut self, value: &'b [u8]) -> Result<(), HeadError> {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                let name = std::str::from_utf8(option).map_err(|_| HeadError::Malformed("Connection"))?;
                self.connection_options.push(name);
            }
        }
        if self.connection_options.len() > MAX_CONNECTION_OPTIONS {
            return Err(HeadError::Malformed("too many options on Connection"));
        }
        Ok(())
    }

    pub(crate) fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }

    /// The body length that the fields give, if any (RFC 9112 section 6.3). More than one length is invalid.
    pub(crate) fn length(&self, version: Version) -> Result<Option<Length>, HeadError> {
        if self.transfer_encodings > 0 && self.content_lengths > 0 {
            return Err(HeadError::Malformed("Content-Length beside Transfer-Encoding"));
        }
        if let Some(coding) = self.transfer_encoding {
            if version == Version::Http10 {
                return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            if self.transfer_encodings > 1 {
                return Err(HeadError::Malformed("more than one Transfer-Encoding"));
            }
            let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
            // Empty list members are ignored (RFC 9110 section 5.6.1.2).
            let mut codings = coding.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let mut codings = codings.by_ref().filter(|coding| !coding.is_empty());
            // RFC 9112 section 6.3: if the last coding is not chunked, the end of the body is unknown.
            let last = codings.next().is_some_and(is_chunked);
            return match (last, codings.next()) {
                (true, None) => Ok(Some(Length::Chunked)),
                (true, Some(before)) if !is_chunked(before) && !codings.any(is_chunked) => {
                    Err(HeadError::Coding)
                }
                _ => Err(HeadError::Malformed("Transfer-Encoding")),
            };
        }
        match self.content_length {
            None => Ok(None),
            Some(_) if self.content_lengths > 1 => Err(HeadError::Malformed("more than one Content-Length")),
            Some(digits) => decimal(digits)
                .map(|length| Some(Length::Known(length)))
                .ok_or(HeadError::Malformed("Content-Length")),
        }
    }
}

/// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1). Other expectations
/// are ignored.
pub(crate) fn expects_continue(value: &[u8]) -> bool {
    let mut members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.any(|expectation| expectation.eq_ignore_ascii_case(b"100-continue"))
}

/// Parses a decimal number below 2^63. Only digits are valid.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    (number <= i64::MAX as u64).then_some(number)
}
