// The official v2 buyer @x402/axios: node.sh v2 buyers/axios.mjs URL ACCOUNT
import axios from "axios";
import { decodePaymentResponseHeader, wrapAxiosWithPayment, x402Client } from "@x402/axios";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { mnemonicToAccount } from "viem/accounts";
import { MNEMONIC, report } from "./report.mjs";

const [url, index] = process.argv.slice(2);
const account = mnemonicToAccount(MNEMONIC, { addressIndex: Number(index) });
const client = new x402Client().register("eip155:*", new ExactEvmScheme(account));
// axios throws for a status that is not a 2xx; the answer is then in the error.
const response = await wrapAxiosWithPayment(axios.create(), client).get(url).catch((error) => {
  if (!error.response) throw error;
  return error.response;
});
const receipt = response.headers["payment-response"];
report(response.status, response.data, receipt && decodePaymentResponseHeader(receipt));
