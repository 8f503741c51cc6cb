//! The API server's audit log: who asked for what.
//!
//! The log has two or three lines for a request, one a stage; here they are one [`AuditEntry`], at the place of the
//! first. The first is written before the request is served, so a request whose effect was seen is never missing.

use std::{collections::HashMap, path::Path};

use serde_json::{Value, json};

use super::Audit;

/// One request, as far as it went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AuditEntry {
    /// `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: String,
    pub(crate) group: String,
    /// Plural; empty for what is no resource (`/readyz`, discovery).
    pub(crate) resource: String,
    /// `status`, `token`; else empty.
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Path and query as they were asked for.
    pub(crate) uri: String,
    pub(crate) user: String,
    pub(crate) agent: String,
    /// The answer's; none until it began.
    pub(crate) code: Option<u16>,
    /// Whether the answer is complete: a watch that runs is not.
    pub(crate) ended: bool,
    /// The body that was sent, when the log keeps bodies ([`Audit::RequestResponse`]).
    pub(crate) request: Option<Value>,
    /// The body of the answer, likewise; never of a watch.
    pub(crate) response: Option<Value>,
}

impl AuditEntry {
    /// `resource` or `resource/subresource`, as rules of RBAC name it.
    pub(crate) fn target(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Whether it asked to change something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(
            self.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        )
    }
}

/// The policy for a level. The administrator is the test, and `system:apiserver` asks itself: neither is recorded.
pub(super) fn policy(level: Audit) -> Value {
    let level = match level {
        Audit::Off => "None",
        Audit::Metadata => "Metadata",
        Audit::RequestResponse => "RequestResponse",
    };
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [
            {"level": "None", "users": ["admin", "system:apiserver"]},
            {"level": level},
        ],
    })
}

/// Reads a log; a last line that is still being written is left out.
pub(super) fn read(path: &Path) -> Vec<AuditEntry> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("the audit log has a line that is not JSON ({error}): {line}")
        });
        let place = *places
            .entry(text_of(&event, "/auditID"))
            .or_insert_with(|| {
                entries.push(first(&event));
                entries.len() - 1
            });
        extend(&mut entries[place], &event);
    }
    entries
}

fn first(event: &Value) -> AuditEntry {
    AuditEntry {
        verb: text_of(event, "/verb"),
        group: text_of(event, "/objectRef/apiGroup"),
        resource: text_of(event, "/objectRef/resource"),
        subresource: text_of(event, "/objectRef/subresource"),
        namespace: text_of(event, "/objectRef/namespace"),
        name: text_of(event, "/objectRef/name"),
        uri: text_of(event, "/requestURI"),
        user: text_of(event, "/user/username"),
        agent: text_of(event, "/userAgent"),
        code: None,
        ended: false,
        request: None,
        response: None,
    }
}

/// Adds what a later stage knows.
fn extend(entry: &mut AuditEntry, event: &Value) {
    let code = event
        .pointer("/responseStatus/code")
        .and_then(Value::as_u64);
    entry.code = code
        .and_then(|code| u16::try_from(code).ok())
        .or(entry.code);
    entry.ended |= matches!(
        text_of(event, "/stage").as_str(),
        "ResponseComplete" | "Panic"
    );
    for (kept, name) in [
        (&mut entry.request, "requestObject"),
        (&mut entry.response, "responseObject"),
    ] {
        if let Some(body) = event.get(name) {
            *kept = Some(body.clone());
        }
    }
}

fn text_of(event: &Value, pointer: &str) -> String {
    let text = event.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}
