//! The one integration binary: the verifier from outside, in process parts and real ones.
//!
//! Modules named `real` need what `make tools` installs; the others need nothing but this binary.

#![expect(
    clippy::disallowed_methods,
    clippy::string_slice,
    reason = "a test may spawn its own clients and cut its own strings"
)]

#[cfg(test)]
mod bypass;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod dice;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod facilitator;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod money;
#[cfg(test)]
mod observed;
#[cfg(test)]
mod offers;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod real;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod soak;
