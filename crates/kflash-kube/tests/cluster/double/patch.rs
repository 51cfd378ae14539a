//! The patches that the server takes.

use serde_json::{Map, Value};

use super::answer::Failure;

/// `object` with the patch in `body` applied.
pub fn patched(object: &Value, content_type: &str, body: &[u8]) -> Result<Value, Failure> {
    let patch: Value =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let mut object = object.clone();
    match content_type.split(';').next().unwrap_or_default().trim() {
        // Of maps alone, as a scale and what is patched here are, both mean the same.
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            if !patch.is_object() {
                return Err(Failure::bad_request("error decoding patch: not an object"));
            }
            merge(&mut object, &patch);
        }
        "application/json-patch+json" => {
            let operations =
                patch.as_array().ok_or_else(|| Failure::bad_request("error decoding patch: not an array"))?;
            for operation in operations {
                operate(&mut object, operation)?;
            }
        }
        _ => return Err(Failure::unsupported_media_type()),
    }
    Ok(object)
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

/// RFC 6902, of maps.
fn operate(target: &mut Value, operation: &Value) -> Result<(), Failure> {
    let wrong = |problem: &str| Failure::bad_request(format!("json patch: {problem}: {operation}"));
    let path = operation["path"].as_str().and_then(|path| path.strip_prefix('/')).ok_or_else(|| wrong("no path"))?;
    let mut parts: Vec<String> = path.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    let last = parts.pop().ok_or_else(|| wrong("no path"))?;
    let mut at = target;
    for part in parts {
        at = at.get_mut(&part).ok_or_else(|| wrong("no such path"))?;
    }
    let map = at.as_object_mut().ok_or_else(|| wrong("not a map"))?;
    let value = operation["value"].clone();
    match operation["op"].as_str() {
        Some("add") => {
            map.insert(last, value);
        }
        Some("replace") if map.contains_key(&last) => {
            map.insert(last, value);
        }
        Some("remove") if map.contains_key(&last) => {
            map.remove(&last);
        }
        Some("test") if map.get(&last) == Some(&value) => {}
        _ => return Err(wrong("cannot be applied")),
    }
    Ok(())
}
