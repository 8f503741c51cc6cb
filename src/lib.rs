//! The x402 payment gate for Kubernetes ingress.
//!
//! `x402-verifier` stands between an ingress and paid services. The ingress asks it before every
//! request (`/verify`, forwardAuth); a 2xx lets the request through, a 402 carries the price. A
//! payment is verified by a facilitator, claimed in a ledger and settled before the answer.
//!
//! ```text
//! file / kube --Update--> table --Arc<Table>--> gate --Outcome, Permit--> forward_auth --> respond
//!    sources                |                    ^
//!                           +--Report--> admin   +-- ports implemented by facilitator, ledger
//! ```
//!
//! Data flows one way; the imports of every file follow it, and `tests/it/layering.rs` fails on an
//! arrow that `docs/architecture.md` does not allow. The rules that the code cites (R1 to R13, O1
//! to O7, M1 to M14) are listed there in a user's words.

pub mod config;
pub mod crd;
pub mod demo;
pub mod eip712;
pub mod explain;
pub mod facilitator;
pub mod gate;
pub mod ledger;
pub mod lifecycle;
pub mod metrics;
pub mod money;
pub mod offer;
pub mod operate;
pub mod pricing;
pub mod route;
pub mod serve;
pub mod status;
pub mod table;
pub mod x402;

/// What speaks HTTP: the forwardAuth face, the admin port, and the one place that turns an
/// [`gate::Outcome`] into a response.
pub mod http {
    pub mod admin;
    pub mod forward_auth;
    pub mod listener;
    pub mod respond;
}

/// What produces [`table::Update`]s: the pricing file today, the cluster's offers next.
pub mod sources {
    pub mod file;
    pub mod kube;
}
