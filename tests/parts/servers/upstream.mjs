// The seller's service behind Traefik: node servers/upstream.mjs PORT. Needs no package.
//
// Answers every request with JSON: what was asked and who paid. Traefik hands the gate's answer headers to the
// upstream only, so this one copies the receipt to its own response, as the documentation tells sellers to.
// PORT 0 picks a free one; it prints `listening on URL` once it does.
import http from "node:http";

const [port] = process.argv.slice(2);
const server = http.createServer((request, response) => {
  request.resume();
  for (const name of ["payment-response", "x-payment-response"]) {
    if (request.headers[name]) response.setHeader(name, request.headers[name]);
  }
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({
    method: request.method,
    url: request.url,
    payer: request.headers["x-payment-payer"] ?? null,
    message: "the paid answer",
  }));
});
server.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
