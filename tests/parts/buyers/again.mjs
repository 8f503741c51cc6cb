// Tries to get more than was paid for: node.sh v2 buyers/again.mjs URL ACCOUNT
//
// Pays with the official @x402/fetch and keeps the payment that it sent, then presents it again, then presents a new
// one whose amount was changed after signing. One JSON line {"paid", "replay", "tampered"}, each {"status","reason"};
// any outcome is a success of this script.
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { mnemonicToAccount } from "viem/accounts";
import { MNEMONIC } from "./report.mjs";

const [url, index] = process.argv.slice(2);
const account = mnemonicToAccount(MNEMONIC, { addressIndex: Number(index) });
const client = x402Client.fromConfig({ schemes: [{ network: "eip155:*", client: new ExactEvmScheme(account) }] });
const outcome = async (response) => ({ status: response.status, reason: response.headers.get("x-payment-error") ?? "" });
const present = async (payment) => outcome(await fetch(url, { headers: { "payment-signature": payment } }));

// A fetch that remembers the payment; with `send` false it does not let it out.
const signed = async (send) => {
  let payment;
  const recording = async (input, init) => {
    const request = new Request(input, init);
    payment = request.headers.get("payment-signature") ?? payment;
    return payment && !send ? new Response("kept") : fetch(request);
  };
  return { response: await wrapFetchWithPayment(recording, client)(url), payment };
};

const { response, payment } = await signed(true);
const paid = await outcome(response);
const replay = await present(payment);
const cheaper = JSON.parse(Buffer.from((await signed(false)).payment, "base64"));
cheaper.payload.authorization.value = "1";
const tampered = await present(Buffer.from(JSON.stringify(cheaper)).toString("base64"));
console.log(JSON.stringify({ paid, replay, tampered }));
