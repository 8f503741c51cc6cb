// The official v2 buyer @x402/fetch: node.sh v2 buyers/fetch.mjs URL ACCOUNT
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { mnemonicToAccount } from "viem/accounts";
import { MNEMONIC, report } from "./report.mjs";

const [url, index] = process.argv.slice(2);
const account = mnemonicToAccount(MNEMONIC, { addressIndex: Number(index) });
const client = x402Client.fromConfig({ schemes: [{ network: "eip155:*", client: new ExactEvmScheme(account) }] });
const response = await wrapFetchWithPayment(fetch, client)(url);
const receipt = response.headers.get("PAYMENT-RESPONSE");
report(response.status, await response.text(), receipt && decodePaymentResponseHeader(receipt));
