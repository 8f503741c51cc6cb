// The official v1 buyer x402-fetch: node.sh v1 buyers/v1.mjs URL ACCOUNT
import { toHex } from "viem";
import { mnemonicToAccount } from "viem/accounts";
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";
import { MNEMONIC, report } from "./report.mjs";

const [url, index] = process.argv.slice(2);
const account = mnemonicToAccount(MNEMONIC, { addressIndex: Number(index) });
const signer = await createSigner("base-sepolia", toHex(account.getHdKey().privateKey));
const response = await wrapFetchWithPayment(fetch, signer)(url);
const receipt = response.headers.get("X-PAYMENT-RESPONSE");
report(response.status, await response.text(), receipt && decodeXPaymentResponse(receipt));
