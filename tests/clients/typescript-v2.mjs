#!/usr/bin/env node
// The official TypeScript SDK, v2: revision 2026-07-28 pinned, found by itself, and the handshake of 2025-11-25.

import assert from "node:assert/strict";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { assertProgress, Checks, offers, textOf, upTo, urlArgument } from "./checks.mjs";

const MODERN = "2026-07-28";
const url = urlArgument();

async function connect(mode) {
  const options = { capabilities: { elicitation: {} }, versionNegotiation: { mode } };
  const client = new Client({ name: "check", version: "1" }, options);
  client.setRequestHandler("elicitation/create", () => ({ action: "accept", content: { answer: "blue" } }));
  client.emitted = [];
  client.setNotificationHandler("notifications/message", ({ params }) => {
    if (params.logger === "emit") client.emitted.push(params.data.n);
  });
  await client.connect(new StreamableHTTPClientTransport(url));
  return client;
}

const call = (client, name, args, options, _meta) => client.callTool({ name, arguments: args, _meta }, options);

/** What holds in every era. */
async function common(checks, mode, revision) {
  let client;
  await checks.run("connects", async () => {
    client = await connect(mode);
    assert.equal(client.getNegotiatedProtocolVersion(), revision);
  });
  await checks.run("lists the tools", async () => {
    const names = (await client.listTools()).tools.map(({ name }) => name);
    for (const name of ["echo", "sleep", "counter", "ask", "emit", "fill"]) assert(names.includes(name), `no ${name}`);
  });
  await checks.run("echo returns the message", async () => {
    const message = 'häh? "quoted" \u{1F980}\n';
    assert.equal(textOf(await call(client, "echo", { message })), message);
  });
  await checks.run("sleep reports progress", async () => {
    const reports = [];
    await call(client, "sleep", { ms: 450 }, { onprogress: (report) => reports.push(report) });
    assertProgress(reports, 450);
  });
  await checks.run("ask is answered", async () => {
    assert.equal(textOf(await call(client, "ask", { message: "Which color?" })), "blue");
  });
  await offers(checks, client);
  await checks.run("an unknown tool and a missing argument are errors", async () => {
    await assert.rejects(call(client, "no_such_tool", {}), { code: -32602 });
    assert.equal((await call(client, "echo", {})).isError, true);
  });
  await checks.run("a cancelled call leaves the server usable", async () => {
    const abort = new AbortController();
    const sleeping = call(client, "sleep", { ms: 60_000 }, { signal: abort.signal });
    setTimeout(() => abort.abort("enough"), 200);
    await assert.rejects(sleeping);
    assert.equal(textOf(await call(client, "echo", { message: "still here" })), "still here");
  });
  return client;
}

const modern = new Checks(`TypeScript SDK v2, ${MODERN}`);
const client = await common(modern, { pin: MODERN }, MODERN);

await modern.run("counter goes on under its handle over a second connection", async () => {
  const { value, handle } = (await call(client, "counter", { by: 5 })).structuredContent;
  const second = await connect({ pin: MODERN });
  assert.equal((await call(second, "counter", { by: 2, handle })).structuredContent.value, value + 2);
  await second.close();
  assert.equal((await call(client, "counter", { handle: `${handle}x` })).isError, true);
});

await modern.run("logs come to who asks for them, and to nobody else", async () => {
  textOf(await call(client, "emit", { count: 3, interval_ms: 10 }));
  assert.deepEqual(client.emitted, []);
  const level = { "io.modelcontextprotocol/logLevel": "info" };
  textOf(await call(client, "emit", { count: 20, interval_ms: 10 }, undefined, level));
  assert.deepEqual(client.emitted, upTo(20));
});
await modern.run("closes", () => client.close());

const auto = new Checks("TypeScript SDK v2, auto");
await (await common(auto, "auto", MODERN))?.close();

const legacy = new Checks("TypeScript SDK v2, 2025-11-25");
await (await common(legacy, "legacy", "2025-11-25"))?.close();

Checks.exit(modern, auto, legacy);
