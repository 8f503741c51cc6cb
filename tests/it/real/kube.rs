//! What only a real API server shows. The rig itself is proven first ([`rig`]).

mod idle;
mod informer;
mod oldest;
mod order;
mod pod;
mod policy;
mod rbac;
mod rig;
mod schema;
mod status;
