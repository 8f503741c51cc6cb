//! Signs payments in advance, so that a load run measures the seller and not the buyer.
//!
//! `payments COUNT CHALLENGE_FILE`: the file holds a v2 challenge (what `PAYMENT-REQUIRED` decodes to); its
//! first option is paid COUNT times by EIP-3009, each time with another nonce, by 64 payers in turn. Prints
//! one line per payment, the value of a `PAYMENT-SIGNATURE` header.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

const PAYERS: usize = 64;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [count, file] = args.as_slice() else {
        return Err("usage: payments COUNT CHALLENGE_FILE".into());
    };
    let challenge: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let option = challenge.pointer("/accepts/0").ok_or("no option")?;
    let text = |pointer: &str| {
        option
            .pointer(pointer)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("the option has no {pointer}"))
    };

    let chain: u64 = text("/network")?
        .strip_prefix("eip155:")
        .ok_or("not EVM")?
        .parse()?;
    let domain = hash(&[
        keccak256(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
        ),
        keccak256(text("/extra/name")?),
        keccak256(text("/extra/version")?),
        U256::from(chain).into(),
        text("/asset")?.parse::<Address>()?.into_word(),
    ]);
    let transfer = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,\
         uint256 validBefore,bytes32 nonce)",
    );
    let (to, value) = (
        text("/payTo")?.parse::<Address>()?,
        text("/amount")?.parse::<U256>()?,
    );
    let timeout = option
        .get("maxTimeoutSeconds")
        .and_then(Value::as_u64)
        .ok_or("no timeout")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let valid_before = U256::from(now.as_secs() + timeout);

    let payers: Vec<PrivateKeySigner> = (0..PAYERS)
        .map(|payer| PrivateKeySigner::from_bytes(&keccak256(format!("payer {payer}"))))
        .collect::<Result<_, _>>()?;
    for (number, payer) in (0..count.parse::<usize>()?).zip(payers.iter().cycle()) {
        let from = payer.address();
        let nonce = keccak256(format!("{} {number}", now.as_nanos()));
        let message = hash(&[
            transfer,
            from.into_word(),
            to.into_word(),
            value.into(),
            B256::ZERO,
            valid_before.into(),
            nonce,
        ]);
        let digest = keccak256([b"\x19\x01".as_slice(), &domain[..], &message[..]].concat());
        let signature = payer.sign_hash_sync(&digest)?;
        let payment = json!({
            "x402Version": 2,
            "resource": challenge.get("resource"),
            "accepted": option,
            "payload": {
                "signature": signature.to_string(),
                "authorization": {
                    "from": from.to_string(),
                    "to": to.to_string(),
                    "value": value.to_string(),
                    "validAfter": "0",
                    "validBefore": valid_before.to_string(),
                    "nonce": nonce.to_string(),
                },
            },
        });
        println!("{}", STANDARD.encode(payment.to_string()));
    }
    Ok(())
}

fn hash(words: &[B256]) -> B256 {
    keccak256(words.concat())
}
