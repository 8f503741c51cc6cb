// Token balances of the development accounts: node balances.mjs RPC. One JSON object, address to atomic units.
const [rpc] = process.argv.slice(2);
const token = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

const call = async (method, ...params) => {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = await (await fetch(rpc, { method: "POST", headers: { "content-type": "application/json" }, body })).json();
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
};
const balanceOf = (account) => call("eth_call", { to: token, data: `0x70a08231${account.slice(2).padStart(64, "0")}` }, "latest");

const accounts = await call("eth_accounts");
const balances = await Promise.all(accounts.map(async (account) => [account, BigInt(await balanceOf(account)).toString()]));
console.log(JSON.stringify(Object.fromEntries(balances)));
