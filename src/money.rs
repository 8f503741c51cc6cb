//! Money: chains, assets, amounts, and price text to atomic units, exactly.
//!
//! Leaf module; see `docs/configuration.md` for the chains it knows.

use alloy_primitives::Address;
use std::fmt;
use std::sync::Arc;

/// An amount in atomic units of its asset (`1000` of USDC is 0.001 USDC). Never zero in a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u128);

/// An EVM chain. Equality is by chain id; names are aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    chain_id: u64,
}

/// How the asset is moved, which decides the form of the payment payload (x402 exact scheme).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransferMethod {
    /// `transferWithAuthorization` of EIP-3009; the claim's contract is the token.
    Eip3009,
    /// `permitWitnessTransferFrom` of Permit2; the claim's contract is Permit2.
    Permit2,
}

/// An asset with all that signing and display need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Token contract.
    pub address: Address,
    /// Ticker for people and the `asset_symbol` label.
    pub symbol: Arc<str>,
    /// Decimal places of one token.
    pub decimals: u8,
    /// Transfer method.
    pub transfer: TransferMethod,
    /// EIP-712 domain name of the token (or "Permit2" is used by that method itself).
    pub eip712_name: Arc<str>,
    /// EIP-712 domain version of the token.
    pub eip712_version: Arc<str>,
}

/// Why a price text is not a price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Placeholder.
    #[error("price is empty: write a decimal number of tokens such as \"0.001\"")]
    Empty,
}

impl Network {
    /// The network of a CAIP-2 id (`eip155:8453`) or a known short name (`base`), any known alias.
    #[must_use]
    pub fn parse(_text: &str) -> Option<Self> {
        todo!()
    }
    /// EIP-155 chain id.
    #[must_use]
    pub const fn chain_id(self) -> u64 {
        self.chain_id
    }
    /// The network with this EIP-155 chain id, known or not.
    #[must_use]
    pub const fn from_chain_id(chain_id: u64) -> Self {
        Self { chain_id }
    }
    /// `eip155:<chain id>`.
    #[must_use]
    pub fn caip2(self) -> String {
        format!("eip155:{}", self.chain_id)
    }
    /// The name x402 v1 clients know (`base-sepolia`), when there is one.
    #[must_use]
    pub fn v1_name(self) -> Option<&'static str> {
        todo!()
    }
    /// The chain's default asset (USDC), when the chain is known.
    #[must_use]
    pub fn default_asset(self) -> Option<Asset> {
        todo!()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Amount {
    /// Exact decimal text of this amount with `decimals` places, no trailing zeros (`0.001`).
    #[must_use]
    pub fn to_decimal(self, _decimals: u8) -> String {
        todo!()
    }
}

/// Decimal price text (`0.001`, `$0.001`) to atomic units, exactly.
///
/// # Errors
/// Zero, negative, too many decimals, exponents, separators and empty text are refused by name.
pub fn parse_price(_text: &str, _decimals: u8) -> Result<Amount, PriceError> {
    todo!()
}
