//! The neutral offer: what every source (the pricing file, later the cluster) produces and the
//! table compiles.
//!
//! It is not a wire format and holds no behaviour. Everything in it was validated by its source;
//! what could not be understood is carried as a [`Problem`], because an offer that cannot be
//! understood closes its paths (R3) instead of vanishing.

use crate::money::{Amount, Asset, Network};
use alloy_primitives::Address;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// One offer: a named set of routes with one owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Who it is; the same object while that stays the same.
    pub identity: Arc<OfferIdentity>,
    /// Kubernetes `metadata.generation`.
    pub generation: Option<i64>,
    /// Routes in declared order.
    pub routes: Vec<Declared>,
    /// Life cycle of the whole offer.
    pub phase: Phase,
    /// Problems that concern the offer as a whole; any of them closes all of its paths (R3).
    pub problems: Vec<Problem>,
}

/// Who an offer is, whose it is, and where it may stand: what an edit of its terms leaves as it is.
/// Sources, tables and reports share one object of it, which at 100,000 offers is worth the while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferIdentity {
    /// Namespace, empty for file routes without `offerNamespace`.
    pub namespace: Arc<str>,
    /// Name, empty for file routes without `offerName`.
    pub name: Arc<str>,
    /// Kubernetes UID; `None` for offers of the file, which are the operator's whatever they are
    /// named (O2).
    pub uid: Option<Arc<str>>,
    /// Creation time; ranks owners by age (O1). `None` (file) is older than everything.
    pub created: Option<Timestamp>,
    /// The subtree this offer lives under (`/services/foo`), when it has one. `free` and `auth`
    /// routes act only below it (O1); its closed entries collapse to it (O5).
    pub base_path: Option<Arc<str>>,
    /// The host this offer is bound to, lower case without port.
    pub hostname: Option<Arc<str>>,
}

/// The owner of a subtree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The operator, by the pricing file; beats every offer (O2).
    Operator,
    /// A namespace (O1).
    Namespace(Arc<str>),
}

/// Life cycle of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Served.
    Live,
    /// No new challenges; a valid payment is served until `until` (then withdrawn).
    Draining {
        /// End of the grace.
        until: Timestamp,
    },
    /// Closed at once, although the offer is there.
    Withdrawn(Withdrawal),
}

/// Why an offer that is there sells nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// Its seller paused it.
    Paused,
    /// Has a `deletionTimestamp` (O3).
    Deleting,
}

/// One route of an offer.
#[derive(Debug, Clone)]
pub struct Route {
    /// Pattern text as configured (`/services/foo/*`).
    pub pattern: Arc<str>,
    /// What guards it.
    pub gate: Gate,
    /// When money moves.
    pub settle: Settle,
    /// Whether a CORS preflight passes without payment (`preflight: pass`).
    pub preflight_pass: bool,
    /// Only signatures that recover to the payer are accepted (M9).
    pub eoa_only: bool,
    /// What may be paid, in order of preference; non-empty for a paid route without problems.
    pub options: Vec<PaymentOption>,
    /// Facilitator base URL without trailing slash; key into `Settings::facilitators`.
    /// [`DOCUMENTS_FACILITATOR`] stands for the one of the pricing document, whatever it is then.
    pub facilitator: Arc<str>,
    /// Full `Authorization` value for the upstream (M11).
    pub upstream_auth: Option<SecretString>,
    /// Description for the challenge, at most 500 characters (hosted facilitators refuse more).
    pub description: Option<Arc<str>>,
    /// Problems of this route; any of them closes its own path and no other (R3).
    pub problems: Box<[Problem]>,
}

/// A route and where it was declared.
///
/// A source hands out the same `Arc` for a route that did not change, also when it moved to another
/// line, so that the table can keep what it has made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The route.
    pub route: Arc<Route>,
    /// Where it was written, for reports.
    pub at: Option<Location>,
}

/// A place in a file of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name of the file.
    pub file: Arc<str>,
    /// 1-based line.
    pub line: usize,
    /// 1-based column.
    pub column: usize,
}

/// What guards a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// A payment.
    Paid,
    /// Nothing.
    Free,
    /// A wallet sign-in; answered 401 until sign-in exists.
    Auth,
}

