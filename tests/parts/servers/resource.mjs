// The official Express middleware guarding GET /paid for $0.001: node.sh v2 servers/resource.mjs PORT FACILITATOR_URL
//
// A known good seller for proving buyers, and the Express peer of the load comparison. PORT 0 picks a free one;
// it prints `listening on URL` once it does.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import express from "express";

const [port, facilitator] = process.argv.slice(2);
const network = "eip155:84532";
const payTo = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"; // anvil's account 4
const price = { scheme: "exact", network, payTo, price: "$0.001", maxTimeoutSeconds: 120 };
const seller = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitator })).register(network, new ExactEvmScheme());

const app = express();
app.get("/free", (request, response) => response.json({ free: true }));
app.use(paymentMiddleware({ "GET /paid": { accepts: price, description: "test resource", mimeType: "application/json" } }, seller));
app.get("/paid", (request, response) => response.json({ secret: 42 }));
const server = app.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
