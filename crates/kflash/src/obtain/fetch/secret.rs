//! minisign secret keys.

use ct_codecs::{Base64, Decoder};
use minisign::{SecretKey, SecretKeyBox};

use super::PublicKey;
use super::signature;

/// Bytes of a secret key: algorithms, salt and limits of the key derivation, key number, key, checksum.
const LENGTH: usize = 158;
/// "Ed", then the key derivation: scrypt, or none.
const ENCRYPTED: &[u8] = b"EdSc";
const PLAIN: &[u8] = b"Ed\0\0";

/// A minisign secret key as its file holds it.
pub struct SecretFile {
    line: String,
    bytes: Vec<u8>,
}

/// A secret key that can sign, with its public key.
pub struct Signer {
    key: SecretKey,
    /// The key that checks what this one signs.
    pub public: PublicKey,
}

/// Why a secret key cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is none.
    #[error("no minisign secret key (two lines, the second begins with RW and has 212 characters)")]
    Malformed,
    /// The passphrase opens it not.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// What it signs, it does not check.
    #[error("a damaged secret key")]
    Damaged,
}

impl SecretFile {
    /// The key in the text of a file.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let line = text.lines().nth(1).unwrap_or_default().trim();
        let bytes = Base64::decode_to_vec(line, None).map_err(|_| SecretError::Malformed)?;
        let known = bytes.starts_with(ENCRYPTED) || bytes.starts_with(PLAIN);
        if bytes.len() != LENGTH || !known {
            return Err(SecretError::Malformed);
        }
        Ok(Self { line: line.to_owned(), bytes })
    }

    /// Whether it takes a passphrase.
    pub fn encrypted(&self) -> bool {
        self.bytes.starts_with(ENCRYPTED)
    }

    /// The key, opened with `passphrase` if it takes one. minisign's own keys take 1 GiB of memory for that.
    pub fn open(self, passphrase: &str) -> Result<Signer, SecretError> {
        let key = if self.encrypted() {
            let text = SecretKeyBox::from(format!("untrusted comment:\n{}\n", self.line));
            text.into_secret_key(Some(passphrase.to_owned())).map_err(|_| SecretError::WrongPassphrase)?
        } else {
            // minisign 0.11 writes no checksum into such a key, and `into_unencrypted_secret_key` asks for one: what is
            // damaged shows when its signature is checked.
            SecretKey::from_bytes(&self.bytes).map_err(|_| SecretError::Malformed)?
        };
        let public = PublicKey::of(&key).map_err(|_| SecretError::Damaged)?;
        let signer = Signer { key, public };
        signer.sign(b"", "")?;
        Ok(signer)
    }
}

impl Signer {
    /// The text of the `.minisig` file for `bytes`. The comment is signed, too.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, SecretError> {
        let signature = minisign::sign(None, &self.key, bytes, Some(comment), Some("signed by kflash"));
        let signature = signature.map_err(|_| SecretError::Damaged)?.into_string();
        signature::check(bytes, &signature, &self.public).map_err(|_| SecretError::Damaged)?;
        Ok(signature)
    }
}

impl std::fmt::Debug for Signer {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    // Made by `minisign -G -W` of Debian's minisign 0.11.
    const SECRET: &str = "untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACDQX7pssFEbogMdTFNjXtluGXUWmKogvSXRqyE2sUqhTXim+TWwpIMmgXVNITFNxNxg9HqpyiHAQHCidiP2J0E5QcqAljNokAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
    const PUBLIC: &str = "RWQINBfumywURsmgXVNITFNxNxg9HqpyiHAQHCidiP2J0E5QcqAljNok";

    #[test]
    fn a_key_signs_what_its_public_key_checks() {
        let file = SecretFile::parse(SECRET).unwrap();
        assert!(!file.encrypted());
        let signer = file.open("").unwrap();
        assert_eq!(signer.public.to_base64(), PUBLIC);
        let signature = signer.sign(b"index", "serial 7").unwrap();
        assert!(signature.contains("\ntrusted comment: serial 7\n"), "{signature}");
        let key = PublicKey::parse(PUBLIC).unwrap();
        assert_eq!(signature::check(b"index", &signature, &key), Ok(()));
        assert!(signature::check(b"other", &signature, &key).is_err());
        assert!(!format!("{signer:?}").contains("86, 57"), "{signer:?}");
    }

    #[test]
    fn a_damaged_key_does_not_sign() {
        // In the secret, and in the public key that is part of it.
        for (right, wrong) in [("ogMdTF", "ogNdTF"), ("MmgXVN", "MmgXVM")] {
            let damaged = SECRET.replace(right, wrong);
            assert_ne!(damaged, SECRET);
            let opened = SecretFile::parse(&damaged).unwrap().open("");
            assert_eq!(opened.err(), Some(SecretError::Damaged), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_secret_key_is_told() {
        let short = SECRET.replace("AAAAA=", "=");
        for text in ["", PUBLIC, "untrusted comment:\nRWQf", &short, &SECRET.replace("RWQA", "QWQA")] {
            assert_eq!(SecretFile::parse(text).err(), Some(SecretError::Malformed), "{text}");
        }
    }
}
