//! The gate. (Contract stub.)

mod ports;

pub use ports::{
    Booked, ClaimKey, ClaimOutcome, ClaimOwner, ClaimRow, ClaimState, CreditScope, Facilitator, Fault,
    FaultKind, Ledger, LedgerError, NewClaim, PathRecord, SettleReply, Step, Total, Upkeep,
    VerifyReply,
};
