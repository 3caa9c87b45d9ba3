#!/usr/bin/env node
// The official TypeScript SDK, v1: Streamable HTTP in revision 2025-11-25, with sessions and streams that resume.

import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CallToolResultSchema,
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { assertProgress, Checks, offers, textOf, upTo, urlArgument } from "./checks.mjs";

const REVISION = "2025-11-25";
const url = urlArgument();
const checks = new Checks(`TypeScript SDK v1, ${REVISION}`);

/** A connected client. With `sessionId` it goes on with that session, as another process would. */
async function connect(sessionId) {
  const client = new Client({ name: "check", version: "1" }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { answer: "blue" } }));
  client.emitted = [];
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
    if (params.logger === "emit") client.emitted.push(params.data.n);
    client.onemit?.();
  });
  const transport = new StreamableHTTPClientTransport(url, { sessionId });
  // A client that goes on does not initialize, so nothing else tells it which revision the session speaks.
  if (sessionId) transport.setProtocolVersion(REVISION);
  await client.connect(transport);
  return client;
}

const call = (client, name, args, options) => client.callTool({ name, arguments: args }, undefined, options);

let client;

await checks.run("connects and gets a session", async () => {
  client = await connect();
  assert.equal(client.transport.protocolVersion, REVISION);
  assert.match(client.transport.sessionId, /^[\x21-\x7e]+$/);
});

await checks.run("lists the tools", async () => {
  const { tools } = await client.listTools();
  const names = tools.map(({ name }) => name);
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

await checks.run("ask is answered through elicitation", async () => {
  assert.equal(textOf(await call(client, "ask", { message: "Which color?" })), "blue");
});

await offers(checks, client);

await checks.run("an unknown tool and a missing argument are errors", async () => {
  await assert.rejects(call(client, "no_such_tool", {}), { code: -32602 });
  assert.equal((await call(client, "echo", {})).isError, true);
});

await checks.run("a cancelled call leaves the session usable", async () => {
  const abort = new AbortController();
  const sleeping = call(client, "sleep", { ms: 60_000 }, { signal: abort.signal });
  setTimeout(() => abort.abort("enough"), 200);
  await assert.rejects(sleeping);
  await client.ping();
});

await checks.run("counter goes on over a second connection with the same session id", async () => {
  const first = Number(textOf(await call(client, "counter", { by: 5 })));
  const second = await connect(client.transport.sessionId);
  assert.equal(Number(textOf(await call(second, "counter", { by: 2 }))), first + 2);
  await second.close();
});

await checks.run("a broken stream resumes on another connection: every message once, in order", async () => {
  const count = 40;
  const request = { method: "tools/call", params: { name: "emit", arguments: { count, interval_ms: 25 } } };
  const before = await connect();
  const { sessionId } = before.transport;
  await before.setLoggingLevel("info");
  let token;
  const options = { onresumptiontoken: (seen) => (token = seen) };
  before.onemit = () => {
    if (before.emitted.length === 10) void before.close();
  };
  await assert.rejects(before.request(request, CallToolResultSchema, options), /closed/);
  assert(token, "the stream's events had no ids");

  const after = await connect(sessionId);
  const result = await after.request(request, CallToolResultSchema, { resumptionToken: token });
  assert.match(textOf(result), /^emitted 40/);
  assert.deepEqual([...before.emitted, ...after.emitted], upTo(count));
  await after.close();
});

await checks.run("the end of the session is the end of it", async () => {
  const { sessionId } = client.transport;
  await client.transport.terminateSession();
  await client.close();
  const late = await connect(sessionId);
  await assert.rejects(late.ping(), { code: 404 });
});

Checks.exit(checks);
