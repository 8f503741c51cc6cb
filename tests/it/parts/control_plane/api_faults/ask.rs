//! What a request to an API server asks for, read from its method, path and query.

use http::{Method, Uri};

/// What a request does, as RBAC and the audit log call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

/// Which requests a rule is about. Made by [`Ask::all`] or [`Ask::of`], narrowed by the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    verb: Option<Verb>,
    resource: Option<String>,
    within: Option<String>,
    further_pages: Option<bool>,
}

impl Ask {
    /// Every request.
    pub(crate) fn all() -> Self {
        Self::default()
    }

    /// A verb on a resource, `serviceoffers` or `serviceoffers/status`.
    pub(crate) fn of(verb: Verb, resource: &str) -> Self {
        Self::on(resource).verb(verb)
    }

    /// Every verb on a resource.
    pub(crate) fn on(resource: &str) -> Self {
        Self {
            resource: Some(resource.to_owned()),
            ..Self::default()
        }
    }

    /// This verb only.
    pub(crate) fn verb(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only where path and query contain this, as `/namespaces/a/` or `resourceVersion=0`.
    pub(crate) fn containing(mut self, text: &str) -> Self {
        self.within = Some(text.to_owned());
        self
    }

    /// Of a list's pages those after the first: those with a `continue` token.
    pub(crate) fn further_pages(mut self) -> Self {
        self.further_pages = Some(true);
        self
    }

    /// Of a list's pages the first.
    pub(crate) fn first_page(mut self) -> Self {
        self.further_pages = Some(false);
        self
    }

    /// Whether it is about this request.
    pub(super) fn fits(&self, seen: &Seen) -> bool {
        self.verb.is_none_or(|verb| Some(verb) == seen.verb)
            && self
                .resource
                .as_ref()
                .is_none_or(|resource| *resource == seen.resource)
            && self
                .within
                .as_ref()
                .is_none_or(|text| seen.uri.contains(text.as_str()))
            && self
                .further_pages
                .is_none_or(|further| further == seen.continues)
    }
}

/// One request that came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// None for what is no verb on a resource (`/readyz`, discovery).
    pub(crate) verb: Option<Verb>,
    /// `serviceoffers` or `serviceoffers/status`; empty for what is no resource.
    pub(crate) resource: String,
    /// Path and query.
    pub(crate) uri: String,
    /// Whether it is a list's page after the first.
    pub(crate) continues: bool,
}

impl Seen {
    /// Reads a request's line.
    pub(super) fn of(method: &Method, uri: &Uri) -> Self {
        let segments: Vec<&str> = uri
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let rest = match segments.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => &[],
        };
        // `namespaces/NS/RESOURCE...` is within one; `namespaces/NS` and its subresources are the namespace.
        let rest = match rest {
            ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", _, within @ ..] if !within.is_empty() => within,
            _ => rest,
        };
        let (resource, named) = match rest {
            [] => (String::new(), false),
            [resource] => ((*resource).to_owned(), false),
            [resource, _name] => ((*resource).to_owned(), true),
            [resource, _name, sub @ ..] => (format!("{resource}/{}", sub.join("/")), true),
        };
        let parameter = |name: &str| {
            let mut pairs = uri.query().unwrap_or_default().split('&');
            pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let verb = match *method {
            _ if resource.is_empty() => None,
            Method::GET if named => Some(Verb::Get),
            Method::GET if matches!(parameter("watch"), Some("true" | "1")) => Some(Verb::Watch),
            Method::GET => Some(Verb::List),
            Method::POST => Some(Verb::Create),
            Method::PUT => Some(Verb::Update),
            Method::PATCH => Some(Verb::Patch),
            Method::DELETE => Some(Verb::Delete),
            _ => None,
        };
        Self {
            verb,
            resource,
            uri: uri.to_string(),
            continues: parameter("continue").is_some_and(|token| !token.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_called_what_rbac_calls_it() {
        for (method, uri, verb, resource) in [
            (
                Method::GET,
                "/apis/obol.org/v1alpha1/serviceoffers?limit=500",
                Verb::List,
                "serviceoffers",
            ),
            (
                Method::GET,
                "/apis/obol.org/v1alpha1/serviceoffers?&watch=true",
                Verb::Watch,
                "serviceoffers",
            ),
            (
                Method::PATCH,
                "/apis/obol.org/v1alpha1/namespaces/a/serviceoffers/b/status",
                Verb::Patch,
                "serviceoffers/status",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/secrets/b",
                Verb::Get,
                "secrets",
            ),
            (Method::GET, "/api/v1/namespaces/a", Verb::Get, "namespaces"),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                Verb::Update,
                "namespaces/finalize",
            ),
            (
                Method::POST,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases",
                Verb::Create,
                "leases",
            ),
        ] {
            let seen = Seen::of(&method, &uri.parse().unwrap());
            assert_eq!(
                (seen.verb, seen.resource.as_str()),
                (Some(verb), resource),
                "{method} {uri}"
            );
        }
        assert_eq!(
            Seen::of(&Method::GET, &"/readyz".parse().unwrap()).verb,
            None
        );
        assert!(
            Seen::of(
                &Method::GET,
                &"/api/v1/secrets?limit=1&continue=x".parse().unwrap()
            )
            .continues
        );
    }
}
