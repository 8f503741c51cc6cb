//! What only a real API server shows. The rig itself is proven first ([`rig`]).

mod deletion;
mod idle;
mod informer;
mod ingress;
mod model;
mod oldest;
mod order;
mod pod;
mod policy;
mod rbac;
mod recreate;
mod relist;
mod rig;
mod schema;
mod seller;
mod start;
mod status;
