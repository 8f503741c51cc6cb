//! Money: chains, assets, amounts, and price text to atomic units, exactly.
//!
//! Everything that decides *how much of what on which chain* is here, so that no other module ever
//! multiplies by a power of ten or compares the spelling of a chain. A [`Network`] is a chain id;
//! names are aliases that disappear when they are read. An [`Amount`] is an integer of atomic
//! units; there is no float anywhere and no rounding: a price that the asset cannot express exactly
//! is refused, and so is a price of zero (a free route is said with `gate: free`, never with a
//! price).
//!
//! The tables are facts about deployed contracts. A chain has a default asset only if the EIP-712
//! domain separator computed from its row equals the one that its contract publishes; the tests of
//! `eip712.rs` pin every one of them, because a wrong `name` makes payments that verify and then
//! fail to settle. Any other `eip155:<id>` is a network too, one without a default asset: a route
//! on it names its asset in full.
//!
//! The module knows nothing of configuration files, wires or ledgers, and imports nothing of ours.

use alloy_primitives::{Address, address};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// Longest price text that is read, in bytes; 128 bits of any asset fit with room to spare.
pub const MAX_PRICE_LENGTH: usize = 80;

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

/// Why a price text is not a price: what was found, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// No text, or nothing after the `$`.
    #[error("price is empty: write a decimal number of tokens such as \"0.001\"")]
    Empty,
    /// Longer than [`MAX_PRICE_LENGTH`]; the text is not repeated.
    #[error(
        "price has {length} characters: write a decimal number of tokens with at most \
         {MAX_PRICE_LENGTH}"
    )]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// A space or line break, anywhere.
    #[error("price {found:?} contains whitespace: write the number alone, such as \"0.001\"")]
    Whitespace {
        /// The text.
        found: String,
    },
    /// A minus sign.
    #[error("price {found:?} is negative: write an amount above zero, such as \"0.001\"")]
    Negative {
        /// The text.
        found: String,
    },
    /// `0,01` or `1,000`: nobody can tell which is meant.
    #[error(
        "price {found:?} contains a comma: write a point before the decimals and no thousands \
         separator, such as \"1000.01\""
    )]
    Comma {
        /// The text.
        found: String,
    },
    /// `1e-3`.
    #[error("price {found:?} has an exponent: write all its digits, such as \"0.001\"")]
    Exponent {
        /// The text.
        found: String,
    },
    /// `.5`.
    #[error("price {found:?} has no digit before the point: write \"0.5\" for one half")]
    NoWholePart {
        /// The text.
        found: String,
    },
    /// `5.`.
    #[error("price {found:?} has no digit after the point: write \"5\" or \"5.0\" for five")]
    NoFraction {
        /// The text.
        found: String,
    },
    /// Any other character.
    #[error(
        "price {found:?} contains {character:?}: write digits with at most one point, such as \
         \"0.001\" or \"$0.001\""
    )]
    Unexpected {
        /// The text.
        found: String,
        /// The first character that does not belong.
        character: char,
    },
    /// More decimals than the asset has; rounding would charge another price.
    #[error(
        "price {found:?} has {places} decimals but the asset has {decimals}: write at most \
         {decimals} digits after the point"
    )]
    TooPrecise {
        /// The text.
        found: String,
        /// Decimals found.
        places: usize,
        /// Decimals of the asset.
        decimals: u8,
    },
    /// Zero.
    #[error(
        "price {found:?} is zero: write an amount above zero, or `gate: free` to ask for no payment"
    )]
    Zero {
        /// The text.
        found: String,
    },
    /// More than 128 bits of atomic units.
    #[error(
        "price {found:?} does not fit into 128 bits at {decimals} decimals: write a smaller \
         number, or correct the decimals of the asset"
    )]
    Overflow {
        /// The text.
        found: String,
        /// Decimals of the asset.
        decimals: u8,
    },
}

/// A known chain: its names and what is deployed on it.
struct Chain {
    id: u64,
    /// Names that routes may use, the usual one first.
    names: &'static [&'static str],
    /// Whether the closed list of the legacy v1 client holds the first name. One entry outside that
    /// list makes the whole challenge unreadable to such a client.
    v1: bool,
    /// The USDC contract and its EIP-712 name, when its domain separator was checked on chain.
    usdc: Option<(Address, &'static str)>,
}

