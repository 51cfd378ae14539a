//! minisign: who vouches for an index.

use std::io::Cursor;

use minisign::{PublicKeyBox, SignatureBox};

/// A minisign public key.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key: minisign::PublicKey,
    /// Its number, as minisign prints it.
    pub id: String,
}

/// The text is no minisign public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no minisign public key (two lines, or the second alone: RW and 54 characters more)")]
pub struct KeyError;

/// Why nobody vouches for an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file beside it is no minisign signature.
    #[error("not a minisign signature")]
    Malformed,
    /// Another key signed it.
    #[error("signed by key {by}, not by {wanted}")]
    OtherKey {
        /// The number of the key that signed.
        by: String,
        /// The number of the key that is trusted.
        wanted: String,
    },
    /// The signature is not one of these bytes.
    #[error("the signature does not fit: the index was changed after key {by} signed it")]
    Wrong {
        /// The number of the key that is said to have signed.
        by: String,
    },
}

impl PublicKey {
    /// The key in a text: a `.pub` file of minisign, or the base64 line of it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        // 42 bytes: "Ed", the key's number, the key.
        let line = text.lines().last().unwrap_or_default().trim();
        if line.len() != 56 || text.lines().count() > 2 {
            return Err(KeyError);
        }
        let two_lines = format!("untrusted comment:\n{line}\n");
        let key = PublicKeyBox::from(two_lines).into_public_key().map_err(|_| KeyError)?;
        Ok(Self { id: number(key.keynum()), key })
    }

    /// The key that checks what `key` signs.
    pub(super) fn of(key: &minisign::SecretKey) -> Result<Self, KeyError> {
        let key = minisign::PublicKey::from_secret_key(key).map_err(|_| KeyError)?;
        Ok(Self { id: number(key.keynum()), key })
    }

    /// The base64 line.
    pub fn to_base64(&self) -> String {
        self.key.to_base64()
    }
}

/// Checks that `signature`, the text of a `.minisig` file, is `key`'s of `bytes`.
pub fn check(bytes: &[u8], signature: &str, key: &PublicKey) -> Result<(), SignatureError> {
    let signature = SignatureBox::from_string(signature).map_err(|_| SignatureError::Malformed)?;
    let by = number(signature.keynum());
    if by != key.id {
        return Err(SignatureError::OtherKey { by, wanted: key.id.clone() });
    }
    // Signatures of the old form, over the bytes and not their hash, are as good: `minisign -S -l`.
    minisign::verify(&key.key, &signature, Cursor::new(bytes), true, false, true)
        .map_err(|_| SignatureError::Wrong { by })
}

/// A key's number as minisign prints it: a little-endian integer in hex.
fn number(keynum: &[u8]) -> String {
    keynum.iter().rev().fold(String::new(), |text, byte| text + &format!("{byte:02X}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    // The example of minisign's own page (https://jedisct1.github.io/minisign/) and its signature of "test".
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==
";

    #[test]
    fn a_key_is_a_line_or_a_file() {
        let key = PublicKey::parse(KEY).unwrap();
        assert_eq!((key.id.as_str(), key.to_base64().as_str()), ("E7620F1842B4E81F", KEY));
        let file = format!("untrusted comment: minisign public key E7620F1842B4E81F\n{KEY}\n");
        assert_eq!(PublicKey::parse(&file).unwrap().id, key.id);
        for text in
            ["", "RWQf", "untrusted comment:\n", &KEY[1..], &format!("{KEY}\n{KEY}\n{KEY}"), &KEY.replace('Q', "!")]
        {
            assert!(PublicKey::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_signature_is_of_these_bytes_by_this_key() {
        let key = PublicKey::parse(KEY).unwrap();
        assert_eq!(check(b"test", SIGNATURE, &key), Ok(()));
        let by = key.id.clone();
        assert_eq!(check(b"Test", SIGNATURE, &key), Err(SignatureError::Wrong { by: by.clone() }));
        let comment = SIGNATURE.replace("file:test", "file:else");
        assert_eq!(check(b"test", &comment, &key), Err(SignatureError::Wrong { by }));
        let other = PublicKey::parse("RWTSM+4BNNvkZPNkHgE88ETlhWa+0HDzU5CN8TvbyvmhVUcr6aQXfssV").unwrap();
        let error = check(b"test", SIGNATURE, &other).unwrap_err();
        assert_eq!(error.to_string(), format!("signed by key E7620F1842B4E81F, not by {}", other.id));
        for text in ["", "untrusted comment:\n\ntrusted comment:\n\n", "<html>", &SIGNATURE[..150]] {
            assert_eq!(check(b"test", text, &key), Err(SignatureError::Malformed), "{text:?}");
        }
    }
}
