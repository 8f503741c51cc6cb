//! What only a real API server shows. The rig itself is proven first ([`rig`]).

mod informer;
mod rig;
mod start;
mod status;