/// A token beyond the default of its chain.
struct Token {
    chain_id: u64,
    address: Address,
    symbol: &'static str,
    decimals: u8,
    transfer: TransferMethod,
    eip712_name: &'static str,
    eip712_version: &'static str,
}

/// Six decimals and domain version "2" are common to every USDC below.
const USDC_DECIMALS: u8 = 6;
const USDC_VERSION: &str = "2";

/// Protocol digest 5.2 (rows whose separator was checked on chain) and 5.4 (v1 names), with the
/// aliases of the predecessor (compat 1.6).
const CHAINS: &[Chain] = &[
    Chain {
        id: 8453,
        names: &["base", "base-mainnet"],
        v1: true,
        usdc: Some((
            address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
            "USD Coin",
        )),
    },
    Chain {
        id: 84532,
        names: &["base-sepolia"],
        v1: true,
        usdc: Some((address!("036CbD53842c5426634e7929541eC2318f3dCF7e"), "USDC")),
    },
    Chain {
        id: 1,
        names: &["ethereum", "ethereum-mainnet", "mainnet"],
        v1: false,
        usdc: Some((
            address!("A0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"),
            "USD Coin",
        )),
    },
    Chain {
        id: 11_155_111,
        names: &["sepolia", "ethereum-sepolia"],
        v1: false,
        usdc: Some((address!("1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"), "USDC")),
    },
    Chain {
        id: 137,
        names: &["polygon", "polygon-mainnet"],
        v1: true,
        usdc: Some((
            address!("3c499c542cEF5E3811e1192ce70d8cC03d5c3359"),
            "USD Coin",
        )),
    },
    Chain {
        // The predecessor says "USD Coin"; the contract's own separator says "USDC".
        id: 80002,
        names: &["polygon-amoy"],
        v1: true,
        usdc: Some((address!("41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582"), "USDC")),
    },
    Chain {
        id: 43114,
        names: &["avalanche", "avalanche-mainnet"],
        v1: true,
        usdc: Some((
            address!("B97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E"),
            "USD Coin",
        )),
    },
    Chain {
        id: 43113,
        names: &["avalanche-fuji"],
        v1: true,
        usdc: Some((
            address!("5425890298aed601595a70AB815c96711a31Bc65"),
            "USD Coin",
        )),
    },
    Chain {
        id: 42161,
        names: &["arbitrum-one", "arbitrum"],
        v1: false,
        usdc: Some((
            address!("af88d065e77c8cC2239327C5EDb3A432268e5831"),
            "USD Coin",
        )),
    },
    Chain {
        id: 421_614,
        names: &["arbitrum-sepolia"],
        v1: false,
        usdc: Some((
            address!("75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"),
            "USD Coin",
        )),
    },
    Chain {
        id: 10,
        names: &["optimism", "optimism-mainnet"],
        v1: false,
        usdc: Some((
            address!("0b2C639c533813f4Aa9D7837CAf62653d097Ff85"),
            "USD Coin",
        )),
    },
    Chain {
        id: 11_155_420,
        names: &["optimism-sepolia"],
        v1: false,
        usdc: Some((address!("5fd84259d66Cd46123540766Be93DFE6D43130D7"), "USDC")),
    },
    Chain {
        id: 42220,
        names: &["celo", "celo-mainnet"],
        v1: false,
        usdc: Some((address!("cebA9300f2b948710d2653dD7B07f33A8B32118C"), "USDC")),
    },
    Chain {
        id: 143,
        names: &["monad", "monad-mainnet"],
        v1: false,
        usdc: Some((address!("754704Bc059F8C67012fEd69BC8A327a5aafb603"), "USDC")),
    },
    Chain {
        id: 130,
        names: &["unichain", "unichain-mainnet"],
        v1: false,
        usdc: Some((address!("078D782b760474a361dDA0AF3839290b0EF57AD6"), "USDC")),
    },
    // Named by v1 clients; no separator of theirs was checked, so a route names its asset itself.
    Chain {
        id: 1329,
        names: &["sei"],
        v1: true,
        usdc: None,
    },
    Chain {
        id: 1328,
        names: &["sei-testnet"],
        v1: true,
        usdc: None,
    },
    Chain {
        id: 2741,
        names: &["abstract"],
        v1: true,
        usdc: None,
    },
    Chain {
        id: 11124,
        names: &["abstract-testnet"],
        v1: true,
        usdc: None,
    },
    Chain {
        id: 4689,
        names: &["iotex"],
        v1: true,
        usdc: None,
    },
    Chain {
        id: 3338,
        names: &["peaq"],
        v1: true,
        usdc: None,
    },
];

