//! Typed-data hashing and signer recovery for EIP-3009 and Permit2.
//!
//! A payment is a signature over a digest: `keccak256(0x1901 || domain || message)`. The domain
//! binds it to one contract on one chain, the message names payer, recipient, value and validity.
//! Every member of the three structs here is one 32-byte word, so the ABI encoding is written out
//! by hand: a list of words per struct, next to the type text whose hash heads it.
//!
//! What recovers here is a hint and never admits anybody (M9). A mismatch is no proof of an invalid
//! payment, because contract wallets sign by other rules, and a match is no proof that the chain
//! will accept it. The facilitator decides; the gate uses the hint to sort payments into lanes and,
//! where a route says `eoaOnly`, to refuse.
//!
//! The type hashes, a domain separator per known chain and the protocol digest's vectors (3.10) are
//! pinned in the tests.

use crate::money::{Asset, Network};
use alloy_primitives::{Address, B256, Signature, U256, address, b256, keccak256};

/// Permit2, the same address on every chain.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");
/// The x402 exact proxy that must be the Permit2 spender.
pub const EXACT_PERMIT2_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");

/// `EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)`
const TOKEN_DOMAIN_TYPE: B256 =
    b256!("8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");
/// `EIP712Domain(string name,uint256 chainId,address verifyingContract)`
const PERMIT2_DOMAIN_TYPE: B256 =
    b256!("8cad95687ba82c2ce50e74f7b754645e5117c3a5bec8151c0726d5857980a866");
/// `TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256
/// validBefore,bytes32 nonce)`, without line breaks.
const TRANSFER_TYPE: B256 =
    b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");
/// `PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256
/// deadline,Witness witness)` followed by the two types below, without line breaks.
const PERMIT_TYPE: B256 = b256!("ebc156cd23678a74c94df13d772ef5478420637f0c94bd10d509e1dc98f521c7");
/// `TokenPermissions(address token,uint256 amount)`
const TOKEN_PERMISSIONS_TYPE: B256 =
    b256!("618358ac3db8dc274f0cd8829da7e234bd48cd73c4a740aede1adec9846d06a1");
/// `Witness(address to,uint256 validAfter)`
const WITNESS_TYPE: B256 =
    b256!("d97b3239a7f32295517bd14cb074edfdd188dfe5eb42f802bb26d4fd1eb12c37");

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
///
/// Name and version come from our own configuration, never from the buyer's copy of them.
#[must_use]
pub fn token_domain(asset: &Asset, network: Network) -> B256 {
    domain_separator(
        &asset.eip712_name,
        &asset.eip712_version,
        network.chain_id(),
        asset.address,
    )
}

/// The domain separator of a token from its parts, as a buyer reads them in a challenge.
#[must_use]
pub fn domain_separator(name: &str, version: &str, chain_id: u64, token: Address) -> B256 {
    hash_words([
        TOKEN_DOMAIN_TYPE,
        keccak256(name.as_bytes()),
        keccak256(version.as_bytes()),
        number(U256::from(chain_id)),
        token.into_word(),
    ])
}

/// The digest that an EIP-3009 payer signs.
#[must_use]
pub fn transfer_digest(domain: B256, message: &TransferAuthorization) -> B256 {
    digest(domain, transfer_struct(message))
}

/// The digest that a Permit2 payer signs.
#[must_use]
pub fn permit_digest(network: Network, message: &PermitTransfer) -> B256 {
    digest(permit2_domain(network), permit_struct(message))
}

/// Recovers the signer of `digest`; v may be 0, 1, 27 or 28. A hint about the payer, never proof.
///
/// # Errors
/// See [`SignatureError`].
pub fn recover(digest: B256, signature: &[u8]) -> Result<Address, SignatureError> {
    let bytes: &[u8; 65] = signature
        .try_into()
        .map_err(|_wrong| SignatureError::Length(signature.len()))?;
    let [rs @ .., v] = bytes;
    let y_is_odd = match v {
        0 | 27 => false,
        1 | 28 => true,
        other => return Err(SignatureError::RecoveryId(*other)),
    };
    let signature = Signature::from_bytes_and_parity(rs, y_is_odd);
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    signature
        .recover_address_from_prehash(&digest)
        .map_err(|_not_a_point| SignatureError::Unrecoverable)
}

