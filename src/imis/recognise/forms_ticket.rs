//! ASP.NET's forms authentication ticket, opened with the site's own `machineKey`: a user name that iMIS signed.
//!
//! A ticket is decrypted only after its MAC is verified, in constant time. It tells who signed in, not whether the
//! session is still valid: signing out of iMIS does not revoke it. `session_info` checks that.
//!
//! Formats: System.Web.Security.FormsAuthentication of .NET Framework, with `machineKey compatibilityMode`
//! Framework20SP1 or SP2 (the legacy format) and Framework45 (keys derived by NIST SP 800-108 in counter mode).

use aws_lc_rs::cipher::DecryptionContext;
use aws_lc_rs::{hmac, iv};
use base64::Engine;

use crate::config::machine_keys::{Compatibility, MachineKeys, hexadecimal};

/// As ASP.NET: a longer text is no ticket.
const MAX_CHARACTERS: usize = 4096;
const BLOCK: usize = 16;

/// Why a cookie is no ticket. Says nothing of what is in it.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TicketError {
    #[error("is longer than {MAX_CHARACTERS} characters")]
    TooLong,
    #[error("is neither hexadecimal nor ASP.NET's base64")]
    NotEncoded,
    #[error("is too short for a ticket, or not in whole blocks")]
    Length,
    #[error("was not signed with these keys")]
    Mac,
    #[error("was signed with these keys and cannot be decrypted with them: another decryption key?")]
    Decryption,
    #[error("was signed with these keys and is no ticket: another compatibility mode?")]
    NotATicket,
}

/// A ticket whose MAC holds.
#[derive(PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) name: String,
    /// Seconds since 1970 UTC; negative before.
    pub(crate) expires: i64,
}

/// Opens the text of a cookie.
pub(crate) fn open(keys: &MachineKeys, cookie: &str) -> Result<Ticket, TicketError> {
    let sealed = decoded(cookie)?;
    let (body, mac) = split(keys, &sealed)?;
    hmac::verify(&keys.mac, body, mac).map_err(|_| TicketError::Mac)?;
    let (iv, ciphertext) = match keys.compatibility {
        Compatibility::Legacy => ([0; BLOCK], body),
        Compatibility::Framework45 => {
            let (iv, ciphertext) = body.split_first_chunk().ok_or(TicketError::Length)?;
            (*iv, ciphertext)
        }
    };
    if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK) {
        return Err(TicketError::Length);
    }
    let mut buffer = ciphertext.to_vec();
    let context = DecryptionContext::Iv128(iv::FixedLength::from(iv));
    let plain = keys.cipher.decrypt(&mut buffer, context).map_err(|_| TicketError::Decryption)?;
    match keys.compatibility {
        Compatibility::Framework45 => parse(plain),
        Compatibility::Legacy => {
            // Randomness of the key's length, the ticket, and a MAC of the ticket alone.
            let signed = plain.get(keys.key_length..).ok_or(TicketError::NotATicket)?;
            let (ticket, mac) = split(keys, signed).map_err(|_| TicketError::NotATicket)?;
            hmac::verify(&keys.mac, ticket, mac).map_err(|_| TicketError::NotATicket)?;
            parse(ticket)
        }
    }
}

/// The signed part, and its MAC at the end.
fn split<'a>(keys: &MachineKeys, signed: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), TicketError> {
    let length = signed.len().checked_sub(keys.mac_length()).ok_or(TicketError::Length)?;
    Ok(signed.split_at(length))
}

/// Hexadecimal if it can be, else ASP.NET's UrlToken: URL-safe base64 whose last character counts the padding.
fn decoded(text: &str) -> Result<Vec<u8>, TicketError> {
    if text.len() > MAX_CHARACTERS {
        return Err(TicketError::TooLong);
    }
    if let Some(bytes) = hexadecimal(text) {
        return Ok(bytes);
    }
    let (base64, padding) =
        text.split_at_checked(text.len().wrapping_sub(1)).ok_or(TicketError::NotEncoded)?;
    let padded = match padding {
        "0" => base64.to_owned(),
        "1" => format!("{base64}="),
        "2" => format!("{base64}=="),
        _ => return Err(TicketError::NotEncoded),
    };
    base64::engine::general_purpose::URL_SAFE.decode(padded).map_err(|_| TicketError::NotEncoded)
}

/// .NET's ticks, 100 ns since the year 1, as seconds since 1970.
fn unix_seconds(ticks: i64) -> i64 {
    const UNIX_EPOCH: i64 = 621_355_968_000_000_000;
    ticks.saturating_sub(UNIX_EPOCH).div_euclid(10_000_000)
}

