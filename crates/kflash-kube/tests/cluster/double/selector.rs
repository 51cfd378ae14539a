//! Label and field selectors.

use serde_json::Value;

use super::answer::Failure;

/// One requirement.
#[derive(Clone, Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// Selects objects.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Vec<String>, String)>,
}

impl Selector {
    pub fn of(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Failure> {
        let labels = split(labels.unwrap_or_default()).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = split(fields.unwrap_or_default())
            .into_iter()
            .map(|text| {
                let (path, value) = text
                    .split_once('=')
                    .ok_or_else(|| Failure::bad_request(format!("invalid selector: '{text}'; can't understand it")))?;
                let path = path.trim_end_matches('=').split('.').map(str::to_owned).collect();
                Ok((path, value.trim_start_matches('=').to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub fn selects(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Requirement::NotIn(key, values) => !label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(path, value)| {
            path.iter().fold(object, |value, part| &value[part.as_str()]).as_str().unwrap_or_default() == value
        })
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(text: &str) -> Result<Requirement, Failure> {
    let list = |values: &str| {
        let inner = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect::<Vec<_>>())
    };
    let wrong = || Failure::bad_request(format!("unable to parse requirement: '{text}'"));
    if let Some((key, values)) = text.split_once(" notin ") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), list(values).ok_or_else(wrong)?));
    }
    if let Some((key, values)) = text.split_once(" in ") {
        return Ok(Requirement::In(key.trim().to_owned(), list(values).ok_or_else(wrong)?));
    }
    let (requirement, key) = if let Some((key, value)) = text.split_once("!=") {
        (Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]), key)
    } else if let Some((key, value)) = text.split_once('=') {
        (Requirement::In(key.trim().to_owned(), vec![value.trim_start_matches('=').trim().to_owned()]), key)
    } else if let Some(key) = text.strip_prefix('!') {
        (Requirement::Missing(key.to_owned()), key)
    } else {
        (Requirement::Exists(text.to_owned()), text)
    };
    // A label's value that can be none: the server says 400, not an empty list.
    let value_ok = |value: &str| {
        value.len() <= 63
            && value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
            && !value.starts_with(['-', '_', '.'])
            && !value.ends_with(['-', '_', '.'])
    };
    match &requirement {
        Requirement::In(_, values) | Requirement::NotIn(_, values) if !values.iter().all(|value| value_ok(value)) => {
            Err(wrong())
        }
        _ if key.trim().is_empty() => Err(wrong()),
        _ => Ok(requirement),
    }
}
