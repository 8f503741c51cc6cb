//! A chain of our own: anvil as Base Sepolia, with an EIP-3009 token where Base Sepolia has USDC.
//!
//! Unmodified buyers pay only in assets they know, so chain id, address and EIP-712 domain are the real ones; the
//! contract is `tests/parts/token/MockUSDC.sol`. Keys are anvil's well-known development keys, worth nothing.

use serde_json::{Value, json};

use super::{
    http,
    process::{Process, supervised},
    require,
};

/// Base Sepolia.
pub(crate) const CHAIN_ID: u64 = 84532;
/// USDC on Base Sepolia, and here.
pub(crate) const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/// Who sells: account 4 starts without tokens, so that its balance is what was earned.
pub(crate) const PAYEE: &Account = &ACCOUNTS[4];

/// A development account of anvil.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// Checksummed address.
    pub(crate) address: &'static str,
    /// Private key, hex.
    pub(crate) key: &'static str,
}

/// The accounts of anvil's default mnemonic. 0 is the facilitator's, 4 the payee; the others own 1000 tokens each.
pub(crate) const ACCOUNTS: [Account; 10] = [
    Account {
        address: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        key: "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    },
    Account {
        address: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        key: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    },
    Account {
        address: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        key: "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    },
    Account {
        address: "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        key: "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    },
    Account {
        address: "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
        key: "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    },
    Account {
        address: "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        key: "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    },
    Account {
        address: "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
        key: "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    },
    Account {
        address: "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
        key: "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    },
    Account {
        address: "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
        key: "0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    },
    Account {
        address: "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
        key: "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
    },
];

/// A running chain with the token in place.
#[derive(Debug)]
pub(crate) struct Anvil {
    process: Process,
    url: String,
}

impl Anvil {
    /// A chain that mines each transaction at once.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further flags of anvil's, as `["--block-time", "2"]`.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let bin = require("npm-v2").join("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
        let mut command = supervised(bin);
        command.args(["--host", "127.0.0.1", "--port", "0", "--chain-id"]);
        command.arg(CHAIN_ID.to_string()).args(flags);
        let mut process = Process::start("anvil", command);
        let address = process.wait_for_line("Listening on ").await;
        let chain = Self {
            process,
            url: format!("http://{address}"),
        };
        chain.deploy().await;
        chain
    }

    async fn deploy(&self) {
        require("node");
        let output = tokio::process::Command::new("node")
            .arg(super::parts_dir().join("token/deploy.mjs"))
            .arg(&self.url)
            .arg(require("token").join("MockUSDC.json"))
            .kill_on_drop(true)
            .output()
            .await
            .unwrap_or_else(|error| panic!("cannot run node: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "deploying the token failed: {stderr}"
        );
    }

    /// Where its JSON-RPC is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Any JSON-RPC call; an error answer panics.
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = http::post_json(&self.url, &call)
            .await
            .unwrap_or_else(|error| panic!("{method}: {error}"))
            .json();
        match answer.get("result") {
            Some(result) => result.clone(),
            None => panic!("{method}: {answer}"),
        }
    }

    /// Tokens of an address, in atomic units.
    pub(crate) async fn balance_of(&self, address: &str) -> u128 {
        let owner = address.trim_start_matches("0x");
        let data = format!("0x70a08231{owner:0>64}"); // balanceOf(address)
        let word = self
            .rpc("eth_call", json!([{ "to": TOKEN, "data": data }, "latest"]))
            .await;
        let digits = word.as_str().unwrap_or_default().trim_start_matches("0x");
        u128::from_str_radix(digits, 16)
            .unwrap_or_else(|error| panic!("balance of {address}: {error}: {word}"))
    }

    /// Freezes the chain: calls to it hang until [`Anvil::resume`].
    pub(crate) async fn pause(&self) {
        self.process.freeze().await;
    }

    /// Wakes it; what was sent meanwhile is mined.
    pub(crate) fn resume(&self) {
        self.process.signal("CONT");
    }
}
