//! What every backend's rows have in common: how a state is written, and how time changes the way
//! it reads.

use crate::gate::ClaimState;
use jiff::Timestamp;
use std::time::Duration;

/// The name of a state, as stored and as operators see it.
pub(super) const fn name(state: ClaimState) -> &'static str {
    match state {
        ClaimState::Claimed => "claimed",
        ClaimState::Settling => "settling",
        ClaimState::Owed => "owed",
        ClaimState::Answered => "answered",
        ClaimState::Released => "released",
        ClaimState::CreditSpent => "credit_spent",
        ClaimState::Unknown => "unknown",
        ClaimState::SpentElsewhere => "spent_elsewhere",
    }
}

/// The state of that name.
pub(super) fn state(name: &str) -> Option<ClaimState> {
    Some(match name {
        "claimed" => ClaimState::Claimed,
        "settling" => ClaimState::Settling,
        "owed" => ClaimState::Owed,
        "answered" => ClaimState::Answered,
        "released" => ClaimState::Released,
        "credit_spent" => ClaimState::CreditSpent,
        "unknown" => ClaimState::Unknown,
        "spent_elsewhere" => ClaimState::SpentElsewhere,
        _ => return None,
    })
}

/// How a stored state reads at `now`: the lease of a claim or of a settlement may be over (M3).
pub(super) const fn as_read(stored: ClaimState, lease_until: i64, now: i64) -> ClaimState {
    match stored {
        ClaimState::Claimed if lease_until <= now => ClaimState::Released,
        ClaimState::Settling if lease_until <= now => ClaimState::Unknown,
        ClaimState::Claimed
        | ClaimState::Settling
        | ClaimState::Owed
        | ClaimState::Answered
        | ClaimState::Released
        | ClaimState::CreditSpent
        | ClaimState::Unknown
        | ClaimState::SpentElsewhere => stored,
    }
}

/// Milliseconds since the epoch: the unit of leases.
pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// The end of a lease that begins `now`, in milliseconds.
pub(super) fn until(now: i64, lease: Duration) -> i64 {
    now.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
}

/// `time` minus `margin`, in seconds: what `validBefore` is compared with.
pub(super) fn seconds_before(now_millis: i64, margin: Duration) -> i64 {
    let margin = i64::try_from(margin.as_secs()).unwrap_or(i64::MAX);
    (now_millis / 1000).saturating_sub(margin)
}

/// A transaction hash in the one spelling that is compared and stored.
pub(super) fn transaction_key(transaction: &str) -> String {
    transaction.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back_by_its_name() {
        for original in [
            ClaimState::Claimed,
            ClaimState::Settling,
            ClaimState::Owed,
            ClaimState::Answered,
            ClaimState::Released,
            ClaimState::CreditSpent,
            ClaimState::Unknown,
            ClaimState::SpentElsewhere,
        ] {
            assert_eq!(state(name(original)), Some(original));
        }
        assert_eq!(state("free"), None);
    }

    #[test]
    fn an_expired_claim_reads_released_and_an_expired_settlement_unknown_m3() {
        assert_eq!(as_read(ClaimState::Claimed, 10, 9), ClaimState::Claimed);
        assert_eq!(as_read(ClaimState::Claimed, 10, 10), ClaimState::Released);
        assert_eq!(as_read(ClaimState::Settling, 10, 9), ClaimState::Settling);
        assert_eq!(as_read(ClaimState::Settling, 10, 10), ClaimState::Unknown);
        assert_eq!(as_read(ClaimState::Owed, 10, 11), ClaimState::Owed);
    }
}
