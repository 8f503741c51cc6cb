//! One way to pay: what we ask for, compared with what a buyer accepted, rendered for both versions.
//!
//! A requirement is compiled once per table and is the only source of the economic facts of a
//! payment: price, asset, recipient and chain are always ours. The buyer's copy is compared and then
//! forgotten; the facilitator gets our rendering, whatever the buyer sent.
//!
//! Version 1 knows EIP-3009 only and a closed list of network names. A requirement outside both has
//! no v1 form, is not offered to v1 clients and matches no v1 payment.

use super::json::quoted;
use super::payment::parse_fixed_hex;
use super::{Accepted, Payment, Version, printable};
use crate::money::{Amount, Asset, Network, TransferMethod};
use alloy_primitives::{Address, U256};
use serde_json::Value;
use std::sync::Arc;

/// One way to pay, compiled: typed for comparison, rendered for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Chain.
    pub network: Network,
    /// Token.
    pub asset: Arc<Asset>,
    /// Price.
    pub amount: Amount,
    /// Recipient.
    pub pay_to: Address,
    /// Advertised validity in seconds.
    pub max_timeout_seconds: u32,
    /// Whether `extra.paymentFlow` is `upfront` (settle before).
    pub upfront: bool,
    /// The v2 `PaymentRequirements` object exactly as it stands in `accepts` and in facilitator
    /// calls.
    json_v2: Arc<str>,
    json_v1: Option<V1Entry>,
}

/// The v1 object, cut where the per-request `resource` text goes (inside its quotes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1Entry {
    pub(super) before_url: Arc<str>,
    pub(super) after_url: Arc<str>,
}

/// Which field of `accepted` differs from our requirement, with both values as bounded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Field name as on the wire (`payTo`).
    pub field: &'static str,
    /// What we ask for.
    pub expected: String,
    /// What the payment says.
    pub found: String,
}

/// The only scheme we offer.
const SCHEME: &str = "exact";
/// Longest value of a buyer in a [`Mismatch`], in characters.
const FOUND: usize = 80;

impl Requirement {
    /// Compiles a requirement. `description` stands in the v1 object only; v2 has it once per
    /// challenge.
    #[must_use]
    pub fn new(
        network: Network,
        asset: Arc<Asset>,
        amount: Amount,
        pay_to: Address,
        max_timeout_seconds: u32,
        upfront: bool,
        description: Option<&str>,
    ) -> Self {
        let mut requirement = Self {
            network,
            asset,
            amount,
            pay_to,
            max_timeout_seconds,
            upfront,
            json_v2: Arc::default(),
            json_v1: None,
        };
        requirement.json_v2 = requirement.render_v2().into();
        requirement.json_v1 = requirement.render_v1(description.unwrap_or_default());
        requirement
    }

    /// The v2 object.
    #[must_use]
    pub fn json_v2(&self) -> &str {
        &self.json_v2
    }

    /// The v1 object for this resource URL, when the chain has a v1 name and the asset moves by
    /// EIP-3009.
    #[must_use]
    pub fn json_v1(&self, resource_url: &str) -> Option<String> {
        let V1Entry {
            before_url,
            after_url,
        } = self.json_v1.as_ref()?;
        let url = super::challenge::escape_url(resource_url);
        Some(format!("{before_url}{url}{after_url}"))
    }

    pub(super) fn v1_entry(&self) -> Option<&V1Entry> {
        self.json_v1.as_ref()
    }

