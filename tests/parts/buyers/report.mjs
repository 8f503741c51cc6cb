// What every buyer prints: one JSON line {"status", "body", "receipt"}; exit 1 unless the status is a 2xx.
export function report(status, text, receipt) {
  let body = text;
  if (typeof text === "string") {
    try { body = JSON.parse(text); } catch { /* not JSON: the text itself */ }
  }
  console.log(JSON.stringify({ status, body, receipt: receipt ?? null }, (key, value) => (typeof value === "bigint" ? value.toString() : value)));
  process.exitCode = status >= 200 && status < 300 ? 0 : 1;
}

export const MNEMONIC = "test test test test test test test test test test test junk";
