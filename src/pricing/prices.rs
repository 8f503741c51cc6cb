//! Prices and price models: decimal text to atomic units, exactly or not at all (P-26, P-27).
//!
//! Nothing is metered, so every model becomes the price of one request: `perMTok` by the
//! predecessor's constant of 1000 tokens, `perHour` and `perMB` in full with a warning, `perEpoch`
//! not at all. There is no rounding; the arithmetic is `money::parse_price`, and a thousandth is a
//! decimal point that moves.

use super::findings::Findings;
use super::read::{Section, Text};
use super::tree::Value;
use crate::money::{Amount, Asset, parse_price, thousandth};
use crate::offer::quoted;
use std::borrow::Cow;

/// Decimals with which a price is checked when its token is not known.
const SOME_DECIMALS: u8 = 24;
/// Tokens of a request as the predecessor counts them, so a price per million is divided by 1000.
const TOKENS_PER_REQUEST: &str = "1000";

/// How `priceModel` reads the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    PerRequest,
    PerMTok,
    PerHour,
    PerMB,
    PerEpoch,
}

const MODELS: &[(&str, Model)] = &[
    ("perRequest", Model::PerRequest),
    ("perMTok", Model::PerMTok),
    ("perHour", Model::PerHour),
    ("perMB", Model::PerMB),
    ("perEpoch", Model::PerEpoch),
];

/// The price in atomic units of the asset; without an asset only its text is checked.
pub(super) fn price(
    section: &Section<'_>,
    asset: Option<&Asset>,
    findings: &mut Findings,
) -> Option<Amount> {
    let model = match section.filled("priceModel", findings) {
        Some(_) => Some(section.word("priceModel", MODELS, "invalid_price_model", findings)?),
        None => None,
    };
    let price = section.filled("price", findings);
    let per_million = section.filled("perMTok", findings);
    note_approximations(section, model, findings);
    let decimals = asset.map_or(SOME_DECIMALS, |asset| asset.decimals);
    let amount = match (model, price, per_million) {
        (Some(Model::PerEpoch), _, _) => {
            findings.error(
                section.at("priceModel"),
                section.place.key("priceModel"),
                "unsupported_price_model",
                "perEpoch names no price of a request: write price and priceModel: perRequest"
                    .to_owned(),
            );
            return None;
        }
        (_, Some(price), per_million) => {
            let amount = amount(price, price.text, decimals, findings)?;
            if let Some(per_million) = per_million {
                compare(amount, per_million, decimals, findings);
            }
            amount
        }
        (None | Some(Model::PerMTok), None, Some(per_million)) => {
            per_request(per_million, decimals, findings)?
        }
        (_, None, _) if malformed(section) => return None,
        (Some(Model::PerRequest | Model::PerHour | Model::PerMB), None, _)
        | (None | Some(Model::PerMTok), None, None) => {
            findings.error(
                section.at("price"),
                section.place.key("price"),
                "invalid_price",
                "price is empty: write a decimal number of tokens such as \"0.001\"".to_owned(),
            );
            return None;
        }
    };
    asset.map(|_| amount)
}

/// Whether a price is there that is no text; its error was left behind already.
fn malformed(section: &Section<'_>) -> bool {
    ["price", "perMTok"].iter().any(|key| {
        section
            .value(key)
            .is_some_and(|node| matches!(node.value, Value::List(_) | Value::Map(_)))
    })
}

fn note_approximations(section: &Section<'_>, model: Option<Model>, findings: &mut Findings) {
    let unit = match model {
        Some(Model::PerHour) => Some("hour"),
        Some(Model::PerMB) => Some("megabyte"),
        Some(Model::PerRequest | Model::PerMTok | Model::PerEpoch) | None => None,
    };
    if let Some(unit) = unit {
        findings.warn(
            section.at("priceModel"),
            section.place.key("priceModel"),
            "charged_in_full",
            format!("nothing is metered: the price of one {unit} is charged for every request"),
        );
    }
    let tokens = section.filled("approxTokensPerRequest", findings);
    if let Some(tokens) = tokens.filter(|t| !matches!(t.text, "0" | TOKENS_PER_REQUEST)) {
        tokens.warn(
            findings,
            "unused_key",
            format!(
                "approxTokensPerRequest is {}, but a request counts as {TOKENS_PER_REQUEST} \
                 tokens: write price for another amount",
                quoted(tokens.text)
            ),
        );
    }
}

fn amount(text: Text<'_>, price: &str, decimals: u8, findings: &mut Findings) -> Option<Amount> {
    parse_price(price, decimals)
        .map_err(|error| text.error(findings, "invalid_price", error.to_string()))
        .ok()
}

/// The price of a request from that of a million tokens.
fn per_request(text: Text<'_>, decimals: u8, findings: &mut Findings) -> Option<Amount> {
    let price = thousandth(text.text);
    if let Cow::Borrowed(price) = price {
        // No decimal number: refused in the words of what was written.
        return amount(text, price, decimals, findings);
    }
    parse_price(&price, decimals)
        .map_err(|error| {
            text.error(
                findings,
                "invalid_price",
                format!(
                    "perMTok {} is {price} for a request of {TOKENS_PER_REQUEST} tokens: {error}",
                    quoted(text.text)
                ),
            );
        })
        .ok()
}

fn compare(price: Amount, per_million: Text<'_>, decimals: u8, findings: &mut Findings) {
    if parse_price(&thousandth(per_million.text), decimals) != Ok(price) {
        per_million.warn(
            findings,
            "unused_key",
            "perMTok is not used beside price, and names another amount".to_owned(),
        );
    }
}
