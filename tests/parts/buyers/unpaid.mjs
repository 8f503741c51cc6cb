// Asks without paying: node buyers/unpaid.mjs URL. One JSON line {"status", "body", "challenge"}, where challenge is
// the decoded PAYMENT-REQUIRED header. Needs no package; any answer is a success.
const [url] = process.argv.slice(2);
const response = await fetch(url);
const header = response.headers.get("payment-required");
const text = await response.text();
let body = text;
try { body = JSON.parse(text); } catch { /* not JSON: the text itself */ }
const challenge = header ? JSON.parse(Buffer.from(header, "base64")) : null;
console.log(JSON.stringify({ status: response.status, body, challenge }));