/// The predecessor's registry of extra tokens (compat 1.6).
const TOKENS: &[Token] = &[
    Token {
        chain_id: 1,
        address: address!("0B010000b7624eb9B3DfBC279673C76E9D29D5F7"),
        symbol: "OBOL",
        decimals: 18,
        transfer: TransferMethod::Permit2,
        eip712_name: "Obol Network",
        eip712_version: "1",
    },
    Token {
        chain_id: 84532,
        address: address!("0a09371a8b011d5110656ceBCc70603e53FD2c78"),
        symbol: "OBOL",
        decimals: 18,
        transfer: TransferMethod::Permit2,
        eip712_name: "Obol Network",
        eip712_version: "1",
    },
];

impl Network {
    /// The network of a CAIP-2 id (`eip155:8453`) or a known short name (`base`), any known alias.
    ///
    /// Letter case does not matter, surrounding whitespace does. A chain id is plain decimal
    /// without leading zeros, so that every chain has one CAIP-2 spelling.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((namespace, reference)) = text.split_once(':') {
            let canonical = !reference.starts_with('0')
                && reference.bytes().all(|byte| byte.is_ascii_digit())
                && namespace.eq_ignore_ascii_case("eip155");
            return canonical
                .then(|| reference.parse().ok())
                .flatten()
                .map(Self::from_chain_id);
        }
        CHAINS
            .iter()
            .find(|chain| {
                chain
                    .names
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(text))
            })
            .map(|chain| Self::from_chain_id(chain.id))
    }

    /// Every network that has a name here.
    pub fn known() -> impl Iterator<Item = Self> {
        CHAINS.iter().map(|chain| Self::from_chain_id(chain.id))
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
        self.to_string()
    }

    /// The names this network is known by, the usual one first; empty for an unknown chain.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        self.chain().map_or(&[], |chain| chain.names)
    }

    /// The name x402 v1 clients know (`base-sepolia`), when there is one.
    #[must_use]
    pub fn v1_name(self) -> Option<&'static str> {
        self.chain()
            .filter(|chain| chain.v1)?
            .names
            .first()
            .copied()
    }

    /// The chain's default asset (USDC), when the chain is known and its contract was checked.
    #[must_use]
    pub fn default_asset(self) -> Option<Asset> {
        let (address, name) = self.chain()?.usdc?;
        Some(Asset {
            address,
            symbol: "USDC".into(),
            decimals: USDC_DECIMALS,
            transfer: TransferMethod::Eip3009,
            eip712_name: name.into(),
            eip712_version: USDC_VERSION.into(),
        })
    }

    /// All assets we know on this chain: the default first, then the registry's (OBOL).
    pub fn assets(self) -> impl Iterator<Item = Asset> {
        let registered = TOKENS
            .iter()
            .filter(move |token| token.chain_id == self.chain_id);
        self.default_asset()
            .into_iter()
            .chain(registered.map(Token::asset))
    }

    /// The known asset at this contract.
    #[must_use]
    pub fn asset_at(self, address: Address) -> Option<Asset> {
        self.assets().find(|asset| asset.address == address)
    }

    /// The known asset with this ticker, letter case aside.
    #[must_use]
    pub fn asset_named(self, symbol: &str) -> Option<Asset> {
        self.assets()
            .find(|asset| asset.symbol.eq_ignore_ascii_case(symbol))
    }

    fn chain(self) -> Option<&'static Chain> {
        CHAINS.iter().find(|chain| chain.id == self.chain_id)
    }
}

