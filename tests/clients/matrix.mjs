#!/usr/bin/env node
// usage: node matrix.mjs CHECKS-LOG [DOCUMENT]
// Which client does what in which revision, from the lines of the clients' checks, as a table. With DOCUMENT: fails when
// the table there, between the marks, says something else.

import { readFileSync } from "node:fs";

const FEATURES = [
  ["tools", /lists the tools/],
  ["call", /echo returns/],
  ["progress", /progress/],
  ["state", /counter/],
  ["questions", /^ask is/],
  ["logs", /^emit's|^logs come/],
  ["prompts", /prompts/],
  ["resources", /resources/],
  ["completion", /completes/],
  ["cancel", /cancelled/],
  ["resume", /resumes/],
  ["errors", /are errors/],
];
const BEGIN = "<!-- clients: begin -->";
const END = "<!-- clients: end -->";

const [log, file] = process.argv.slice(2);
const rows = new Map();
for (const line of readFileSync(log, "utf8").split("\n")) {
  const [, verdict, client, check] = /^(ok {4}|FAIL {2})(.*?): (.*)$/.exec(line) ?? [];
  if (!check) continue;
  const row = rows.get(client) ?? rows.set(client, new Map()).get(client);
  for (const [feature, pattern] of FEATURES) {
    if (!pattern.test(check)) continue;
    const passed = verdict.startsWith("ok") && row.get(feature) !== "**no**";
    row.set(feature, passed ? "yes" : "**no**");
  }
}
const line = (cells) => `| ${cells.join(" | ")} |`;
const table = [
  line(["client", "revision", ...FEATURES.map(([feature]) => feature)]),
  line(["---", "---", ...FEATURES.map(() => "---")]),
  ...[...rows].map(([client, row]) => {
    const [name, revision = "auto"] = client.split(", ");
    return line([name, revision, ...FEATURES.map(([feature]) => row.get(feature) ?? "–")]);
  }),
].join("\n");
console.log(`\n${table}\n`);

if (file) {
  const text = readFileSync(file, "utf8");
  const held = text.includes(BEGIN) ? text.slice(text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)).trim() : "";
  if (held !== table) {
    console.error(`${file} shows another table of clients between ${BEGIN} and ${END}: put the one above there`);
    process.exit(1);
  }
}
