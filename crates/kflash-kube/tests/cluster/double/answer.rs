//! Failures, as `Status` objects.

use serde_json::{Value, json};

use super::request::{Asked, Resource};

/// A request that fails.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: u16,
    reason: &'static str,
    message: String,
    details: Value,
    /// Seconds, for the header.
    pub retry_after: Option<u32>,
    /// A body that is no `Status`.
    pub text: Option<&'static str>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: String, details: Value) -> Self {
        Self { code, reason, message, details, retry_after: None, text: None }
    }

    fn about(resource: Resource, name: &str) -> Value {
        json!({"name": name, "group": resource.group, "kind": resource.plural})
    }

    pub fn page_not_found() -> Self {
        Self { text: Some("404 page not found\n"), ..Self::new(404, "", String::new(), Value::Null) }
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self::new(405, "MethodNotAllowed", message, json!({}))
    }

    pub fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message, Self::about(resource, name))
    }

    pub fn conflict(resource: Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to \
             the latest version and try again",
            resource.qualified()
        );
        Self::new(409, "Conflict", message, Self::about(resource, name))
    }

    pub fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message, Self::about(resource, name))
    }

    pub fn invalid(resource: Resource, name: &str, problem: &str) -> Self {
        let message = format!("{}.{} \"{name}\" is invalid: {problem}", resource.kind, resource.group);
        Self::new(422, "Invalid", message, Self::about(resource, name))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into(), json!({}))
    }

    pub fn unsupported_media_type() -> Self {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/json-patch+json, application/merge-patch+json, \
                       application/strategic-merge-patch+json"
            .to_owned();
        Self::new(415, "UnsupportedMediaType", message, json!({}))
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned(), json!({}))
    }

    pub fn forbidden(user: &str, asked: &Asked) -> Self {
        let resource = asked.resource;
        let name = asked.name.as_deref().unwrap_or_default();
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let sub = asked.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
        let message = format!(
            "{}{quoted} is forbidden: User \"{user}\" cannot {} resource \"{}{sub}\" in API group \"{}\" in the \
             namespace \"{}\"",
            resource.qualified(),
            asked.verb,
            resource.plural,
            resource.group,
            asked.namespace,
        );
        Self::new(403, "Forbidden", message, Self::about(resource, name))
    }

    pub fn expired(asked: i64, oldest: i64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message, Value::Null)
    }

    /// Priority and fairness at work: no `Status` but plain text, and when to come back.
    pub fn too_many_requests() -> Self {
        Self {
            retry_after: Some(1),
            text: Some("Too many requests, please try again later.\n"),
            ..Self::new(429, "TooManyRequests", String::new(), Value::Null)
        }
    }

    /// An apiserver without its etcd.
    pub fn internal() -> Self {
        let message = "Internal error occurred: etcdserver: request timed out".to_owned();
        Self::new(500, "InternalError", message, json!({"causes": [{"message": "etcdserver: request timed out"}]}))
    }

    pub fn unavailable() -> Self {
        let message = "the server is currently unable to handle the request".to_owned();
        Self::new(503, "ServiceUnavailable", message, json!({}))
    }

    /// The body.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
