//! JSON that carries the digest of all its other bytes, so that no byte of it changes unnoticed.

use serde::Serialize;

use crate::digest::Sha256;

/// The digest comes first, on a line of its own.
const BEFORE: &str = "{\n  \"sha256\": \"";
const AFTER: &str = "\",";
const DIGITS: usize = 64;

/// `value`, which serializes as an object with at least one key, as JSON with its digest.
pub(super) fn seal(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_string_pretty(value)?;
    let rest = format!("{}\n", json.strip_prefix('{').unwrap_or(&json));
    Ok(format!("{BEFORE}{}{AFTER}{rest}", Sha256::of(rest.as_bytes())).into_bytes())
}

/// The JSON in `sealed`, without the digest; `None` if a byte of it is not as it was written.
pub(super) fn unseal(sealed: &[u8]) -> Option<Vec<u8>> {
    let (digest, rest) = sealed.strip_prefix(BEFORE.as_bytes())?.split_at_checked(DIGITS)?;
    let rest = rest.strip_prefix(AFTER.as_bytes())?;
    let digest: Sha256 = std::str::from_utf8(digest).ok()?.parse().ok()?;
    (digest == Sha256::of(rest)).then(|| [b"{", rest].concat())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_json_and_every_bit_counts() {
        let value = json!({"a": {"b": [1, 2]}, "c": "}"});
        let sealed = seal(&value).unwrap();
        let all: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(all["a"], value["a"]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&unseal(&sealed).unwrap()).unwrap(), value);
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(unseal(&flipped), None, "bit {bit} of byte {at}");
            }
            assert_eq!(unseal(&sealed[..at]), None, "cut at {at}");
        }
        assert_eq!(unseal(&[&sealed[..], b" "].concat()), None);
    }
}