/// When a payment is settled (design section 5, money rules).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settle {
    /// Before the upstream is called; the only sound order behind forwardAuth.
    Before,
    /// After the upstream succeeded (gateway); acts as `Before` on `/verify`.
    After,
    /// Never (`verifyOnly`, M10).
    Never,
}

/// One way to pay a route.
#[derive(Debug, Clone, PartialEq)]
pub struct PaymentOption {
    /// Chain.
    pub network: Network,
    /// Token.
    pub asset: Arc<Asset>,
    /// Exact price in atomic units, never zero.
    pub amount: Amount,
    /// Recipient; neither zero nor the asset itself (O7).
    pub pay_to: Address,
    /// Advertised validity in seconds, 1 to 86400.
    pub max_timeout_seconds: u32,
    /// Price for people (`0.001`), in tokens.
    pub price: Arc<str>,
}

/// Something wrong with an offer or route, in words its owner can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable code (`invalid_price`, `unknown_chain`, ...).
    pub code: &'static str,
    /// What is wrong and what would do. Never names another tenant (O7).
    pub message: String,
}

/// [`Route::facilitator`] of offers that name none and come from a source that does not know the
/// pricing document: the table puts in the document's when both meet (R5).
pub const DOCUMENTS_FACILITATOR: &str = "";
/// Default validity advertised when a route does not say (compat 1.6).
pub const DEFAULT_MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Largest validity that is advertised (compat 1.6).
pub const MAX_MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

impl Deref for Offer {
    type Target = OfferIdentity;

    fn deref(&self) -> &OfferIdentity {
        &self.identity
    }
}

impl OfferIdentity {
    /// Of an offer of the operator's file, anywhere; both names may be empty.
    #[must_use]
    pub const fn of_operator(namespace: Arc<str>, name: Arc<str>) -> Self {
        Self {
            namespace,
            name,
            uid: None,
            created: None,
            base_path: None,
            hostname: None,
        }
    }

    /// Of an offer of a namespace, without an age and a path.
    #[must_use]
    pub fn of_namespace(namespace: Arc<str>, name: Arc<str>, uid: Arc<str>) -> Self {
        Self {
            uid: Some(uid),
            ..Self::of_operator(namespace, name)
        }
    }

    /// The namespace that owns the paths of this offer (O1); `None` where the operator does (O2).
    #[must_use]
    pub const fn tenant(&self) -> Option<&Arc<str>> {
        match self.uid {
            Some(_) => Some(&self.namespace),
            None => None,
        }
    }

    /// Who owns the paths of this offer.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match self.tenant() {
            Some(namespace) => Owner::Namespace(namespace.clone()),
            None => Owner::Operator,
        }
    }
}

impl PartialEq for Route {
    /// By value, credential included.
    fn eq(&self, other: &Self) -> bool {
        // Named one by one, so that a new field that nobody compares does not compile.
        let Self {
            pattern,
            gate,
            settle,
            preflight_pass,
            eoa_only,
            options,
            facilitator,
            upstream_auth,
            description,
            problems,
        } = self;
        let same_auth = match (upstream_auth, &other.upstream_auth) {
            (Some(left), Some(right)) => left.expose_secret() == right.expose_secret(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_auth
            && *pattern == other.pattern
            && *gate == other.gate
            && *settle == other.settle
            && *preflight_pass == other.preflight_pass
            && *eoa_only == other.eoa_only
            && *options == other.options
            && *facilitator == other.facilitator
            && *description == other.description
            && *problems == other.problems
    }
}

impl Deref for Declared {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.route
    }
}

impl From<Route> for Declared {
    /// A route of which nobody knows where it was written.
    fn from(route: Route) -> Self {
        Self {
            route: Arc::new(route),
            at: None,
        }
    }
}

/// `pricing.yaml:12:5`.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What somebody wrote, as it may be repeated in the message of a [`Problem`]: quoted, escaped, cut.
#[must_use]
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{head:?}...")
}

impl Owner {
    /// The namespace, `None` for the operator.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Operator => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }
}

impl Gate {
    /// The word for it in configuration and `/routes`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Free => "free",
            Self::Auth => "auth",
        }
    }
}

impl Settle {
    /// The word for it in configuration and `/routes`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Never => "never",
        }
    }
}
