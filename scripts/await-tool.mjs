// usage: node await-tool.mjs URL TOOL PID
// Waits until the server at URL says that it is ready and lists TOOL. Gives up when process PID, the server, has ended.

import { setTimeout as sleep } from "node:timers/promises";

const [url, tool, pid] = process.argv.slice(2);
const DEADLINE_MS = 60_000;
const META = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientCapabilities": {},
};

/** Sends one stateless request: there is no session to leave behind. */
async function listed() {
  const names = [];
  let cursor;
  do {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        "mcp-protocol-version": META["io.modelcontextprotocol/protocolVersion"],
        "mcp-method": "tools/list",
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: { cursor, _meta: META } }),
      signal: AbortSignal.timeout(10_000),
    });
    const body = await response.text();
    const stream = response.headers.get("content-type")?.startsWith("text/event-stream");
    const data = stream ? body.split("\n").findLast((line) => line.startsWith("data:")).slice("data:".length) : body;
    const { result, error } = JSON.parse(data);
    if (error) throw new Error(`tools/list: ${error.message}`);
    names.push(...result.tools.map(({ name }) => name));
    cursor = result.nextCursor;
  } while (cursor !== undefined);
  return names;
}

async function ready() {
  const response = await fetch(new URL("/readyz", url), { signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(`/readyz: ${response.status} ${await response.text()}`);
  const names = await listed();
  if (!names.includes(tool)) throw new Error(`tools/list: no ${tool} in ${names.join(", ")}`);
}

/** Whether the process is there. */
function lives() {
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch {
    return false;
  }
}

const start = Date.now();
for (;;) {
  try {
    await ready();
    process.exit(0);
  } catch (error) {
    const why = error.cause?.message ?? error.message;
    if (!lives() || Date.now() - start > DEADLINE_MS) {
      console.error(`${lives() ? "not ready" : "the server has ended"}: ${why}`);
      process.exit(1);
    }
  }
  await sleep(100);
}
