#!/usr/bin/env node
// A server made with the official TypeScript SDK v1, over Streamable HTTP with sessions: what scripts/upstreams.sh puts
// behind Outlast. usage: remote-server.mjs PORT (0: any; the address is printed). SIGUSR2: forgets all its sessions.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { McpServer, ResourceTemplate } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

const sessions = new Map();

function build() {
  const server = new McpServer({ name: "remote", version: "1.0.0" }, { capabilities: { logging: {} } });
  const said = (text) => ({ content: [{ type: "text", text }] });
  let count = 0;
  server.registerTool("echo", { description: "says it again", inputSchema: { message: z.string() } }, ({ message }) => said(message));
  server.registerTool("count", { description: "counts in its session" }, () => said(String(++count)));
  server.registerTool("add", {
    description: "adds",
    inputSchema: { a: z.number(), b: z.number() },
    outputSchema: { sum: z.number() },
    annotations: { readOnlyHint: true },
  }, ({ a, b }) => ({ ...said(String(a + b)), structuredContent: { sum: a + b } }));
  server.registerTool("fail", { description: "fails" }, () => ({ ...said("as it should"), isError: true }));
  server.registerTool("ask", { description: "asks its user" }, async () => {
    const answer = await server.server.elicitInput({
      message: "which color?",
      requestedSchema: { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] },
    });
    return said(JSON.stringify([answer.action, answer.content]));
  });
  server.registerTool("work", { description: "takes a while" }, async (extra) => {
    for (let progress = 1; progress <= 3; progress++) {
      await new Promise((done) => setTimeout(done, 100));
      if (extra._meta?.progressToken !== undefined) {
        await extra.sendNotification({
          method: "notifications/progress",
          params: { progressToken: extra._meta.progressToken, progress, total: 3 },
        });
      }
    }
    return said("worked");
  });
  server.registerPrompt("greet", { description: "greets", argsSchema: { who: z.string() } }, ({ who }) => ({
    messages: [{ role: "user", content: { type: "text", text: `Hello, ${who}!` } }],
  }));
  server.registerResource("note", "test://note", { mimeType: "text/plain" }, (uri) => ({
    contents: [{ uri: uri.href, text: "a note" }],
  }));
  server.registerResource("item", new ResourceTemplate("test://item/{id}", { list: undefined }), {}, (uri, { id }) => ({
    contents: [{ uri: uri.href, text: `item ${id}` }],
  }));
  return server;
}

const http = createServer(async (request, response) => {
  const id = request.headers["mcp-session-id"];
  const refuse = (status, message) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify({ jsonrpc: "2.0", error: { code: -32000, message }, id: null }));
  };
  let body;
  if (request.method === "POST") {
    const parts = [];
    for await (const part of request) parts.push(part);
    try {
      body = JSON.parse(Buffer.concat(parts).toString());
    } catch {
      return refuse(400, "Parse error");
    }
  }
  let transport = sessions.get(id);
  if (!transport && id) return refuse(404, "Session not found");
  if (!transport && body?.method === "initialize") {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized: (made) => sessions.set(made, transport),
    });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await build().connect(transport);
  }
  if (!transport) return refuse(400, "Bad Request: Server not initialized");
  await transport.handleRequest(request, response, body);
});

process.on("SIGUSR2", () => {
  const all = [...sessions.values()];
  sessions.clear();
  for (const transport of all) transport.close();
  console.log(`forgot ${all.length} sessions`);
});

http.listen(Number(process.argv[2] ?? 0), "127.0.0.1", () => console.log(`http://127.0.0.1:${http.address().port}/mcp`));
