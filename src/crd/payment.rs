//! What may be paid.