impl Asset {
    /// The asset to be kept: of one that we know there is one object, whoever asks.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        static KNOWN: LazyLock<Vec<Arc<Asset>>> = LazyLock::new(|| {
            Network::known()
                .flat_map(Network::assets)
                .map(Arc::new)
                .collect()
        });
        let known = KNOWN.iter().find(|known| ***known == self);
        known.map_or_else(|| Arc::new(self), Arc::clone)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eip155:{}", self.chain_id)
    }
}

impl Token {
    fn asset(&self) -> Asset {
        Asset {
            address: self.address,
            symbol: self.symbol.into(),
            decimals: self.decimals,
            transfer: self.transfer,
            eip712_name: self.eip712_name.into(),
            eip712_version: self.eip712_version.into(),
        }
    }
}

impl TransferMethod {
    /// The method named in `assetTransferMethod`, exactly as on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "eip3009" => Some(Self::Eip3009),
            "permit2" => Some(Self::Permit2),
            _ => None,
        }
    }

    /// The value of `extra.assetTransferMethod`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eip3009 => "eip3009",
            Self::Permit2 => "permit2",
        }
    }
}

impl Asset {
    /// The contract address with its EIP-55 checksum, the only spelling we ever put on a wire.
    #[must_use]
    pub fn checksummed(&self) -> String {
        self.address.to_checksum(None)
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
    pub fn to_decimal(self, decimals: u8) -> String {
        let places = usize::from(decimals);
        let digits = format!("{:0>width$}", self.0, width = places + 1);
        let Some((whole, fraction)) = digits.split_at_checked(digits.len() - places) else {
            return digits;
        };
        match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        }
    }
}

/// A decimal text divided by 1000, exactly: the point moves. Anything else comes back as it is.
///
/// It makes a price per million tokens that of a request, which the field counts as 1000 tokens
/// (compat 1.6).
#[must_use]
pub fn thousandth(text: &str) -> Cow<'_, str> {
    let number = text.strip_prefix('$').unwrap_or(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || number.ends_with('.') || !digits(whole) || !digits(fraction) {
        return Cow::Borrowed(text);
    }
    let whole = format!("{whole:0>4}");
    let Some((left, right)) = whole.split_at_checked(whole.len() - 3) else {
        return Cow::Borrowed(text);
    };
    let places = format!("{right}{fraction}");
    match places.trim_end_matches('0') {
        "" => Cow::Owned(left.to_owned()),
        places => Cow::Owned(format!("{left}.{places}")),
    }
}

/// Decimal price text (`0.001`, `$0.001`) to atomic units, exactly.
///
/// # Errors
/// Zero, negative, too many decimals, exponents, separators and empty text are refused by name.
pub fn parse_price(text: &str, decimals: u8) -> Result<Amount, PriceError> {
    if text.len() > MAX_PRICE_LENGTH {
        return Err(PriceError::TooLong { length: text.len() });
    }
    let found = || text.to_owned();
    let number = text.strip_prefix('$').unwrap_or(text);
    if number.is_empty() {
        return Err(PriceError::Empty);
    }
    if let Some(character) = number.chars().find(|c| !c.is_ascii_digit() && *c != '.') {
        return Err(refuse_character(text, number, character));
    }
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some(("", _)) => return Err(PriceError::NoWholePart { found: found() }),
        Some((_, "")) => return Err(PriceError::NoFraction { found: found() }),
        Some((_, fraction)) if fraction.contains('.') => {
            return Err(PriceError::Unexpected {
                found: found(),
                character: '.',
            });
        }
        Some(parts) => parts,
    };
    let Some(padding) = usize::from(decimals).checked_sub(fraction.len()) else {
        return Err(PriceError::TooPrecise {
            found: found(),
            places: fraction.len(),
            decimals,
        });
    };
    let digits = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|byte| u128::from(byte - b'0'));
    let amount = digits
        .chain(std::iter::repeat_n(0, padding))
        .try_fold(0_u128, |sum, digit| sum.checked_mul(10)?.checked_add(digit));
    match amount {
        None => Err(PriceError::Overflow {
            found: found(),
            decimals,
        }),
        Some(0) => Err(PriceError::Zero { found: found() }),
        Some(amount) => Ok(Amount(amount)),
    }
}

