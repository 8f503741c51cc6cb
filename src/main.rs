//! The command line of x402-verifier.

fn main() {}
