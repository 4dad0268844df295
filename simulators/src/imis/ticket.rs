//! ASP.NET forms authentication tickets as iMIS 2017 creates them, written from the format without code of the gateway.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use crate::server;

/// `machineKey` of web.config.
#[derive(Debug, Clone)]
pub struct MachineKey {
    /// Hexadecimal.
    pub validation_key: String,
    /// Hexadecimal: 32, 48 or 64 digits.
    pub decryption_key: String,
    /// `compatibilityMode="Framework45"`, else the format of .NET 2.0.
    pub framework_45: bool,
}

impl MachineKey {
    /// Random keys; HMACSHA256 and AES-256.
    pub fn random(framework_45: bool) -> Self {
        Self { validation_key: server::random_hex(64), decryption_key: server::random_hex(32), framework_45 }
    }

    /// The cookie of a person who signs in now. `seconds`: the lifetime of the ticket.
    pub fn ticket(&self, user_name: &str, seconds: i64) -> String {
        let mut blob = vec![1, 2];
        let now = (server::unix_now() + 62_135_596_800) * 10_000_000;
        blob.extend(now.to_le_bytes());
        blob.push(0xfe);
        blob.extend((now + seconds * 10_000_000).to_le_bytes());
        blob.push(0);
        for text in [user_name, "{\"IsPasswordTemporary\":false}", "/"] {
            let units: Vec<u16> = text.encode_utf16().collect();
            // All shorter than 128 units, so that their count is one byte.
            blob.push(u8::try_from(units.len()).unwrap_or(127));
            blob.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        }
        blob.push(0xff);
        let sealed = if self.framework_45 { self.seal_45(&blob) } else { self.seal_20(&blob) };
        sealed.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    fn seal_20(&self, blob: &[u8]) -> Vec<u8> {
        let (validation, decryption) = (bytes(&self.validation_key), bytes(&self.decryption_key));
        let mut plain = bytes(&server::random_hex(decryption.len()));
        plain.extend(blob);
        plain.extend(mac(&validation, blob));
        let mut sealed = encrypt(&decryption, [0; 16], &plain);
        let tag = mac(&validation, &sealed);
        sealed.extend(tag);
        sealed
    }

    fn seal_45(&self, blob: &[u8]) -> Vec<u8> {
        let (validation, decryption) =
            (derive(&bytes(&self.validation_key)), derive(&bytes(&self.decryption_key)));
        let mut iv = [0; 16];
        iv.copy_from_slice(&bytes(&server::random_hex(16)));
        let mut sealed = iv.to_vec();
        sealed.extend(encrypt(&decryption, iv, blob));
        let tag = mac(&validation, &sealed);
        sealed.extend(tag);
        sealed
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// NIST SP 800-108, counter mode, written out.
fn derive(master: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA512, master);
    let bits = u32::try_from(master.len() * 8).unwrap_or_default();
    let mut out = Vec::new();
    let mut counter = 1_u32;
    while out.len() < master.len() {
        let mut input = counter.to_be_bytes().to_vec();
        input.extend(b"FormsAuthentication.Ticket\0");
        input.extend(bits.to_be_bytes());
        out.extend(hmac::sign(&key, &input).as_ref());
        counter += 1;
    }
    out.truncate(master.len());
    out
}

fn encrypt(key: &[u8], iv: [u8; 16], plain: &[u8]) -> Vec<u8> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let mut buffer = plain.to_vec();
    let sealed = UnboundCipherKey::new(algorithm, key)
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .and_then(|key| key.less_safe_encrypt(&mut buffer, EncryptionContext::Iv128(FixedLength::from(iv))));
    assert!(sealed.is_ok(), "a key of {} bytes", key.len());
    buffer
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}
