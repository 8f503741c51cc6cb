//! The proof with real parts: official buyers pay through a real Traefik, and nobody else gets through.
//!
//! Traefik runs the documented configuration: `examples/traefik-dynamic.yml` and the entry point of
//! `examples/traefik-static.yml`, with nothing but addresses replaced; the verifier runs
//! `examples/pricing.yaml` with payee and facilitator replaced. Money is tokens on a chain of our own,
//! so what a test calls paid is a balance that moved.

mod buyers;
mod bypass;
mod dialect;
mod headers;
mod kube;
mod money;
mod shop;
mod trouble;
mod upstream;
