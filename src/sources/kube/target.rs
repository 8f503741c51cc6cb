//! What is read from the API server: which objects, where, and the two requests that read them.

use super::fault::Fault;
use crate::crd;
use http::Request;
use kube::api::{ListParams, WatchParams};
use std::fmt;

/// Objects of a page.
pub(super) const PAGE_SIZE: u32 = 500;
/// After this many seconds the API server ends a watch; it is resumed where it ended. A watch that
/// is still silent later is dead, so this bounds how long a hung API server goes unnoticed.
pub(super) const WATCH_SECONDS: u32 = 50;

/// One list that is kept up to date.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What.
    pub(super) resource: Resource,
    /// Where; `None` is every namespace.
    pub(super) namespace: Option<String>,
}

/// Kinds of objects that are read.
#[derive(Debug, Clone)]
pub(super) enum Resource {
    /// `ServiceOffer`s, all or those with certain labels.
    Offers {
        /// Label selector.
        selector: Option<String>,
    },
    /// Secrets of one name, so that RBAC can grant it by `resourceNames`.
    Secret {
        /// `metadata.name`.
        name: String,
    },
}

/// What RBAC has to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// A page of a list.
    List,
    /// A watch.
    Watch,
}

impl Target {
    /// A page of the list, read consistently: without a `resourceVersion` the API server answers
    /// with what etcd holds, not with what a cache held once.
    pub(super) fn page(&self, limit: u32, token: Option<&str>) -> Result<Request<Vec<u8>>, Fault> {
        let params = ListParams {
            label_selector: self.labels(),
            field_selector: self.fields(),
            limit: Some(limit),
            continue_token: token.map(str::to_owned),
            ..ListParams::default()
        };
        kube::core::Request::new(self.path())
            .list(&params)
            .map_err(|error| Fault::Unusable(error.to_string()))
    }

    /// Every change after a version.
    pub(super) fn changes(&self, resource_version: &str) -> Result<Request<Vec<u8>>, Fault> {
        let params = WatchParams {
            label_selector: self.labels(),
            field_selector: self.fields(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        kube::core::Request::new(self.path())
            .watch(&params, resource_version)
            .map_err(|error| Fault::Unusable(error.to_string()))
    }

    fn path(&self) -> String {
        let (root, plural) = match self.resource {
            Resource::Offers { .. } => (
                format!("/apis/{}/{}", crd::GROUP, crd::VERSION),
                crd::PLURAL,
            ),
            Resource::Secret { .. } => ("/api/v1".to_owned(), "secrets"),
        };
        match &self.namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        }
    }

    fn labels(&self) -> Option<String> {
        match &self.resource {
            Resource::Offers { selector } => selector.clone(),
            Resource::Secret { .. } => None,
        }
    }

    fn fields(&self) -> Option<String> {
        match &self.resource {
            Resource::Offers { .. } => None,
            Resource::Secret { name } => Some(format!("metadata.name={name}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Offers { .. } => write!(f, "{}.{}", crd::PLURAL, crd::GROUP)?,
            Resource::Secret { name } => write!(f, "secrets named {name:?}")?,
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => f.write_str(" in every namespace"),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Watch => "watch",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(namespace: Option<&str>) -> Target {
        Target {
            resource: Resource::Offers {
                selector: Some("canary=true".to_owned()),
            },
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn a_page_is_a_consistent_read_of_what_was_asked_for() {
        let request = offers(None).page(500, Some("next")).unwrap();
        let uri = request.uri().to_string();
        assert!(
            uri.starts_with("/apis/obol.org/v1alpha1/serviceoffers?"),
            "{uri}"
        );
        for part in ["limit=500", "continue=next", "labelSelector=canary%3Dtrue"] {
            assert!(uri.contains(part), "{part}: {uri}");
        }
        assert!(!uri.contains("resourceVersion"), "{uri}");
    }

    #[test]
    fn a_watch_ends_by_itself_and_goes_on_where_it_was() {
        let uri = offers(Some("demo"))
            .changes("17")
            .unwrap()
            .uri()
            .to_string();
        assert!(
            uri.starts_with("/apis/obol.org/v1alpha1/namespaces/demo/serviceoffers?"),
            "{uri}"
        );
        for part in [
            "watch=true",
            "resourceVersion=17",
            "timeoutSeconds=50",
            "allowWatchBookmarks=true",
        ] {
            assert!(uri.contains(part), "{part}: {uri}");
        }
    }

    /// RBAC by `resourceNames` works for exactly this selector.
    #[test]
    fn a_secret_is_asked_for_by_its_name() {
        let target = Target {
            resource: Resource::Secret {
                name: "x402-upstream".to_owned(),
            },
            namespace: None,
        };
        let uri = target.page(1, None).unwrap().uri().to_string();
        assert!(uri.starts_with("/api/v1/secrets?"), "{uri}");
        assert!(
            uri.contains("fieldSelector=metadata.name%3Dx402-upstream"),
            "{uri}"
        );
    }
}
