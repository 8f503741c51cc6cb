//! Typed-data hashing and signer recovery for EIP-3009 and Permit2.
//!
//! Stub: to be written in full; the signatures below are the contract.

use crate::money::{Asset, Network};
use alloy_primitives::{Address, B256, U256};

/// Permit2, the same address on every chain.
pub const PERMIT2: Address = alloy_primitives::address!("000000000022D473030F116dDEE9F6B43aC78BA3");
/// The x402 exact proxy that must be the Permit2 spender.
pub const EXACT_PERMIT2_PROXY: Address =
    alloy_primitives::address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");

/// The message of EIP-3009 `transferWithAuthorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferAuthorization {
    /// Payer.
    pub from: Address,
    /// Recipient.
    pub to: Address,
    /// Atomic units.
    pub value: U256,
    /// Unix seconds.
    pub valid_after: U256,
    /// Unix seconds.
    pub valid_before: U256,
    /// Nonce.
    pub nonce: B256,
}

/// The message of Permit2 `permitWitnessTransferFrom` with the x402 witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitTransfer {
    /// Token.
    pub token: Address,
    /// Atomic units.
    pub amount: U256,
    /// Spender.
    pub spender: Address,
    /// Nonce.
    pub nonce: U256,
    /// Unix seconds.
    pub deadline: U256,
    /// Witness recipient.
    pub to: Address,
    /// Witness `validAfter`.
    pub valid_after: U256,
}

/// Why a signature has no signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes: a contract wallet's, or nonsense.
    #[error("signature has {0} bytes, not 65")]
    Length(usize),
    /// s in the upper half of the curve order: malleable, the token refuses it.
    #[error("signature has a high s value")]
    HighS,
    /// v is none of 0, 1, 27, 28.
    #[error("signature has recovery id {0}")]
    RecoveryId(u8),
    /// No public key recovers.
    #[error("signature recovers to no key")]
    Unrecoverable,
}

/// The domain separator of a token on a chain.
#[must_use]
pub fn token_domain(_asset: &Asset, _network: Network) -> B256 {
    todo!()
}

/// The digest that an EIP-3009 payer signs.
#[must_use]
pub fn transfer_digest(_domain: B256, _message: &TransferAuthorization) -> B256 {
    todo!()
}

/// The digest that a Permit2 payer signs.
#[must_use]
pub fn permit_digest(_network: Network, _message: &PermitTransfer) -> B256 {
    todo!()
}

/// Recovers the signer of `digest`; v may be 0, 1, 27 or 28. A hint about the payer, never proof.
///
/// # Errors
/// See [`SignatureError`].
pub fn recover(_digest: B256, _signature: &[u8]) -> Result<Address, SignatureError> {
    todo!()
}
