//! ASP.NET's forms authentication ticket: a user name, encrypted and signed with the site's `machineKey`.
//!
//! The MAC is verified in constant time before anything is decrypted. A ticket does not prove that the
//! session is still valid because signing out does not revoke it; `session_info` checks that.
//!
//! Formats: System.Web.Security.FormsAuthentication of .NET Framework, with `machineKey compatibilityMode`
//! Framework20SP1 or SP2 (the legacy format) and Framework45 (keys derived by NIST SP 800-108 in counter
//! mode).

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::{hmac, iv, kdf};
use base64::Engine;

/// The limit of ASP.NET.
const MAX_CHARACTERS: usize = 4096;
const BLOCK: usize = 16;
/// What Framework45 derives its keys for.
const PURPOSE: &[u8] = b"FormsAuthentication.Ticket";

/// `validation` of `machineKey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validation {
    /// Also what `AES` and `3DES` mean there.
    Sha1,
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// `compatibilityMode` of `machineKey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compatibility {
    /// Framework20SP1, Framework20SP2.
    Legacy,
    Framework45,
}

/// The keys of a site, ready for use.
pub(crate) struct Keys {
    mac: hmac::Key,
    mac_length: usize,
    cipher: PaddedBlockDecryptingKey,
    compatibility: Compatibility,
    /// Of the decryption key, in bytes: as much randomness goes before a legacy ticket.
    key_length: usize,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("compatibility", &self.compatibility).finish_non_exhaustive()
    }
}

/// Why keys are none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KeyError {
    #[error("a decryption key of {0} bytes; AES has 16, 24 or 32 (32, 48 or 64 hexadecimal digits)")]
    DecryptionLength(usize),
    #[error("a validation key of {0} bytes; ASP.NET takes 20 to 64 (40 to 128 hexadecimal digits)")]
    ValidationLength(usize),
    #[error("the cryptographic library refuses the key")]
    Refused,
}

/// A cookie is not a valid ticket. Contains nothing of the cookie.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TicketError {
    #[error("is longer than {MAX_CHARACTERS} characters")]
    TooLong,
    #[error("is neither hexadecimal nor ASP.NET's base64")]
    NotEncoded,
    #[error("has the wrong length for a ticket")]
    Length,
    #[error("was not signed with these keys")]
    Mac,
    #[error("has a valid signature but cannot be decrypted; check decryption_key")]
    Decryption,
    #[error("has a valid signature but is not a ticket; check compatibility_mode")]
    NotATicket,
}

/// A ticket with a valid MAC.
#[derive(PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) name: String,
    /// Seconds since 1970 UTC; negative before.
    pub(crate) expires: i64,
}

