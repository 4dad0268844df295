//! The `machineKey` of an ASP.NET site: the keys that sign and encrypt its forms authentication tickets.

use std::fmt;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, Algorithm, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::{hmac, kdf};

/// The purpose for which `Framework45` derives its keys.
const PURPOSE: &[u8] = b"FormsAuthentication.Ticket";

/// `validation` of `machineKey`: the algorithm that signs. With `AES` and `3DES` it is SHA1, too.
pub(crate) const VALIDATION: [(&str, hmac::Algorithm); 6] = [
    ("SHA1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("HMACSHA256", hmac::HMAC_SHA256),
    ("HMACSHA384", hmac::HMAC_SHA384),
    ("HMACSHA512", hmac::HMAC_SHA512),
    ("AES", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("3DES", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
];

/// `compatibilityMode` of `machineKey`.
pub(crate) const COMPATIBILITY_MODE: [(&str, Compatibility); 3] = [
    ("Framework20SP1", Compatibility::Legacy),
    ("Framework20SP2", Compatibility::Legacy),
    ("Framework45", Compatibility::Framework45),
];

/// `compatibilityMode` of `machineKey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compatibility {
    /// Framework20SP1, Framework20SP2.
    Legacy,
    Framework45,
}

/// Validation and decryption key, ready for use.
pub(crate) struct MachineKeys {
    pub(crate) mac: hmac::Key,
    pub(crate) cipher: PaddedBlockDecryptingKey,
    pub(crate) compatibility: Compatibility,
    /// Of the decryption key, in bytes. A legacy ticket begins with as many random bytes.
    pub(crate) key_length: usize,
}

impl fmt::Debug for MachineKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineKeys").field("compatibility", &self.compatibility).finish_non_exhaustive()
    }
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KeyError {
    #[error("a decryption key of {0} bytes; AES has 16, 24 or 32 (32, 48 or 64 hexadecimal digits)")]
    DecryptionLength(usize),
    #[error("a validation key of {0} bytes; ASP.NET takes 20 to 64 (40 to 128 hexadecimal digits)")]
    ValidationLength(usize),
    #[error("the cryptographic library refuses the key")]
    Refused,
}

impl MachineKeys {
    pub(crate) fn new(
        validation_key: &[u8],
        decryption_key: &[u8],
        validation: hmac::Algorithm,
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
        let key = |master: &[u8]| match compatibility {
            Compatibility::Legacy => Ok(master.to_vec()),
            Compatibility::Framework45 => derived(master),
        };
        let unbound = UnboundCipherKey::new(cipher, &key(decryption_key)?).map_err(|_| KeyError::Refused)?;
        Ok(Self {
            mac: hmac::Key::new(validation, &key(validation_key)?),
            cipher: PaddedBlockDecryptingKey::cbc_pkcs7(unbound).map_err(|_| KeyError::Refused)?,
            compatibility,
            key_length: decryption_key.len(),
        })
    }

    /// In bytes.
    pub(crate) fn mac_length(&self) -> usize {
        self.mac.algorithm().digest_algorithm().output_len()
    }
}

/// A key derived by NIST SP 800-108 in counter mode with HMAC-SHA512, as long as the master key.
fn derived(master: &[u8]) -> Result<Vec<u8>, KeyError> {
    let algorithm = kdf::get_kbkdf_ctr_hmac_algorithm(kdf::KbkdfCtrHmacAlgorithmId::Sha512);
    let bits = u32::try_from(master.len() * 8).map_err(|_| KeyError::Refused)?;
    let info = [PURPOSE, &[0], &bits.to_be_bytes()].concat();
    let mut key = vec![0; master.len()];
    kdf::kbkdf_ctr_hmac(algorithm.ok_or(KeyError::Refused)?, master, &info, &mut key)
        .map_err(|_| KeyError::Refused)?;
    Ok(key)
}

/// Decodes an even number of hexadecimal digits.
pub(crate) fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_sizes_they_can_have() {
        let new = |validation: usize, decryption: usize| {
            let keys = MachineKeys::new(
                &vec![1; validation],
                &vec![2; decryption],
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                Compatibility::Framework45,
            );
            keys.err()
        };
        assert_eq!(new(64, 16), None);
        assert_eq!(new(64, 8), Some(KeyError::DecryptionLength(8)));
        assert_eq!(new(8, 32), Some(KeyError::ValidationLength(8)));
    }
}
