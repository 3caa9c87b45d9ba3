#!/usr/bin/env node
// TypeScript SDKs of the past, each the last whose newest revision is the one it stands for: what clients of those years
// still run. 2024-11-05 over HTTP+SSE, as its SDK knew nothing else.

import assert from "node:assert/strict";
import { assertProgress, Checks, offers, progressOn, textOf, upTo, urlArgument } from "./checks.mjs";

const url = urlArgument();

/** The parts of the SDK in this package. */
async function sdk(name) {
  const part = (path) => import(`${name}/${path}.js`);
  const [client, types, streamable, sse] = await Promise.all([
    part("client/index"),
    part("types"),
    part("client/streamableHttp").catch(() => ({})),
    part("client/sse"),
  ]);
  return { ...client, ...types, ...streamable, ...sse };
}

async function run(revision, name, overSse) {
  const checks = new Checks(`TypeScript SDK ${name.split("@").at(-1)}, ${revision}`);
  const { Client, CallToolResultSchema, ElicitRequestSchema, LoggingMessageNotificationSchema, ...lib } = await sdk(
    `sdk-${revision}`,
  );

  async function connect(sessionId) {
    const capabilities = ElicitRequestSchema ? { elicitation: {} } : {};
    const client = new Client({ name: "check", version: "1" }, { capabilities });
    if (ElicitRequestSchema) {
      client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { answer: "blue" } }));
    }
    client.emitted = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      if (params.logger === "emit") client.emitted.push(params.data.n);
      client.onemit?.();
    });
    const transport = overSse
      ? new lib.SSEClientTransport(new URL("/sse", url))
      : new lib.StreamableHTTPClientTransport(url, { sessionId });
    // SDKs of 2025-06-18 send the revision along; with a session that goes on nothing has told them which.
    if (sessionId) transport.setProtocolVersion?.(revision);
    await client.connect(transport);
    return client;
  }
  const call = (client, tool, args, options) => client.callTool({ name: tool, arguments: args }, undefined, options);
  let client;

  await checks.run("connects", async () => {
    assert.equal(lib.LATEST_PROTOCOL_VERSION, revision, "the SDK is of another revision");
    client = await connect();
    assert.equal(client.getServerVersion().name, "outlast");
  });
  await checks.run("lists the tools", async () => {
    const names = (await client.listTools()).tools.map((tool) => tool.name);
    for (const wanted of ["echo", "sleep", "counter", "ask", "emit", "fill"]) assert(names.includes(wanted), wanted);
  });
  await checks.run("echo returns the message", async () => {
    const message = 'häh? "quoted" \u{1F980}\n';
    assert.equal(textOf(await call(client, "echo", { message })), message);
  });
  await checks.run("sleep reports progress", async () => {
    const reports = progressOn(client.transport);
    await call(client, "sleep", { ms: 450 }, { onprogress: () => {} });
    assertProgress(reports, 450);
  });
  if (ElicitRequestSchema) {
    await checks.run("ask is answered through elicitation", async () => {
      assert.equal(textOf(await call(client, "ask", { message: "Which color?" })), "blue");
    });
  }
  await checks.run("emit's messages come once each, in order", async () => {
    await client.setLoggingLevel("info");
    textOf(await call(client, "emit", { count: 20, interval_ms: 10 }));
    assert.deepEqual(client.emitted, upTo(20));
  });
  await offers(checks, client);
  await checks.run("an unknown tool and a missing argument are errors", async () => {
    await assert.rejects(call(client, "no_such_tool", {}), { code: -32602 });
    // Until 2025-11-25 said that the model shall read it, this was an error of the protocol.
    await assert.rejects(call(client, "echo", {}), { code: -32602 });
  });
  await checks.run("a cancelled call leaves the session usable", async () => {
    const abort = new AbortController();
    const sleeping = call(client, "sleep", { ms: 60_000 }, { signal: abort.signal });
    setTimeout(() => abort.abort("enough"), 200);
    await assert.rejects(sleeping);
    await client.ping();
  });
  if (!overSse) {
    await checks.run("a broken stream resumes on another connection: every message once, in order", async () => {
      const count = 40;
      const request = { method: "tools/call", params: { name: "emit", arguments: { count, interval_ms: 25 } } };
      const before = await connect();
      const { sessionId } = before.transport;
      await before.setLoggingLevel("info");
      let token;
      before.onemit = () => {
        if (before.emitted.length === 10) void before.close();
      };
      const options = { onresumptiontoken: (seen) => (token = seen) };
      await assert.rejects(before.request(request, CallToolResultSchema, options), /closed/);
      assert(token, "the stream's events had no ids");
      const after = await connect(sessionId);
      const result = await after.request(request, CallToolResultSchema, { resumptionToken: token });
      assert.match(textOf(result), /^emitted 40/);
      assert.deepEqual([...before.emitted, ...after.emitted], upTo(count));
      await after.close();
    });
  }
  await checks.run("closes", () => client.close());
  return checks;
}

const done = [];
for (const [revision, version, overSse] of [
  ["2024-11-05", "1.9.0", true],
  ["2025-03-26", "1.12.3", false],
  ["2025-06-18", "1.22.0", false],
]) {
  done.push(await run(revision, `@${version}`, overSse));
}
Checks.exit(...done);
