//! Credentials as the predecessor found them: two Secrets of fixed names, in the namespace of the
//! upstream or of the agent (compat 1.19).
//!
//! Whoever may name such an upstream learns its credential, so nothing is read unless the operator
//! lists the Secret, and no offer of another namespace uses it unless its namespace may have
//! upstreams there (O6). An offer that names a Secret of its own takes that.

use super::credentials::SecretKey;
use crate::crd::{ForeignUpstream, ServiceOffer};
use std::str::FromStr;

/// A Secret that the operator lists: `NAMESPACE/litellm-secrets` or `NAMESPACE/hermes-api-server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredecessorSecret {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name, one of two.
    pub name: &'static str,
}

/// Of upstreams named `litellm`.
pub(super) const LITELLM: &str = "litellm-secrets";
/// Of agents.
pub(super) const HERMES: &str = "hermes-api-server";

impl FromStr for PredecessorSecret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = format!("write NAMESPACE/{LITELLM} or NAMESPACE/{HERMES}");
        let (namespace, name) = text.trim().split_once('/').ok_or_else(|| wanted.clone())?;
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let name = [LITELLM, HERMES].into_iter().find(|known| *known == name);
        match name {
            Some(name) if !namespace.is_empty() && namespace.chars().all(known) => Ok(Self {
                namespace: namespace.to_owned(),
                name,
            }),
            Some(_) | None => Err(wanted),
        }
    }
}

/// The Secret by which an offer's upstream is reached, if the operator lets this offer use it.
pub(super) fn secret_of(
    object: &ServiceOffer,
    listed: &[PredecessorSecret],
    foreign: &[ForeignUpstream],
) -> Option<SecretKey> {
    let own = object.metadata.namespace.as_deref()?;
    let text = |pointer: &str| {
        let text = object.spec.pointer(pointer)?.as_str()?.trim();
        Some(text).filter(|text| !text.is_empty())
    };
    let (namespace, name) = if let Some(namespace) = text("/agent/ref/namespace") {
        (namespace, HERMES)
    } else if text("/upstream/service")?.eq_ignore_ascii_case("litellm") {
        (text("/upstream/namespace").unwrap_or(own), LITELLM)
    } else {
        return None;
    };
    let may = namespace == own
        || foreign.iter().any(|allowed| {
            allowed.offer_namespace == own && allowed.upstream_namespace == namespace
        });
    let is_listed = listed
        .iter()
        .any(|secret| secret.namespace == namespace && secret.name == name);
    (may && is_listed).then(|| (namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn offer(spec: &Value) -> ServiceOffer {
        ServiceOffer::from_json(json!({"metadata": {"namespace": "a", "name": "x"}, "spec": spec}))
    }

    fn listed(text: &str) -> Vec<PredecessorSecret> {
        vec![text.parse().unwrap()]
    }

    /// O6: a tenant who names the upstream of another learns nothing.
    #[test]
    fn o6_only_what_the_operator_lists_and_allows_is_used() {
        let litellm = offer(&json!({"upstream": {"service": "LiteLLM", "namespace": "llm"}}));
        let allowed = [ForeignUpstream {
            offer_namespace: "a".to_owned(),
            upstream_namespace: "llm".to_owned(),
        }];
        let key = Some(("llm".to_owned(), LITELLM.to_owned()));
        let list = listed("llm/litellm-secrets");
        assert_eq!(secret_of(&litellm, &list, &allowed), key);
        assert_eq!(secret_of(&litellm, &list, &[]), None);
        assert_eq!(secret_of(&litellm, &[], &allowed), None);
        assert_eq!(
            secret_of(&litellm, &listed("other/litellm-secrets"), &allowed),
            None
        );
        let agent = offer(&json!({"agent": {"ref": {"name": "z", "namespace": "llm"}}}));
        assert_eq!(secret_of(&agent, &list, &allowed), None);
        let hermes = listed("llm/hermes-api-server");
        assert!(secret_of(&agent, &hermes, &allowed).is_some());
        assert_eq!(secret_of(&agent, &hermes, &[]), None);
    }

    #[test]
    fn an_upstream_of_the_own_namespace_needs_the_list_alone() {
        let own = offer(&json!({"upstream": {"service": "litellm"}}));
        assert!(secret_of(&own, &listed("a/litellm-secrets"), &[]).is_some());
        let other = offer(&json!({"upstream": {"service": "web"}}));
        assert_eq!(secret_of(&other, &listed("a/litellm-secrets"), &[]), None);
    }

    #[test]
    fn no_other_secret_can_be_listed() {
        for bad in [
            "litellm-secrets",
            "a/other",
            "/litellm-secrets",
            "A/litellm-secrets",
        ] {
            assert!(bad.parse::<PredecessorSecret>().is_err(), "{bad}");
        }
    }
}
