//! What only a real API server shows. The rig itself is proven first ([`rig`]).

mod deletion;
mod informer;
mod ingress;
mod recreate;
mod relist;
mod rig;
mod seller;
mod start;
mod status;