/// The domain of Permit2 itself, which has no version.
fn permit2_domain(network: Network) -> B256 {
    hash_words([
        PERMIT2_DOMAIN_TYPE,
        keccak256("Permit2"),
        number(U256::from(network.chain_id())),
        PERMIT2.into_word(),
    ])
}

fn transfer_struct(message: &TransferAuthorization) -> B256 {
    hash_words([
        TRANSFER_TYPE,
        message.from.into_word(),
        message.to.into_word(),
        number(message.value),
        number(message.valid_after),
        number(message.valid_before),
        message.nonce,
    ])
}

fn permit_struct(message: &PermitTransfer) -> B256 {
    let permitted = hash_words([
        TOKEN_PERMISSIONS_TYPE,
        message.token.into_word(),
        number(message.amount),
    ]);
    let witness = hash_words([
        WITNESS_TYPE,
        message.to.into_word(),
        number(message.valid_after),
    ]);
    hash_words([
        PERMIT_TYPE,
        permitted,
        message.spender.into_word(),
        number(message.nonce),
        number(message.deadline),
        witness,
    ])
}

fn digest(domain: B256, message: B256) -> B256 {
    let mut bytes = [0; 66];
    let parts: [&[u8]; 3] = [&[0x19, 0x01], domain.as_slice(), message.as_slice()];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    keccak256(bytes)
}

fn hash_words<const N: usize>(words: [B256; N]) -> B256 {
    keccak256(words.map(|word| word.0).as_flattened())
}

