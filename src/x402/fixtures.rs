//! Real payments for the tests of this module: vectors B and C of protocol digest 3.10.

use super::{Payment, Requirement, read_payment};
use crate::money::{Amount, Asset, Network, TransferMethod};
use alloy_primitives::{Address, address};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

pub(super) const PAYER: Address = address!("19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A");
pub(super) const PAY_TO: Address = address!("209693Bc6afc0C5328bA36FaF03C514EF312287C");
pub(super) const LIMIT: usize = 16 * 1024;
pub(super) const URL: &str = "https://api.example.com/premium";

/// Vector B in the example of digest 1.2, as a v2 client sends it.
pub(super) const V2: &str = concat!(
    r#"{"x402Version":2,"resource":{"url":"https://api.example.com/premium"},"#,
    r#""accepted":{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","#,
    r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}},"#,
    r#""payload":{"signature":"0x93841f22de24f5a698c2a2a211e99d3048e8d3e55b5c27de46e05ae6fc4ebb39409420e966f4f0e39af7810ba8cbc8ccc1a9ebcce2f323c6b79357c2c9daecf91b","#,
    r#""authorization":{"from":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","#,
    r#""value":"10000","validAfter":"0","validBefore":"4102444800","#,
    r#""nonce":"0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"}}}"#
);

/// Vector B as a v1 client sends it.
pub(super) const V1: &str = concat!(
    r#"{"x402Version":1,"scheme":"exact","network":"base-sepolia","#,
    r#""payload":{"signature":"0x93841f22de24f5a698c2a2a211e99d3048e8d3e55b5c27de46e05ae6fc4ebb39409420e966f4f0e39af7810ba8cbc8ccc1a9ebcce2f323c6b79357c2c9daecf91b","#,
    r#""authorization":{"from":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","#,
    r#""value":"10000","validAfter":"0","validBefore":"4102444800","#,
    r#""nonce":"0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"}}}"#
);

/// Vector C.
pub(super) const PERMIT2: &str = concat!(
    r#"{"x402Version":2,"accepted":{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","#,
    r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2","assetTransferMethod":"permit2"}},"#,
    r#""payload":{"signature":"0x2564da5a9b7ce3a324c70bf992c740f559c7a1c037eb331bbbabf010ad13cb360a25726eca6c92fc5cab7c0b0b76120b6d488fddcafcece6b0a509098bd751511c","#,
    r#""permit2Authorization":{"permitted":{"token":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","amount":"10000"},"#,
    r#""from":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","spender":"0x402085c248EeA27D92E8b30b2C58ed07f9E20001","nonce":"1","deadline":"4102444800","#,
    r#""witness":{"to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","validAfter":"0"}}}}"#
);

pub(super) fn headers(name: &'static str, json: &str) -> HeaderMap {
    let value = HeaderValue::try_from(STANDARD.encode(json)).expect("base64");
    HeaderMap::from_iter([(name.parse().expect("a header name"), value)])
}

pub(super) fn payment(name: &'static str, json: &str) -> Payment {
    read_payment(&headers(name, json), LIMIT)
        .expect("a payment")
        .expect("present")
}

pub(super) fn base_sepolia() -> Network {
    Network::from_chain_id(84532)
}

pub(super) fn usdc() -> Asset {
    base_sepolia().default_asset().expect("USDC")
}

/// 0.01 of `asset` at six decimals, to [`PAY_TO`], as in the vectors.
pub(super) fn requirement(network: Network, asset: Asset, upfront: bool) -> Requirement {
    let description = Some("Premium data");
    Requirement::new(
        network,
        Arc::new(asset),
        Amount(10_000),
        PAY_TO,
        60,
        upfront,
        description,
    )
}

pub(super) fn permit2_usdc() -> Asset {
    Asset {
        transfer: TransferMethod::Permit2,
        ..usdc()
    }
}