impl Keys {
    pub(crate) fn new(
        validation_key: &[u8],
        decryption_key: &[u8],
        validation: Validation,
        compatibility: Compatibility,
    ) -> Result<Self, KeyError> {
        if !(20..=64).contains(&validation_key.len()) {
            return Err(KeyError::ValidationLength(validation_key.len()));
        }
        let cipher: &'static Algorithm = match decryption_key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            other => return Err(KeyError::DecryptionLength(other)),
        };
        let (algorithm, mac_length) = match validation {
            Validation::Sha1 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20),
            Validation::HmacSha256 => (hmac::HMAC_SHA256, 32),
            Validation::HmacSha384 => (hmac::HMAC_SHA384, 48),
            Validation::HmacSha512 => (hmac::HMAC_SHA512, 64),
        };
        let key = |master: &[u8]| match compatibility {
            Compatibility::Legacy => Ok(master.to_vec()),
            Compatibility::Framework45 => derived(master),
        };
        let unbound = UnboundCipherKey::new(cipher, &key(decryption_key)?).map_err(|_| KeyError::Refused)?;
        Ok(Self {
            mac: hmac::Key::new(algorithm, &key(validation_key)?),
            mac_length,
            cipher: PaddedBlockDecryptingKey::cbc_pkcs7(unbound).map_err(|_| KeyError::Refused)?,
            compatibility,
            key_length: decryption_key.len(),
        })
    }

    /// Verifies and decrypts the value of a cookie.
    pub(crate) fn open(&self, cookie: &str) -> Result<Ticket, TicketError> {
        let sealed = decoded(cookie)?;
        let (body, mac) = self.split(&sealed)?;
        hmac::verify(&self.mac, body, mac).map_err(|_| TicketError::Mac)?;
        let (iv, ciphertext) = match self.compatibility {
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
        let plain = self.cipher.decrypt(&mut buffer, context).map_err(|_| TicketError::Decryption)?;
        match self.compatibility {
            Compatibility::Framework45 => parse(plain),
            Compatibility::Legacy => {
                // Random bytes of the key's length, the ticket, and a MAC of the ticket.
                let signed = plain.get(self.key_length..).ok_or(TicketError::NotATicket)?;
                let (ticket, mac) = self.split(signed).map_err(|_| TicketError::NotATicket)?;
                hmac::verify(&self.mac, ticket, mac).map_err(|_| TicketError::NotATicket)?;
                parse(ticket)
            }
        }
    }

    fn split<'a>(&self, signed: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), TicketError> {
        let length = signed.len().checked_sub(self.mac_length).ok_or(TicketError::Length)?;
        Ok(signed.split_at(length))
    }
}

/// SP 800-108 in counter mode with HMAC-SHA512, as long as the master key.
fn derived(master: &[u8]) -> Result<Vec<u8>, KeyError> {
    let algorithm = kdf::get_kbkdf_ctr_hmac_algorithm(kdf::KbkdfCtrHmacAlgorithmId::Sha512);
    let bits = u32::try_from(master.len() * 8).map_err(|_| KeyError::Refused)?;
    let info = [PURPOSE, &[0], &bits.to_be_bytes()].concat();
    let mut key = vec![0; master.len()];
    kdf::kbkdf_ctr_hmac(algorithm.ok_or(KeyError::Refused)?, master, &info, &mut key)
        .map_err(|_| KeyError::Refused)?;
    Ok(key)
}

/// Decodes hexadecimal digits, or ASP.NET's UrlToken: URL-safe base64 followed by the number of padding characters.
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

/// Decodes an even number of hexadecimal digits.
pub(crate) fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// .NET's ticks, 100 ns since the year 1, as seconds since 1970.
fn unix_seconds(ticks: i64) -> i64 {
    const UNIX_EPOCH: i64 = 621_355_968_000_000_000;
    ticks.saturating_sub(UNIX_EPOCH).div_euclid(10_000_000)
}

/// Parses a decrypted ticket, which must not have further bytes.
fn parse(bytes: &[u8]) -> Result<Ticket, TicketError> {
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
        let _is_persistent = self.byte().filter(|byte| matches!(byte, 0 | 1))?;
        let name = self.text()?;
        let (_user_data, _path) = (self.text()?, self.text()?);
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

/// Whether decrypted bytes are a ticket, for fuzz targets and benchmarks.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn reads_as_ticket(plain: &[u8]) -> bool {
    parse(plain).is_ok()
}

