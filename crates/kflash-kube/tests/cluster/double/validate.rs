//! What the server finds fault with.

use serde_json::Value;

use super::answer::Failure;
use super::request::{EVENTS, LEASES, Resource};
use super::store::finalizers;

/// An error where `object` cannot be stored as `resource`.
pub fn object(resource: Resource, namespace: &str, object: &Value) -> Result<(), Failure> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let invalid = |problem: &str| Err(Failure::invalid(resource, name, problem));
    if !is_subdomain(name) {
        return invalid(
            "metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of lower case \
                        alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        );
    }
    let all_strings = |value: &Value| value.as_object().is_none_or(|map| map.values().all(Value::is_string));
    if !all_strings(&metadata["annotations"]) || !all_strings(&metadata["labels"]) {
        return Err(Failure::bad_request(format!(
            "{} in version \"v1\" cannot be handled as a {}",
            resource.kind, resource.kind
        )));
    }
    if !metadata["finalizers"].is_null() && !metadata["finalizers"].is_array() {
        return Err(Failure::bad_request("json: cannot unmarshal into Go struct field ObjectMeta.metadata.finalizers"));
    }
    if let Some(wrong) = finalizers(object).into_iter().find(|name| !is_qualified(name)) {
        return invalid(&format!(
            "metadata.finalizers: Invalid value: \"{wrong}\": name part must consist of alphanumeric \
                                 characters, '-', '_' or '.', and must start and end with an alphanumeric character"
        ));
    }
    let size: usize = metadata["annotations"]
        .as_object()
        .map(|map| map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum())
        .unwrap_or_default();
    if size > 256 << 10 {
        return invalid("metadata.annotations: Too long: must have at most 262144 bytes");
    }
    if resource == LEASES {
        return lease(name, &object["spec"]);
    }
    if resource == EVENTS {
        let about = &object["involvedObject"];
        if about["namespace"].as_str().unwrap_or_default() != namespace {
            return invalid("involvedObject.namespace: Invalid value: does not match event.namespace");
        }
        if !matches!(object["type"].as_str(), Some("Normal" | "Warning")) {
            return invalid("type: Invalid value: has invalid value");
        }
        let short = |key: &str, most: usize| object[key].as_str().is_none_or(|text| text.len() <= most);
        if !short("message", 1024) || !short("reason", 128) {
            return invalid("message: Too long: can have at most 1024 bytes");
        }
        for time in ["firstTimestamp", "lastTimestamp"] {
            if !object[time].is_null() && !object[time].as_str().is_some_and(|text| is_time(text, 0)) {
                return Err(Failure::bad_request(format!("cannot parse {} as a time", object[time])));
            }
        }
    }
    Ok(())
}

/// An error where `new` has finalizers that `old` has not, which is going.
pub fn no_new_finalizers(resource: Resource, old: &Value, new: &Value) -> Result<(), Failure> {
    let before = finalizers(old);
    let more: Vec<_> = finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if more.is_empty() {
        return Ok(());
    }
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let problem = format!(
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
         finalizers []string{{\"{}\"}}",
        more.join("\", \"")
    );
    Err(Failure::invalid(resource, name, &problem))
}

fn lease(name: &str, spec: &Value) -> Result<(), Failure> {
    let number = |key: &str, least: i64, problem: &str| match &spec[key] {
        Value::Null => Ok(()),
        value => match value.as_i64() {
            Some(number) if number >= least && i32::try_from(number).is_ok() => Ok(()),
            Some(number) => {
                Err(Failure::invalid(LEASES, name, &format!("spec.{key}: Invalid value: {number}: {problem}")))
            }
            None => {
                Err(Failure::bad_request(format!("json: cannot unmarshal into Go struct field LeaseSpec.spec.{key}")))
            }
        },
    };
    number("leaseDurationSeconds", 1, "must be greater than 0")?;
    number("leaseTransitions", 0, "must be greater than or equal to 0")?;
    if !spec["holderIdentity"].is_null() && !spec["holderIdentity"].is_string() {
        return Err(Failure::bad_request("json: cannot unmarshal into Go struct field LeaseSpec.spec.holderIdentity"));
    }
    for key in ["acquireTime", "renewTime"] {
        // The layout of a MicroTime has six digits, and Go's parser wants exactly those.
        if !spec[key].is_null() && !spec[key].as_str().is_some_and(|text| is_time(text, 6)) {
            return Err(Failure::bad_request(format!(
                "parsing time {} as \"2006-01-02T15:04:05.000000Z07:00\"",
                spec[key]
            )));
        }
    }
    Ok(())
}

/// RFC 3339 in UTC or with an offset, with exactly that many digits of a fraction.
fn is_time(text: &str, digits: usize) -> bool {
    let Some((rest, zone)) = text.strip_suffix('Z').map(|rest| (rest, "Z")).or_else(|| {
        let at = text.len().checked_sub(6)?;
        Some((text.get(..at)?, text.get(at..)?))
    }) else {
        return false;
    };
    let shaped = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text
                .bytes()
                .zip(shape.bytes())
                .all(|(c, shape)| if shape == b'0' { c.is_ascii_digit() } else { c == shape })
    };
    let zone_ok = zone == "Z" || shaped(zone, "+00:00") || shaped(zone, "-00:00");
    let fraction = if digits == 0 { String::new() } else { format!(".{}", "0".repeat(digits)) };
    zone_ok && shaped(rest, &format!("0000-00-00T00:00:00{fraction}"))
}

/// A name, after a domain where it has one.
fn is_qualified(name: &str) -> bool {
    let (domain, name) = name.split_once('/').map_or((None, name), |(domain, name)| (Some(domain), name));
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || "-_.".contains(c))
        && domain.is_none_or(is_subdomain)
}

fn is_subdomain(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name
            .split('.')
            .all(|label| label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-'))
}
