// Lets the scripts of this folder import packages that are installed outside the sources:
// `node --import tests/parts/resolve.mjs SCRIPT` with X402_NODE_ROOT = the folder that holds node_modules.
// Packages resolve their own imports as ever; only what our scripts name is looked up there.
import { register } from "node:module";
import { pathToFileURL } from "node:url";

const root = process.env.X402_NODE_ROOT;
if (!root) throw new Error("X402_NODE_ROOT is not set; run the scripts through tests/parts/node.sh");

const hook = `
  let ours, packages;
  export function initialize(data) { ({ ours, packages } = data); }
  export function resolve(name, context, next) {
    const bare = /^[@a-z]/i.test(name) && !/^[a-z]+:/i.test(name);
    return bare && context.parentURL?.startsWith(ours) ? next(name, { ...context, parentURL: packages }) : next(name, context);
  }`;
register(`data:text/javascript,${encodeURIComponent(hook)}`, {
  data: { ours: new URL("./", import.meta.url).href, packages: pathToFileURL(`${root}/`).href },
});
