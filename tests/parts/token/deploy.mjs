// Puts the compiled token where buyers expect USDC: node deploy.mjs RPC TOKEN_JSON. Needs no package.
//
// Unmodified buyers pay in the asset they know for a network, so the code goes to Base Sepolia's USDC
// address (chain 84532), with its EIP-712 name and version. Accounts 1 to 9 but the payee (4) get 1000 USDC.
// Multicall3 goes to its usual address, as on every real chain: with it the facilitator finds out why a payment
// would fail; its code is among viem's constants, beside the token in the tools' folder.
// Prints what is there now as one JSON line.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [rpc, artefact] = process.argv.slice(2);
const token = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const multicall3 = "0xcA11bde05977b3631167028862bE2a173976CA11";
const payee = 4;
const minted = 1_000_000_000n;

const call = async (method, ...params) => {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = await (await fetch(rpc, { method: "POST", headers: { "content-type": "application/json" }, body })).json();
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
};
const word = (value) => BigInt(value).toString(16).padStart(64, "0");
// Solidity keeps a string shorter than 32 bytes in its slot: the bytes from the left, twice the length in the last one.
const shortString = (text) => Buffer.from(text).toString("hex").padEnd(62, "0") + (text.length * 2).toString(16).padStart(2, "0");

await call("anvil_setCode", token, JSON.parse(fs.readFileSync(artefact)).deployed);
for (const [slot, text] of [[0, "USDC"], [1, "2"], [2, "USDC"]]) { // name, version, symbol
  await call("anvil_setStorageAt", token, `0x${word(slot)}`, `0x${shortString(text)}`);
}
const constants = path.resolve(artefact, "../../npm-v2/node_modules/viem/_esm/constants/contracts.js");
const { multicall3Bytecode } = await import(pathToFileURL(constants));
await call("anvil_setCode", multicall3, await call("eth_call", { data: multicall3Bytecode }, "latest"));
const accounts = await call("eth_accounts");
const mints = [];
for (const [index, account] of accounts.entries()) {
  if (index === 0 || index === payee) continue;
  const data = `0x40c10f19${word(account)}${word(minted)}`; // mint(address,uint256)
  mints.push(await call("eth_sendTransaction", { from: accounts[0], to: token, data, gas: "0x30d40" }));
}
for (const hash of mints) {
  let receipt = null; // a hash is known before its block is mined
  for (let tries = 0; receipt === null && tries < 3000; tries++) {
    receipt = await call("eth_getTransactionReceipt", hash);
    if (receipt === null) await new Promise((done) => setTimeout(done, 10));
  }
  if (receipt?.status !== "0x1") throw new Error(`minting ${hash} failed`);
}
const domainSeparator = await call("eth_call", { to: token, data: "0x3644e515" }, "latest"); // DOMAIN_SEPARATOR()
// What Circle's own contract answers at this address on this chain; anything else and no signature would pass.
if (!domainSeparator.startsWith("0x71f17a3b")) throw new Error(`unexpected domain separator ${domainSeparator}`);
console.log(JSON.stringify({ chainId: Number(await call("eth_chainId")), token, domainSeparator, accounts }));
