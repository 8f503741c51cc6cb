//! The one integration binary (provisional: the harness alone, until the verifier's own tests join).

#[cfg(test)]
mod parts;