/// The error that explains best why `number` (the price without its `$`) holds more than digits and
/// points. A minus sign wins over what follows it, then whitespace, comma and exponent.
fn refuse_character(text: &str, number: &str, first: char) -> PriceError {
    let found = text.to_owned();
    if number.starts_with('-') {
        PriceError::Negative { found }
    } else if number.contains(char::is_whitespace) {
        PriceError::Whitespace { found }
    } else if number.contains(',') {
        PriceError::Comma { found }
    } else if matches!(first, 'e' | 'E') && number.starts_with(|c: char| c.is_ascii_digit()) {
        PriceError::Exponent { found }
    } else {
        PriceError::Unexpected {
            found,
            character: first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn refusal(text: &str) -> PriceError {
        parse_price(text, 6).expect_err(text)
    }

    #[test]
    fn decimal_text_becomes_exact_atomic_units() {
        for (text, decimals, units) in [
            ("0.001", 6, 1_000),
            ("$0.001", 6, 1_000),
            ("1", 6, 1_000_000),
            ("0.000001", 6, 1),
            ("2.01", 6, 2_010_000),
            ("4.10", 6, 4_100_000),
            ("007.5", 1, 75),
            ("3", 0, 3),
            ("0.01", 18, 10_000_000_000_000_000),
            ("0.000000000000000001", 18, 1),
            (
                "123456789.123456789123456789",
                18,
                123_456_789_123_456_789_123_456_789,
            ),
            ("340282366920938463463374607431768211455", 0, u128::MAX),
        ] {
            assert_eq!(parse_price(text, decimals), Ok(Amount(units)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_price_is_refused_by_name() {
        let found = |text: &str| text.to_owned();
        for text in ["", "$"] {
            assert_eq!(refusal(text), PriceError::Empty);
        }
        for text in ["0", "0.0", "$0.000000", "00"] {
            assert_eq!(refusal(text), PriceError::Zero { found: found(text) });
        }
        for text in ["-1", "-0.001", "$-1", "-"] {
            assert_eq!(refusal(text), PriceError::Negative { found: found(text) });
        }
        for text in ["0,01", "1,000", "1,000.5"] {
            assert_eq!(refusal(text), PriceError::Comma { found: found(text) });
        }
        for text in ["1e-3", "1E3", "0.5e1"] {
            assert_eq!(refusal(text), PriceError::Exponent { found: found(text) });
        }
        for text in ["0. 1", " 0.1", "0.1\n", "1.50 USD", "$ 1", "1\u{a0}0"] {
            assert_eq!(refusal(text), PriceError::Whitespace { found: found(text) });
        }
        for text in [".5", "$.5", "."] {
            assert_eq!(
                refusal(text),
                PriceError::NoWholePart { found: found(text) }
            );
        }
        for text in ["5.", "$5."] {
            assert_eq!(refusal(text), PriceError::NoFraction { found: found(text) });
        }
        for (text, character) in [
            ("1USDC", 'U'),
            ("0x10", 'x'),
            ("+1", '+'),
            ("NaN", 'N'),
            ("1.2.3", '.'),
            ("1_0", '_'),
        ] {
            assert_eq!(
                refusal(text),
                PriceError::Unexpected {
                    found: found(text),
                    character
                }
            );
        }
        assert_eq!(
            refusal("$$1"),
            PriceError::Unexpected {
                found: found("$$1"),
                character: '$'
            }
        );
        assert_eq!(
            refusal("\u{661}"),
            PriceError::Unexpected {
                found: found("\u{661}"),
                character: '\u{661}'
            }
        );
    }

    #[test]
    fn more_decimals_than_the_asset_has_are_refused_not_rounded() {
        let error = refusal("0.0000019");
        assert_eq!(
            error,
            PriceError::TooPrecise {
                found: "0.0000019".to_owned(),
                places: 7,
                decimals: 6
            }
        );
        assert_eq!(
            error.to_string(),
            "price \"0.0000019\" has 7 decimals but the asset has 6: \
             write at most 6 digits after the point"
        );
        assert!(matches!(
            parse_price("1.5", 0),
            Err(PriceError::TooPrecise { .. })
        ));
    }

    #[test]
    fn overflow_and_overlong_text_are_refused() {
        let text = "340282366920938463463374607431768211456";
        assert!(matches!(
            parse_price(text, 0),
            Err(PriceError::Overflow { .. })
        ));
        assert!(matches!(
            parse_price("1", 39),
            Err(PriceError::Overflow { .. })
        ));
        assert!(matches!(
            parse_price("1", 255),
            Err(PriceError::Overflow { .. })
        ));
        assert_eq!(refusal(&"1".repeat(81)), PriceError::TooLong { length: 81 });
        assert!(matches!(
            refusal(&"1".repeat(80)),
            PriceError::Overflow { .. }
        ));
    }

    #[test]
    fn amounts_print_without_trailing_zeros() {
        for (units, decimals, text) in [
            (1_000, 6, "0.001"),
            (1_000_000, 6, "1"),
            (1_500_000, 6, "1.5"),
            (0, 6, "0"),
            (42, 0, "42"),
            (1, 18, "0.000000000000000001"),
        ] {
            assert_eq!(Amount(units).to_decimal(decimals), text);
        }
    }

    #[test]
    fn all_aliases_of_a_chain_are_one_network() {
        for (chain_id, names) in [
            (
                8453,
                &["base", "base-mainnet", "eip155:8453", "Base", "EIP155:8453"][..],
            ),
            (84532, &["base-sepolia", "eip155:84532"]),
            (1, &["ethereum", "ethereum-mainnet", "mainnet", "eip155:1"]),
            (137, &["polygon", "polygon-mainnet", "eip155:137"]),
            (80002, &["polygon-amoy", "eip155:80002"]),
            (43114, &["avalanche", "avalanche-mainnet", "eip155:43114"]),
            (43113, &["avalanche-fuji", "eip155:43113"]),
            (42161, &["arbitrum-one", "arbitrum", "eip155:42161"]),
            (421_614, &["arbitrum-sepolia", "eip155:421614"]),
            (11_155_111, &["sepolia", "eip155:11155111"]),
        ] {
            for name in names {
                assert_eq!(
                    Network::parse(name),
                    Some(Network::from_chain_id(chain_id)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn any_other_eip155_chain_is_a_network_without_default_asset() {
        let network = Network::parse("eip155:31337").expect("a chain id");
        assert_eq!(network.caip2(), "eip155:31337");
        assert_eq!(network.default_asset(), None);
        assert_eq!(network.v1_name(), None);
        assert!(network.names().is_empty());
    }

    #[test]
    fn what_names_no_evm_chain_is_no_network() {
        for text in [
            "",
            "bas",
            " base",
            "eip155:",
            "eip155:0",
            "eip155:08453",
            "eip155:+1",
            "eip155:1 ",
            "eip155:0x1",
            "eip155:18446744073709551616",
            "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
            "8453",
        ] {
            assert_eq!(Network::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn v1_names_stay_inside_the_closed_list_of_the_legacy_client() {
        let legacy = [
            "abstract",
            "abstract-testnet",
            "base-sepolia",
            "base",
            "avalanche-fuji",
            "avalanche",
            "iotex",
            "sei",
            "sei-testnet",
            "polygon",
            "polygon-amoy",
            "peaq",
        ];
        let ours: HashSet<_> = Network::known().filter_map(Network::v1_name).collect();
        assert_eq!(ours, legacy.into_iter().collect());
        for name in ["ethereum", "arbitrum", "optimism", "sepolia"] {
            assert_eq!(
                Network::parse(name).and_then(Network::v1_name),
                None,
                "{name}"
            );
        }
    }

    #[test]
    fn names_and_chain_ids_are_unique() {
        let names: Vec<_> = CHAINS.iter().flat_map(|chain| chain.names).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        let ids: HashSet<_> = CHAINS.iter().map(|chain| chain.id).collect();
        assert_eq!(ids.len(), CHAINS.len());
    }

    #[test]
    fn the_registry_knows_usdc_and_obol_by_address_and_by_ticker() {
        let sepolia = Network::from_chain_id(84532);
        let usdc = sepolia.default_asset().expect("USDC");
        assert_eq!(
            usdc.checksummed(),
            "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
        );
        assert_eq!(
            (&*usdc.eip712_name, &*usdc.eip712_version, usdc.decimals),
            ("USDC", "2", 6)
        );
        assert_eq!(sepolia.asset_at(usdc.address), Some(usdc.clone()));
        assert_eq!(sepolia.asset_named("usdc"), Some(usdc));
        for chain_id in [1, 84532] {
            let obol = Network::from_chain_id(chain_id)
                .asset_named("OBOL")
                .expect("OBOL");
            assert_eq!(
                (obol.decimals, obol.transfer),
                (18, TransferMethod::Permit2)
            );
            assert_eq!(
                (&*obol.eip712_name, &*obol.eip712_version),
                ("Obol Network", "1")
            );
        }
        assert_eq!(Network::from_chain_id(8453).asset_named("OBOL"), None);
    }

    #[test]
    fn transfer_methods_round_trip_their_wire_name() {
        for method in [TransferMethod::Eip3009, TransferMethod::Permit2] {
            assert_eq!(TransferMethod::parse(method.as_str()), Some(method));
        }
        assert_eq!(TransferMethod::parse("EIP3009"), None);
    }

    #[test]
    fn a_thousandth_moves_the_point_and_nothing_else() {
        for (text, expected) in [
            ("2.5", "0.0025"),
            ("1000", "1"),
            ("1", "0.001"),
            ("$12345.6", "12.3456"),
            ("0", "0"),
            ("0.0000010", "0.000000001"),
            ("1e3", "1e3"),
            ("-1", "-1"),
            (".5", ".5"),
            ("5.", "5."),
        ] {
            assert_eq!(thousandth(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_thousandth_is_exact(units in 1u64..1_000_000_000_000, places in 0u8..12) {
            let text = Amount(u128::from(units)).to_decimal(places);
            let divided = parse_price(&thousandth(&text), places + 3).expect("a price");
            prop_assert_eq!(divided, Amount(u128::from(units)));
        }

        #[test]
        fn every_amount_survives_its_decimal_text(units in 1..=u128::MAX, decimals in 0..=38_u8) {
            let text = Amount(units).to_decimal(decimals);
            prop_assert_eq!(parse_price(&text, decimals), Ok(Amount(units)));
            prop_assert_eq!(parse_price(&format!("${text}"), decimals), Ok(Amount(units)));
        }

        #[test]
        fn every_price_survives_its_canonical_text(
            text in "[1-9][0-9]{0,15}(\\.[0-9]{1,18})?",
        ) {
            let amount = parse_price(&text, 18).expect("a price");
            let canonical = match text.split_once('.') {
                Some(_) => text.trim_end_matches('0').trim_end_matches('.'),
                None => &text,
            };
            prop_assert_eq!(amount.to_decimal(18), canonical);
        }

        #[test]
        fn no_text_panics_and_no_price_is_zero(text in "\\PC{0,90}", decimals: u8) {
            if let Ok(amount) = parse_price(&text, decimals) {
                prop_assert_ne!(amount, Amount(0));
            }
            prop_assert!(Network::parse(&text).is_none_or(|network| network.chain_id() > 0));
        }

        #[test]
        fn no_number_like_text_panics(text in "[-+$0-9.,eE \\t]{0,90}", decimals: u8) {
            if let Ok(amount) = parse_price(&text, decimals) {
                prop_assert_ne!(amount, Amount(0));
            }
        }

        #[test]
        fn every_chain_id_survives_its_caip2_text(chain_id in 1..=u64::MAX) {
            let network = Network::from_chain_id(chain_id);
            prop_assert_eq!(Network::parse(&network.caip2()), Some(network));
        }
    }
}