/// Parses a decrypted ticket. Bytes after its end are an error.
pub(crate) fn parse(bytes: &[u8]) -> Result<Ticket, TicketError> {
    let mut reader = Reader(bytes);
    let ticket = reader.ticket().filter(|ticket| !ticket.name.is_empty());
    ticket.filter(|_| reader.0.is_empty()).ok_or(TicketError::NotATicket)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn ticket(&mut self) -> Option<Ticket> {
        self.exactly(1)?;
        let _version = self.byte()?;
        let _issued = self.ticks()?;
        self.exactly(0xfe)?;
        let expires = unix_seconds(self.ticks()?);
        let _is_persistent = self.byte().filter(|flag| *flag <= 1)?;
        let name = self.text()?;
        let _user_data = self.text()?;
        let _path = self.text()?;
        self.exactly(0xff)?;
        Some(Ticket { name, expires })
    }

    fn exactly(&mut self, wanted: u8) -> Option<()> {
        (self.byte()? == wanted).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn ticks(&mut self) -> Option<i64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_le_bytes(*bytes))
    }

    /// A count of UTF-16 units, seven bits a byte, then the units.
    fn text(&mut self) -> Option<String> {
        let mut count = 0_usize;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            count |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let (text, rest) = self.0.split_at_checked(count.checked_mul(2)?)?;
                self.0 = rest;
                let (units, _) = text.as_chunks::<2>();
                let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
                return String::from_utf16(&units).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::ticket_vectors::Vector;

    fn error(keys: &MachineKeys, cookie: &str) -> Option<TicketError> {
        open(keys, cookie).err()
    }

    #[test]
    fn tickets_of_dot_net_open_in_every_format_and_size() {
        assert_eq!(Vector::all().count(), 8);
        for vector in Vector::all() {
            let cookie = vector.cookie();
            let ticket =
                open(&vector.keys, cookie).unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            assert_eq!(ticket.name, vector.user_name());
            assert_eq!(ticket.expires, unix_seconds(vector.expires()));
            assert!(vector.opens(&cookie.to_lowercase()), "hexadecimal in lower case");
        }
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(unix_seconds(638_396_640_000_000_000), 1_704_067_200);
        assert_eq!(unix_seconds(0), -62_135_596_800);
        assert_eq!(unix_seconds(i64::MIN), i64::MIN / 10_000_000 - 1);
    }

    #[test]
    fn a_ticket_with_any_bit_changed_is_refused() {
        for vector in Vector::all() {
            let (keys, sealed) = (&vector.keys, hexadecimal(vector.cookie()).unwrap());
            for bit in (0..sealed.len() * 8).step_by(5) {
                let mut turned = sealed.clone();
                turned[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(error(keys, &hex(&turned)), Some(TicketError::Mac), "{bit}");
            }
            for length in (0..sealed.len()).step_by(7) {
                assert!(open(keys, &hex(&sealed[..length])).is_err(), "{length}");
            }
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    #[test]
    fn tickets_of_other_keys_are_refused() {
        for (one, vector) in Vector::all().enumerate() {
            for (other, of) in Vector::all().enumerate() {
                assert_eq!(vector.opens(of.cookie()), one == other, "{one} {other}");
            }
        }
    }

    #[test]
    fn the_other_encoding_is_read_too() {
        let vector = Vector::all().last().unwrap();
        let (keys, sealed) = (&vector.keys, hexadecimal(vector.cookie()).unwrap());
        let base64 = base64::engine::general_purpose::URL_SAFE.encode(&sealed);
        let padding = base64.bytes().filter(|byte| *byte == b'=').count();
        let token = format!("{}{padding}", base64.trim_end_matches('='));
        assert!(vector.opens(&token));
        for wrong in ["", "0", "é", "A", "AA3", "AAA=", "A B1", "!!!!0", "ABCD", "4"] {
            assert!(
                matches!(error(keys, wrong), Some(TicketError::NotEncoded | TicketError::Length)),
                "{wrong}"
            );
        }
        assert_eq!(error(keys, &"A".repeat(5000)), Some(TicketError::TooLong));
    }

    fn is_ticket(plain: &[u8]) -> bool {
        parse(plain).is_ok()
    }

    #[test]
    fn a_ticket_with_missing_or_extra_bytes_is_refused() {
        let mut ticket = vec![1, 2];
        ticket.extend(1_i64.to_le_bytes());
        ticket.push(0xfe);
        ticket.extend(2_i64.to_le_bytes());
        ticket.extend([0, 1, b'A', 0, 0, 1, b'/', 0, 0xff]);
        assert!(is_ticket(&ticket));
        for length in 0..ticket.len() {
            assert!(!is_ticket(&ticket[..length]), "{length}");
        }
        assert!(!is_ticket(&[&ticket[..], &[0]].concat()));
        let changed = |at: usize, to: u8| {
            let mut changed = ticket.clone();
            changed[at] = to;
            is_ticket(&changed)
        };
        assert!(!changed(0, 2) && !changed(10, 0) && !changed(19, 2) && !changed(20, 0), "no name");
        assert!(!changed(22, 0xd8), "half of a surrogate pair");
        assert!(!changed(20, 0x80) && !changed(20, 0xff));
    }
}
