#!/usr/bin/env node
// Compares what a remote server answers directly with what it answers through Outlast, with the official TypeScript SDKs of
// both eras. usage: remote.mjs DIRECT-URL OUTLAST-URL SERVER-PID

import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { Checks } from "./checks.mjs";

const [direct, through, pid] = process.argv.slice(2);
const checks = new Checks("a TypeScript SDK server behind Outlast");

async function connect(url) {
  const client = new Client({ name: "check", version: "1" }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { answer: "blue" } }));
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  return client;
}

/** What both answer, as far as it is the server's: `execution` and `_meta` of a tool may be of whoever lists it. */
const plain = (answer) => JSON.parse(JSON.stringify(answer, (key, value) => (key === "_meta" ? undefined : value)));

const there = await connect(direct);
const here = await connect(through);

const same = (name, ask) => checks.run(name, async () => assert.deepEqual(plain(await ask(here)), plain(await ask(there))));

await same("lists the same tools", (client) => client.listTools());
await same("lists the same prompts", (client) => client.listPrompts());
await same("lists the same resources", (client) => client.listResources());
await same("lists the same templates", (client) => client.listResourceTemplates());
for (const [name, args] of [
  ["echo", { message: 'häh? "quoted" \u{1F980}\n' }],
  ["count", {}],
  ["count", {}],
  ["add", { a: 1, b: 2.5 }],
  ["fail", {}],
  ["ask", {}],
  ["work", {}],
]) {
  await same(`${name} ${JSON.stringify(args)} answers the same`, (client) => client.callTool({ name, arguments: args }));
}
await checks.run("arguments that do not fit are a failed call on both, each in its own words", async () => {
  for (const client of [here, there]) {
    const told = await client.callTool({ name: "echo", arguments: {} });
    assert.equal(told.isError, true, JSON.stringify(told));
    assert.match(told.content[0].text, /message/, "it says which one");
  }
});
await same("fills in a prompt", (client) => client.getPrompt({ name: "greet", arguments: { who: "Ada" } }));
await same("reads a resource", (client) => client.readResource({ uri: "test://note" }));
await same("reads one of a template", (client) => client.readResource({ uri: "test://item/7" }));

await checks.run("progress comes", async () => {
  const reports = [];
  await here.callTool({ name: "work", arguments: {} }, undefined, { onprogress: (report) => reports.push(report.progress) });
  assert.deepEqual(reports, [1, 2, 3]);
});

await checks.run("a session that the server lost is made anew, and that is told once", async () => {
  process.kill(Number(pid), "SIGUSR2");
  await new Promise((done) => setTimeout(done, 300));
  const first = await here.callTool({ name: "count", arguments: {} });
  assert.equal(first.content[0].text, "1");
  assert(first._meta?.["outlast/startedAnew"], JSON.stringify(first));
  const second = await here.callTool({ name: "count", arguments: {} });
  assert.equal(second.content[0].text, "2");
  assert(!second._meta?.["outlast/startedAnew"]);
});

await here.close();
await there.close().catch(() => {});
Checks.exit(checks);
