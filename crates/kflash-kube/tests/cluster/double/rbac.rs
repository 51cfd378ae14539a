//! Who may do what.

use serde_json::Value;

use super::answer::Failure;
use super::request::Asked;

/// A user and the rules of the Role that is bound to it; `None` may do everything.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub rules: Option<Vec<Value>>,
}

impl User {
    /// An error where the user may not do that.
    pub fn may(&self, asked: &Asked) -> Result<(), Failure> {
        let Some(rules) = &self.rules else { return Ok(()) };
        if rules.iter().any(|rule| allows(rule, asked)) { Ok(()) } else { Err(Failure::forbidden(&self.name, asked)) }
    }
}

/// A rule as it is written in a Role's manifest.
fn allows(rule: &Value, asked: &Asked) -> bool {
    let has = |list: &str, word: &str| {
        rule[list].as_array().is_some_and(|words| words.iter().any(|one| one == word || one == "*"))
    };
    let resource = match &asked.subresource {
        Some(sub) => format!("{}/{sub}", asked.resource.plural),
        None => asked.resource.plural.to_owned(),
    };
    // A rule about names is no rule about requests that name nothing.
    let named = match (rule["resourceNames"].as_array(), &asked.name) {
        (None, _) => true,
        (Some(names), _) if names.is_empty() => true,
        (Some(names), Some(name)) => names.iter().any(|one| one == name.as_str()),
        (Some(_), None) => false,
    };
    named && has("apiGroups", asked.resource.group) && has("resources", &resource) && has("verbs", asked.verb)
}
