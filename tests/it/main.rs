//! The one integration binary: the verifier from outside, in process parts and real ones.
//!
//! Modules named `real` need what `make tools` installs; the others need nothing but this binary.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod parts;
