// Compiles MockUSDC.sol: node.sh v2 token/compile.mjs OUTPUT_FILE. Warnings go to stderr, errors end it.
import fs from "node:fs";
import solc from "solc";

const [output] = process.argv.slice(2);
const content = fs.readFileSync(new URL("MockUSDC.sol", import.meta.url), "utf8");
const compiled = JSON.parse(solc.compile(JSON.stringify({
  language: "Solidity",
  sources: { "MockUSDC.sol": { content } },
  settings: {
    evmVersion: "paris",
    viaIR: true,
    optimizer: { enabled: true, runs: 200 },
    outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
  },
})));
for (const problem of compiled.errors ?? []) console.error(problem.formattedMessage);
const token = compiled.contracts?.["MockUSDC.sol"]?.MockUSDC;
if (!token) process.exit(1);
fs.writeFileSync(output, JSON.stringify({ abi: token.abi, deployed: `0x${token.evm.deployedBytecode.object}` }));
