// The official TypeScript facilitator over anvil: node.sh v2 servers/facilitator.mjs PORT RPC [SETTLE_DELAY_MS]
//
// v2 for the chain behind RPC, and v1 `base-sepolia` if that is 84532. PORT 0 picks a free one; it prints
// `listening on URL` once it does, then one line per call. Pays gas from FACILITATOR_KEY (anvil's account 0).
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import express from "express";
import { createPublicClient, createWalletClient, defineChain, http, publicActions } from "viem";
import { nonceManager, privateKeyToAccount } from "viem/accounts";

const [port, rpc, delay = "0"] = process.argv.slice(2);
const id = await createPublicClient({ transport: http(rpc) }).getChainId();
const chain = defineChain({ id, name: "anvil", nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 }, rpcUrls: { default: { http: [rpc] } } });
const key = process.env.FACILITATOR_KEY ?? "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
// Without the nonce manager concurrent settlements fail ("Nonce provided ... lower").
const account = privateKeyToAccount(key, { nonceManager });
const wallet = createWalletClient({ account, chain, transport: http(rpc), pollingInterval: 50 }).extend(publicActions);
const signer = toFacilitatorEvmSigner({
  address: account.address,
  getCode: (q) => wallet.getCode(q),
  readContract: (q) => wallet.readContract({ ...q, args: q.args ?? [] }),
  sendTransaction: (q) => wallet.sendTransaction(q),
  verifyTypedData: (q) => wallet.verifyTypedData(q),
  waitForTransactionReceipt: (q) => wallet.waitForTransactionReceipt(q),
  writeContract: (q) => wallet.writeContract({ ...q, args: q.args ?? [] }),
});
const facilitator = new x402Facilitator().register(`eip155:${id}`, new ExactEvmScheme(signer));
if (id === 84532) facilitator.registerV1(["base-sepolia"], new ExactEvmSchemeV1(signer));

const answer = (name, work) => async (request, response) => {
  try {
    const verdict = await work(request.body.paymentPayload, request.body.paymentRequirements);
    console.log(new Date().toISOString(), name, JSON.stringify(verdict));
    response.json(verdict);
  } catch (error) {
    console.log(new Date().toISOString(), name, "error", error.message);
    response.status(500).json({ error: error.message });
  }
};
const app = express().use(express.json({ limit: "1mb" }));
app.get("/supported", (request, response) => response.json(facilitator.getSupported()));
app.post("/verify", answer("verify", (payload, requirements) => facilitator.verify(payload, requirements)));
app.post("/settle", answer("settle", async (payload, requirements) => {
  await new Promise((done) => setTimeout(done, Number(delay)));
  return facilitator.settle(payload, requirements);
}));
const server = app.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
