// The page of the HTTP interface: every operation can be shown.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { inWords, lines, resolve } from "./docs.js";

const api = JSON.parse(readFileSync(new URL("openapi.json", import.meta.url), "utf8"));

test("every operation says what it takes and answers", () => {
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const shown = lines(api, operation);
      assert.ok(shown.some(([name]) => /^[1-5]\d\d$/.test(name)), `${method} ${path}`);
      for (const [name, words] of shown) assert.ok(name && !/undefined/.test(`${name} ${words}`), `${method} ${path}: ${name} ${words}`);
    }
  }
});

test("every reference leads somewhere", () => {
  const walk = (node) => {
    if (node?.$ref) assert.ok(resolve(api, node), node.$ref);
    if (node && typeof node === "object") Object.values(node).forEach(walk);
  };
  walk(api);
});

test("a schema is told in one line", () => {
  const schema = { required: ["a"], properties: { a: { type: "string" }, b: { type: "array", items: { type: "integer" } } } };
  assert.equal(inWords(schema), "{ a: string, b?: integer[] }");
});