fn number(value: U256) -> B256 {
    B256::new(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::TransferMethod;
    use alloy_primitives::hex;
    use k256::ecdsa::SigningKey;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PAYER: Address = address!("19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A");
    const PAY_TO: Address = address!("209693Bc6afc0C5328bA36FaF03C514EF312287C");
    const NONCE: B256 = b256!("f3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480");
    const FAR_FUTURE: u64 = 4_102_444_800;
    const LOW_S: [u8; 65] = hex!(
        "93841f22de24f5a698c2a2a211e99d3048e8d3e55b5c27de46e05ae6fc4ebb39"
        "409420e966f4f0e39af7810ba8cbc8ccc1a9ebcce2f323c6b79357c2c9daecf91b"
    );
    const HIGH_S: [u8; 65] = hex!(
        "93841f22de24f5a698c2a2a211e99d3048e8d3e55b5c27de46e05ae6fc4ebb39"
        "bf6bdf16990b0f1c65087ef457343731f904f119cc557c75083f06ca065b54481c"
    );

    fn base_sepolia() -> Network {
        Network::from_chain_id(84532)
    }

    fn usdc_domain() -> B256 {
        token_domain(
            &base_sepolia().default_asset().expect("USDC"),
            base_sepolia(),
        )
    }

    /// Vector B of protocol digest 3.10.
    fn transfer() -> TransferAuthorization {
        TransferAuthorization {
            from: PAYER,
            to: PAY_TO,
            value: U256::from(10_000),
            valid_after: U256::ZERO,
            valid_before: U256::from(FAR_FUTURE),
            nonce: NONCE,
        }
    }

    /// Vector C of protocol digest 3.10.
    fn permit() -> PermitTransfer {
        PermitTransfer {
            token: base_sepolia().default_asset().expect("USDC").address,
            amount: U256::from(10_000),
            spender: EXACT_PERMIT2_PROXY,
            nonce: U256::from(1),
            deadline: U256::from(FAR_FUTURE),
            to: PAY_TO,
            valid_after: U256::ZERO,
        }
    }

    /// What an EOA wallet does, v as 27 or 28.
    fn sign(key: &SigningKey, digest: B256) -> [u8; 65] {
        let (signature, id) = key
            .sign_prehash_recoverable(digest.as_slice())
            .expect("signs");
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + id.to_byte();
        bytes
    }

    #[test]
    fn type_hashes_are_those_of_the_type_texts() {
        let permissions = "TokenPermissions(address token,uint256 amount)";
        let witness = "Witness(address to,uint256 validAfter)";
        let permit = format!(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,\
             uint256 deadline,Witness witness){permissions}{witness}"
        );
        for (hash, text) in [
            (
                TOKEN_DOMAIN_TYPE,
                "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
            ),
            (
                PERMIT2_DOMAIN_TYPE,
                "EIP712Domain(string name,uint256 chainId,address verifyingContract)",
            ),
            (
                TRANSFER_TYPE,
                "TransferWithAuthorization(address from,address to,uint256 value,uint256 \
                 validAfter,uint256 validBefore,bytes32 nonce)",
            ),
            (TOKEN_PERMISSIONS_TYPE, permissions),
            (WITNESS_TYPE, witness),
            (PERMIT_TYPE, &permit),
        ] {
            assert_eq!(hash, keccak256(text), "{text}");
        }
    }

    /// One separator per chain with a default asset, as published by its contract (protocol digest
    /// 5.2). A row of `money.rs` with a wrong name, version, chain or address fails here.
    #[test]
    fn every_default_asset_has_the_domain_separator_of_its_contract() {
        let published: BTreeMap<u64, B256> = [
            (
                8453,
                b256!("02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"),
            ),
            (
                84532,
                b256!("71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"),
            ),
            (
                1,
                b256!("06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335"),
            ),
            (
                11_155_111,
                b256!("b90e5057db141a932946e64d09ccb7ffc9b00bd79fec26f698d29af0c83320a6"),
            ),
            (
                137,
                b256!("caa2ce1a5703ccbe253a34eb3166df60a705c561b44b192061e28f2a985be2ca"),
            ),
            (
                80002,
                b256!("5cddc98319864e897e4469bd1d13c2288c677047b54b8cca12bd342adb6be9eb"),
            ),
            (
                43114,
                b256!("bbea200329a938bc3438984a49cb0732e66d66d7bd59c127abacc1710e77f7b3"),
            ),
            (
                43113,
                b256!("fe9fa105a0e9629446730e544caa6b8d05d8d4fc93451750dc50e2ddd6d374b3"),
            ),
            (
                42161,
                b256!("08d11903f8419e68b1b8721bcbe2e9fc68569122a77ef18c216f10b3b5112c78"),
            ),
            (
                421_614,
                b256!("85944e1292d007732838d6eadfa67589b78ffcededbd4df60488d0af251308bb"),
            ),
            (
                10,
                b256!("26d9c34bb1a1c312f69c53b2d93b8be20faafba63af2438c6811713c9b1f933f"),
            ),
            (
                11_155_420,
                b256!("09d038a3e46040fc37eb01174dbbcdb7981fbd8eafd9e1a857b1c67805dfb29e"),
            ),
            (
                42220,
                b256!("b2ce31d2838445fa765a491f550e7c78ac7280ab0f3bc9d6063a86df9c3fb578"),
            ),
            (
                143,
                b256!("fe22123edc0dd4aeb912eb7948c5f0e531592c2053b3067612f427db342c93c6"),
            ),
            (
                130,
                b256!("565b4c4095d739dada6adeb9a89bc6dc4d102500ebd4a88bef1ec1d0f69d83b8"),
            ),
        ]
        .into();
        let ours: BTreeMap<u64, B256> = Network::known()
            .filter_map(|network| {
                let asset = network.default_asset()?;
                assert_eq!(asset.transfer, TransferMethod::Eip3009);
                Some((network.chain_id(), token_domain(&asset, network)))
            })
            .collect();
        assert_eq!(ours, published);
    }

    /// Vector A: the specification's own example payment.
    #[test]
    fn the_example_of_the_specification_recovers_only_under_the_right_domain() {
        let from = address!("857b06519E91e3A54538791bDbb0E22373e36b66");
        let message = TransferAuthorization {
            from,
            valid_after: U256::from(1_740_672_089),
            valid_before: U256::from(1_740_672_154),
            ..transfer()
        };
        let signature = hex!(
            "2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e37"
            "7d6da8dbbf5836e9bd15092f9ecab05ded3d6293af148b571c"
        );
        assert_eq!(
            recover(transfer_digest(usdc_domain(), &message), &signature),
            Ok(from)
        );
        let mut asset = base_sepolia().default_asset().expect("USDC");
        asset.eip712_name = "USD Coin".into();
        let wrong = token_domain(&asset, base_sepolia());
        let other = recover(transfer_digest(wrong, &message), &signature).expect("recovers");
        assert_ne!(other, from);
    }

    #[test]
    fn vector_b_hashes_and_recovers_with_both_spellings_of_v() {
        assert_eq!(
            transfer_struct(&transfer()),
            b256!("f3b6a3483b86dc72d61b9e37d00423a98666c6112acd59ef28ea432a2ec9f4f4")
        );
        let digest = transfer_digest(usdc_domain(), &transfer());
        assert_eq!(
            digest,
            b256!("81ed332a3d58114ba2e004fde21b3be3b7114a570ac90282a323e816a3e5e0db")
        );
        assert_eq!(recover(digest, &LOW_S), Ok(PAYER));
        let mut v_zero = LOW_S;
        v_zero[64] = 0;
        assert_eq!(recover(digest, &v_zero), Ok(PAYER));
    }

    #[test]
    fn m9_the_high_s_twin_is_refused_though_it_recovers_to_the_payer() {
        let digest = transfer_digest(usdc_domain(), &transfer());
        assert_eq!(recover(digest, &HIGH_S), Err(SignatureError::HighS));
        let [rs @ .., _v] = &HIGH_S;
        let twin = Signature::from_bytes_and_parity(rs, true);
        assert_eq!(
            twin.recover_address_from_prehash(&digest)
                .expect("recovers"),
            PAYER
        );
    }

    /// Vector C.
    #[test]
    fn the_permit2_vector_hashes_and_recovers() {
        assert_eq!(
            permit2_domain(base_sepolia()),
            b256!("010f27a92fb9a32622f44f001dc4d15706a85b33499cfc2ce9033113ab26592c")
        );
        assert_eq!(
            permit_struct(&permit()),
            b256!("aeeefee678d529624cef04d664878563c7e4c7a83341fe7deefd8eb9c86530e9")
        );
        let digest = permit_digest(base_sepolia(), &permit());
        assert_eq!(
            digest,
            b256!("c8210ca50275aee5a463bd8abbc5c75cea7cafe0fd58b549c3a4f7620240e12e")
        );
        let signature = hex!(
            "2564da5a9b7ce3a324c70bf992c740f559c7a1c037eb331bbbabf010ad13cb360a25726eca6c92fc"
            "5cab7c0b0b76120b6d488fddcafcece6b0a509098bd751511c"
        );
        assert_eq!(recover(digest, &signature), Ok(PAYER));
    }

    #[test]
    fn m9_what_is_not_an_eoa_signature_is_named() {
        let digest = transfer_digest(usdc_domain(), &transfer());
        assert_eq!(recover(digest, &[]), Err(SignatureError::Length(0)));
        assert_eq!(
            recover(digest, &LOW_S[..64]),
            Err(SignatureError::Length(64))
        );
        assert_eq!(recover(digest, &[0; 96]), Err(SignatureError::Length(96)));
        let mut odd = LOW_S;
        odd[64] = 29;
        assert_eq!(recover(digest, &odd), Err(SignatureError::RecoveryId(29)));
        assert_eq!(
            recover(digest, &[0; 65]),
            Err(SignatureError::Unrecoverable)
        );
        let mut zero_r = LOW_S;
        zero_r[..32].fill(0);
        assert_eq!(recover(digest, &zero_r), Err(SignatureError::Unrecoverable));
        let mut r_beyond_the_field = LOW_S;
        r_beyond_the_field[..32].fill(0xff);
        assert_eq!(
            recover(digest, &r_beyond_the_field),
            Err(SignatureError::Unrecoverable)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_a_key_signs_recovers_to_it_and_a_changed_value_does_not(
            secret in prop::array::uniform32(1..=0xfe_u8),
            value: u64,
        ) {
            let key = SigningKey::from_slice(&secret).expect("a scalar below the order");
            let signer = Address::from_public_key(key.verifying_key());
            let mut message =
                TransferAuthorization { from: signer, value: U256::from(value), ..transfer() };
            let signature = sign(&key, transfer_digest(usdc_domain(), &message));
            prop_assert_eq!(recover(transfer_digest(usdc_domain(), &message), &signature), Ok(signer));
            message.value = U256::from(value) + U256::from(1);
            prop_assert_ne!(recover(transfer_digest(usdc_domain(), &message), &signature), Ok(signer));
        }

        #[test]
        fn no_signature_bytes_panic(digest: [u8; 32], bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Err(SignatureError::Length(length)) = recover(digest.into(), &bytes) {
                prop_assert_ne!(length, 65);
            }
        }
    }
}