    /// Compares the buyer's copy with this requirement (protocol digest 4.2).
    ///
    /// Typed: addresses as bytes, amounts as integers, networks as chains. What the buyer added to
    /// `extra` does not matter. A v1 payment repeats only scheme and network.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn matches(&self, accepted: &Accepted) -> Result<(), Mismatch> {
        match accepted {
            Accepted::V1 { scheme, network } => {
                self.compare_offer(scheme, network)?;
                let payable = self.json_v1.is_some();
                check(payable, "x402Version", || "2".to_owned(), || "1".to_owned())
            }
            Accepted::V2 {
                scheme,
                network,
                amount,
                asset,
                pay_to,
                max_timeout_seconds,
                extra,
            } => {
                self.compare_offer(scheme, network)?;
                check(
                    *amount == U256::from(self.amount.0),
                    "amount",
                    || self.amount.to_string(),
                    || amount.to_string(),
                )?;
                compare_address("asset", self.asset.address, asset)?;
                compare_address("payTo", self.pay_to, pay_to)?;
                let seconds = max_timeout_seconds.unwrap_or(self.max_timeout_seconds.into());
                check(
                    seconds == u64::from(self.max_timeout_seconds),
                    "maxTimeoutSeconds",
                    || self.max_timeout_seconds.to_string(),
                    || seconds.to_string(),
                )?;
                self.compare_extra(extra.as_ref())
            }
        }
    }

    /// The body of `POST /verify` and `POST /settle`: version, the payment bytes unchanged, our
    /// requirement in the payment's version.
    ///
    /// `None` when a v1 payment meets a requirement without v1 form; such a payment never matches.
    #[must_use]
    pub fn facilitator_body(&self, payment: &Payment, resource_url: &str) -> Option<Vec<u8>> {
        let (version, requirement) = match payment.version {
            Version::V1 => (1, self.json_v1(resource_url)?),
            Version::V2 => (2, self.json_v2().to_owned()),
        };
        let body = format!(
            r#"{{"x402Version":{version},"paymentPayload":{},"paymentRequirements":{requirement}}}"#,
            payment.json
        );
        Some(body.into_bytes())
    }

    /// The price for people: `0.001 USDC on base-sepolia`.
    pub(super) fn in_words(&self) -> String {
        let price = self.amount.to_decimal(self.asset.decimals);
        let caip2 = self.network.caip2();
        let network = self.network.names().first().copied().unwrap_or(&caip2);
        format!("{price} {} on {network}", self.asset.symbol)
    }

    fn compare_offer(&self, scheme: &str, network: &str) -> Result<(), Mismatch> {
        check(
            scheme == SCHEME,
            "scheme",
            || SCHEME.to_owned(),
            || printable(scheme, FOUND),
        )?;
        check(
            Network::parse(network) == Some(self.network),
            "network",
            || self.network.caip2(),
            || printable(network, FOUND),
        )
    }

    /// Every member of our `extra` must stand in theirs.
    fn compare_extra(&self, theirs: Option<&Value>) -> Result<(), Mismatch> {
        for (field, key, expected) in self.extra() {
            let found = theirs.and_then(|extra| extra.get(key));
            check(
                found.and_then(Value::as_str) == Some(expected),
                field,
                || expected.to_owned(),
                || found.map_or_else(|| "nothing".to_owned(), found_text),
            )?;
        }
        Ok(())
    }

    /// Members of the v2 `extra`: (field name in a [`Mismatch`], key, value).
    fn extra(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let flow = self
            .upfront
            .then_some(("extra.paymentFlow", "paymentFlow", "upfront"));
        [
            ("extra.name", "name", &*self.asset.eip712_name),
            ("extra.version", "version", &*self.asset.eip712_version),
            (
                "extra.assetTransferMethod",
                "assetTransferMethod",
                self.asset.transfer.as_str(),
            ),
        ]
        .into_iter()
        .chain(flow)
    }

    fn render_v2(&self) -> String {
        let extra: Vec<String> = self
            .extra()
            .map(|(_, key, value)| format!("\"{key}\":{}", quoted(value)))
            .collect();
        format!(
            concat!(
                r#"{{"scheme":"{}","network":"{}","amount":"{}","asset":"{}","#,
                r#""payTo":"{}","maxTimeoutSeconds":{},"extra":{{{}}}}}"#
            ),
            SCHEME,
            self.network,
            self.amount,
            self.asset.checksummed(),
            self.pay_to.to_checksum(None),
            self.max_timeout_seconds,
            extra.join(",")
        )
    }

    /// The legacy client demands every one of these keys, text where text is and no null.
    fn render_v1(&self, description: &str) -> Option<V1Entry> {
        let name = self.network.v1_name()?;
        if self.asset.transfer != TransferMethod::Eip3009 {
            return None;
        }
        let before_url = format!(
            r#"{{"scheme":"{SCHEME}","network":"{name}","maxAmountRequired":"{}","resource":""#,
            self.amount
        );
        let after_url = format!(
            concat!(
                r#"","description":{},"mimeType":"","payTo":"{}","maxTimeoutSeconds":{},"#,
                r#""asset":"{}","extra":{{"name":{},"version":{}}}}}"#
            ),
            quoted(description),
            self.pay_to.to_checksum(None),
            self.max_timeout_seconds,
            self.asset.checksummed(),
            quoted(&self.asset.eip712_name),
            quoted(&self.asset.eip712_version)
        );
        Some(V1Entry {
            before_url: before_url.into(),
            after_url: after_url.into(),
        })
    }
}

fn check(
    equal: bool,
    field: &'static str,
    expected: impl FnOnce() -> String,
    found: impl FnOnce() -> String,
) -> Result<(), Mismatch> {
    if equal {
        Ok(())
    } else {
        Err(Mismatch {
            field,
            expected: expected(),
            found: found(),
        })
    }
}

fn compare_address(field: &'static str, ours: Address, theirs: &str) -> Result<(), Mismatch> {
    check(
        parse_fixed_hex(theirs) == Some(ours.into_array()),
        field,
        || ours.to_checksum(None),
        || printable(theirs, FOUND),
    )
}

fn found_text(value: &Value) -> String {
    printable(value.as_str().unwrap_or(&value.to_string()), FOUND)
}

#[cfg(test)]
mod tests;
