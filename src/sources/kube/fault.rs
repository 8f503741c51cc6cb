//! What can go wrong between us and the API server, and the sentence that tells it.
//!
//! The sentence goes to `/readyz`, `/routes` and the log, and it is what an operator acts on: it
//! names what RBAC lacks, or what to install. It stays the same while the cause does, so a cause is
//! logged once. Texts of others come cut and printable.

use super::target::{Resource, Target, Verb};
use crate::crd;
use http::StatusCode;
use std::error::Error;
use std::time::Duration;

/// Longest text of others in a sentence.
const LONGEST: usize = 240;

/// Why a request had no answer that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// There is no way to the API server: no kubeconfig, no `ServiceAccount`.
    #[error("there are no usable credentials for the API server ({0})")]
    NoAccess(String),
    /// Connection refused, reset, a certificate that is not trusted.
    #[error("the API server cannot be reached ({0})")]
    Unreachable(String),
    /// Nothing within the deadline.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// An answer that is no success.
    #[error("the API server answered {code} ({message})")]
    Refused {
        /// HTTP status, or the code of the `Status` inside a watch.
        code: u16,
        /// What it said.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The version that we go on from is not kept any more: everything has to be listed again.
    #[error("the API server does not keep the changes since the last list (410)")]
    Expired,
    /// A success that cannot be read.
    #[error("the API server's answer cannot be read ({0})")]
    Unusable(String),
    /// A page beyond what we are ready to hold.
    #[error("a page of the list is too large")]
    TooLarge,
    /// A watch ended in the middle.
    #[error("the connection to the API server broke ({0})")]
    Broken(String),
}

impl Fault {
    /// A transport error; what its causes say is the part that helps.
    pub(super) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(printable(&deepest(error)))
    }

    /// An answer that is no success, with the text of its `Status`.
    pub(super) fn refused(code: u16, message: &str, retry_after: Option<Duration>) -> Self {
        // A version from the future (a restored etcd, a cache that lags) is no base either.
        let from_the_future = code == StatusCode::GATEWAY_TIMEOUT.as_u16()
            && message.contains("Too large resource version");
        if code == StatusCode::GONE.as_u16() || from_the_future {
            return Self::Expired;
        }
        Self::Refused {
            code,
            message: printable(message),
            retry_after,
        }
    }

    /// Whether other credentials, or another address, might help.
    pub(super) fn wants_new_access(&self) -> bool {
        match self {
            Self::NoAccess(_) | Self::Unreachable(_) | Self::Silent(_) => true,
            Self::Refused { code, .. } => *code == StatusCode::UNAUTHORIZED.as_u16(),
            Self::Expired | Self::Unusable(_) | Self::TooLarge | Self::Broken(_) => false,
        }
    }

    /// When the API server wants to be asked again.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NoAccess(_)
            | Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Expired
            | Self::Unusable(_)
            | Self::TooLarge
            | Self::Broken(_) => None,
        }
    }

    /// What happened and what to do, for people.
    pub(super) fn sentence(&self, verb: Verb, target: &Target) -> String {
        let code = match self {
            Self::Refused { code, .. } => StatusCode::from_u16(*code).unwrap_or_default(),
            Self::NoAccess(_) => {
                return format!(
                    "{self}: run in a pod with a ServiceAccount, or name a file with --kubeconfig"
                );
            }
            Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Expired
            | Self::Unusable(_)
            | Self::TooLarge
            | Self::Broken(_) => StatusCode::default(),
        };
        match (code, &target.resource) {
            (StatusCode::UNAUTHORIZED, _) => {
                "not authenticated: the API server does not accept our credentials (401): check \
                 the ServiceAccount's token, or the kubeconfig"
                    .to_owned()
            }
            (StatusCode::FORBIDDEN, _) => format!(
                "not authorised: RBAC does not allow us to {verb} {target} (403): grant it with \
                 the ClusterRole or Roles of docs/operating.md"
            ),
            (StatusCode::NOT_FOUND, Resource::Offers { .. }) => format!(
                "the CRD {}.{} is missing or does not serve {} (404): install it with \
                 `x402-verifier crd | kubectl apply -f -`",
                crd::PLURAL,
                crd::GROUP,
                crd::VERSION
            ),
            (_, _) => format!("{self}: trying to {verb} {target}"),
        }
    }
}

/// The last two causes: hyper and its connectors wrap what the system said in words of their own.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts.dedup();
    let skipped = texts.len().saturating_sub(2);
    texts.split_off(skipped).join(": ")
}

/// A text of others in one line, without control characters, cut.
pub(super) fn printable(text: &str) -> String {
    let line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if text.trim().chars().nth(LONGEST).is_some() {
        return format!("{line}...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(namespace: Option<&str>) -> Target {
        Target {
            resource: Resource::Offers { selector: None },
            namespace: namespace.map(str::to_owned),
        }
    }

    /// R2: the causes are told apart.
    #[test]
    fn a_refusal_names_what_is_missing_and_what_to_do() {
        let forbidden = Fault::refused(403, "User cannot", None);
        let text = forbidden.sentence(Verb::Watch, &offers(Some("demo")));
        assert!(
            text.contains("watch serviceoffers.obol.org in namespace demo"),
            "{text}"
        );
        let missing = Fault::refused(404, "404 page not found", None);
        let text = missing.sentence(Verb::List, &offers(None));
        assert!(
            text.contains("CRD serviceoffers.obol.org is missing"),
            "{text}"
        );
        assert!(
            text.contains("x402-verifier crd | kubectl apply -f -"),
            "{text}"
        );
        let text = Fault::refused(401, "Unauthorized", None).sentence(Verb::List, &offers(None));
        assert!(text.contains("401"), "{text}");
    }

    #[test]
    fn only_a_version_that_is_gone_or_unknown_leads_to_a_new_list() {
        assert_eq!(Fault::refused(410, "too old", None), Fault::Expired);
        let future = "Too large resource version: 9, current: 3";
        assert_eq!(Fault::refused(504, future, None), Fault::Expired);
        assert_ne!(Fault::refused(504, "timeout", None), Fault::Expired);
        assert_ne!(Fault::refused(404, "not found", None), Fault::Expired);
    }

    #[test]
    fn texts_of_others_are_cut_and_printable() {
        let text = printable(&format!("a\nb\x1b{}", "c".repeat(900)));
        assert!(text.starts_with("a b c"), "{text}");
        assert_eq!(text.chars().count(), LONGEST + 3);
    }
}
