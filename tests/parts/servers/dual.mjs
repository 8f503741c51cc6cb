// A seller that serves v1 and v2 buyers with one 402, as the verifier does: node servers/dual.mjs PORT FACILITATOR_URL
//
// It proves the parts before the verifier is among them. Every path costs 0.001 USDC; v2 in PAYMENT-REQUIRED, v1 in
// the body. Needs no package. PORT 0 picks a free one; it prints `listening on URL` once it does.
import http from "node:http";

const [port, facilitator] = process.argv.slice(2);
const price = {
  scheme: "exact",
  payTo: "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65", // anvil's account 4
  asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
  maxTimeoutSeconds: 60,
  extra: { name: "USDC", version: "2" },
};
const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64");
const ask = async (path, body) => (await fetch(facilitator + path, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
})).json();

const server = http.createServer(async (request, response) => {
  const resource = `http://${request.headers.host}${request.url}`;
  const v1 = { ...price, network: "base-sepolia", maxAmountRequired: "1000", resource, description: "test", mimeType: "application/json" };
  const v2 = { ...price, network: "eip155:84532", amount: "1000" };
  const send = (status, headers, body) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(body));
  };
  const header = request.headers["payment-signature"] ?? request.headers["x-payment"];
  if (!header) {
    const required = { x402Version: 2, error: "Payment required", resource: { url: resource, description: "test", mimeType: "application/json" }, accepts: [v2] };
    return send(402, { "payment-required": base64(required) }, { x402Version: 1, error: "X-PAYMENT header is required", accepts: [v1] });
  }
  const paymentPayload = JSON.parse(Buffer.from(header, "base64"));
  const x402Version = paymentPayload.x402Version;
  const question = { x402Version, paymentPayload, paymentRequirements: x402Version === 2 ? v2 : v1 };
  const verdict = await ask("/verify", question);
  if (!verdict.isValid) return send(402, {}, verdict);
  const receipt = await ask("/settle", question);
  return send(receipt.success ? 200 : 402, { [x402Version === 2 ? "payment-response" : "x-payment-response"]: base64(receipt) }, { paid: receipt.success, x402Version });
});
server.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