/// A ticket with its keys from the test vectors, for fuzz targets and benchmarks.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) struct Vector {
    keys: Keys,
    /// Fields of a line in the file.
    fields: Vec<&'static str>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Vector {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let lines = include_str!("forms_ticket/vectors.txt").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [mode, validation, validation_key, decryption_key, ..] = fields[..] else { return None };
            let validation = match validation {
                "SHA1" => Validation::Sha1,
                "HMACSHA256" => Validation::HmacSha256,
                "HMACSHA384" => Validation::HmacSha384,
                _ => Validation::HmacSha512,
            };
            let legacy = mode != "Framework45";
            let compatibility = if legacy { Compatibility::Legacy } else { Compatibility::Framework45 };
            let [own, other] = [validation_key, decryption_key].map(hexadecimal);
            Some(Self { keys: Keys::new(&own?, &other?, validation, compatibility).ok()?, fields })
        })
    }

    /// Mode, validation and size of the decryption key.
    pub(crate) fn name(&self) -> String {
        format!("{}, {}, AES-{}", self.fields[0], self.fields[1], self.keys.key_length * 8)
    }

    pub(crate) fn cookie(&self) -> &'static str {
        self.fields.last().copied().unwrap_or_default()
    }

    pub(crate) fn opens(&self, cookie: &str) -> bool {
        self.keys.open(cookie).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Vector {
        fn name_in_ticket(&self) -> &'static str {
            self.fields[8]
        }

        /// Seconds since 1970, and by how much the file may be wrong: it has some times in milliseconds only.
        fn expires(&self) -> (i64, u64) {
            let ticks = self.fields[6].trim_start_matches('~').parse().unwrap();
            (unix_seconds(ticks), u64::from(self.fields[6].starts_with('~')))
        }
    }

    fn error(keys: &Keys, cookie: &str) -> Option<TicketError> {
        keys.open(cookie).err()
    }

    #[test]
    fn tickets_of_dot_net_open_in_every_format_and_size() {
        assert_eq!(Vector::all().count(), 8);
        for vector in Vector::all() {
            let cookie = vector.cookie();
            let ticket =
                vector.keys.open(cookie).unwrap_or_else(|error| panic!("{}: {error}", vector.name()));
            assert_eq!(ticket.name, vector.name_in_ticket());
            let (expires, tolerance) = vector.expires();
            assert!(ticket.expires.abs_diff(expires) <= tolerance, "{} {expires}", ticket.expires);
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
    fn whatever_bit_is_turned_it_was_not_signed() {
        for vector in Vector::all() {
            let (keys, sealed) = (&vector.keys, hexadecimal(vector.cookie()).unwrap());
            for bit in (0..sealed.len() * 8).step_by(5) {
                let mut turned = sealed.clone();
                turned[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(error(keys, &hex(&turned)), Some(TicketError::Mac), "{bit}");
            }
            for length in (0..sealed.len()).step_by(7) {
                assert!(keys.open(&hex(&sealed[..length])).is_err(), "{length}");
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

    #[test]
    fn keys_have_the_sizes_they_can_have() {
        let new = |validation: usize, decryption: usize| {
            let keys = Keys::new(
                &vec![1; validation],
                &vec![2; decryption],
                Validation::Sha1,
                Compatibility::Framework45,
            );
            keys.err()
        };
        assert_eq!(new(64, 16), None);
        assert_eq!(new(64, 8), Some(KeyError::DecryptionLength(8)));
        assert_eq!(new(8, 32), Some(KeyError::ValidationLength(8)));
    }

    #[test]
    fn what_is_left_over_or_missing_is_no_ticket() {
        let mut ticket = vec![1, 2];
        ticket.extend(1_i64.to_le_bytes());
        ticket.push(0xfe);
        ticket.extend(2_i64.to_le_bytes());
        ticket.extend([0, 1, b'A', 0, 0, 1, b'/', 0, 0xff]);
        assert!(reads_as_ticket(&ticket));
        for length in 0..ticket.len() {
            assert!(!reads_as_ticket(&ticket[..length]), "{length}");
        }
        assert!(!reads_as_ticket(&[&ticket[..], &[0]].concat()));
        let changed = |at: usize, to: u8| {
            let mut changed = ticket.clone();
            changed[at] = to;
            reads_as_ticket(&changed)
        };
        assert!(!changed(0, 2) && !changed(10, 0) && !changed(19, 2) && !changed(20, 0), "no name");
        assert!(!changed(22, 0xd8), "half of a surrogate pair");
        assert!(!changed(20, 0x80) && !changed(20, 0xff));
    }
}
