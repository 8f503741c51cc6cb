//! What only a real API server shows. The rig itself is proven first ([`rig`]).

mod informer;
mod model;
mod rig;
mod status;
