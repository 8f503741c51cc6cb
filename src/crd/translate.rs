//! One object to one offer (compat 1.19).
//!
//! The path comes first, and everything that follows can only add problems: an offer whose `spec`
//! is nonsense is still an offer that closes `/services/<name>/*`. A declared route table is
//! exhaustive, so a route whose own path cannot be read closes the whole path of the offer.

use super::{ServiceOffer, TranslateOptions, Translated};
use jiff::Timestamp;

/// Translates an object. Never fails; what is wrong is in the offer's and the routes' problems.
#[must_use]
pub fn translate(object: &ServiceOffer, options: &TranslateOptions, now: Timestamp) -> Translated {
    let _ = (object, options, now);
    todo!()
}
