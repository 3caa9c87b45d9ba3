// One line per check, and an exit code: what the JavaScript clients have in common.

import assert from "node:assert/strict";

const DEADLINE_MS = 20_000;

/** Runs `body` as a check of this name; a check that fails does not keep the next from running. */
export class Checks {
  #client;
  #failed = 0;

  constructor(client) {
    this.#client = client;
  }

  async run(name, body) {
    let timer;
    const deadline = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no end after ${DEADLINE_MS} ms`)), DEADLINE_MS);
    });
    try {
      await Promise.race([body(), deadline]);
      console.log(`ok    ${this.#client}: ${name}`);
    } catch (error) {
      this.#failed += 1;
      console.log(`FAIL  ${this.#client}: ${name}: ${error.message.replaceAll("\n", " ")}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the process, because a client whose check failed may hold connections open. */
  static exit(...all) {
    process.exit(all.every((checks) => checks.#failed === 0) ? 0 : 1);
  }
}

/** The server's URL, from the command line. */
export function urlArgument() {
  const [url] = process.argv.slice(2);
  if (!url) {
    console.error("usage: node CLIENT.mjs http://127.0.0.1:PORT/mcp");
    process.exit(2);
  }
  return new URL(url);
}

/** The text of a tool result that is no error. */
export function textOf(result) {
  const text = result.content.map((block) => block.text ?? `[${block.type}]`).join("\n");
  assert(!result.isError, text);
  return text;
}

/** Holds a list of `{ progress, total }` to what `sleep` reports about so many milliseconds. */
export function assertProgress(reports, total) {
  assert(reports.length >= 2, `${reports.length} progress reports`);
  for (const [i, report] of reports.entries()) {
    assert.equal(report.total, total);
    assert(i === 0 || report.progress > reports[i - 1].progress, "progress grows");
  }
}

/**
 * The progress reports as they reach a client's transport. The SDKs hand a notification on a moment later than a result,
 * and forget with the result whom progress was for: what comes in one piece with it over HTTP+SSE, because the process
 * had to wait for a processor, never gets to `onprogress`.
 */
export function progressOn(transport) {
  const reports = [];
  const { onmessage } = transport;
  transport.onmessage = (message, ...rest) => {
    if (message.method === "notifications/progress") reports.push(message.params);
    onmessage.call(transport, message, ...rest);
  };
  return reports;
}

/** 1, 2, … count. */
export const upTo = (count) => Array.from({ length: count }, (_, i) => i + 1);

/** Prompts, resources and completion, which the hosted fixture of the conformance suite has. */
export async function offers(checks, client) {
  await checks.run("lists and gets prompts", async () => {
    const { prompts } = await client.listPrompts();
    assert(prompts.some(({ name }) => name === "test_simple_prompt"));
    const { messages } = await client.getPrompt({ name: "test_simple_prompt" });
    assert.equal(messages[0].content.text, "This is a simple prompt for testing.");
  });
  await checks.run("lists and reads resources", async () => {
    const uri = "test://static-text";
    const { resources } = await client.listResources();
    assert(resources.some((resource) => resource.uri === uri));
    const { contents } = await client.readResource({ uri });
    assert.equal(contents[0].text, "This is the content of the static text resource.");
  });
  await checks.run("completes an argument", async () => {
    const ref = { type: "ref/prompt", name: "test_prompt_with_arguments" };
    const { completion } = await client.complete({ ref, argument: { name: "arg1", value: "par" } });
    assert(Array.isArray(completion.values));
  });
}
