// Shows /v1/openapi.json to people: a section for each tag, an entry for each operation.

/** What a reference stands for; anything else stands for itself. */
export const resolve = (api, node) =>
  node?.$ref ? node.$ref.slice(2).split("/").reduce((at, name) => at[name], api) : node;

/** A schema in one line. @returns {string} */
export function inWords(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `${inWords(schema.items)}[]`;
  if (!schema.properties) return [schema.type].flat().join(" | ");
  const optional = (name) => (schema.required?.includes(name) ? "" : "?");
  const members = Object.entries(schema.properties).map(([name, of]) => `${name}${optional(name)}: ${inWords(of)}`);
  return `{ ${members.join(", ")} }`;
}

/** What an operation takes and answers, as pairs of a name and words. @returns {[string, string][]} */
export function lines(api, operation) {
  const parameters = (operation.parameters ?? []).map((given) => resolve(api, given));
  const takes = parameters.map(({ name, in: place, description = "" }) => [`${name} (${place})`, description]);
  const body = operation.requestBody?.content["application/json"].schema;
  const answers = Object.entries(operation.responses).map(([status, given]) => {
    const { description, content } = resolve(api, given);
    return [status, [description, inWords(content?.["application/json"]?.schema)].filter(Boolean).join(" ")];
  });
  return [...takes, ...(body ? [["body", inWords(resolve(api, body))]] : []), ...answers];
}

function element(name, text, ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function entry(api, path, method, operation) {
  const list = lines(api, operation).flatMap(([name, words]) => [element("dt", name), element("dd", words)]);
  const title = element("summary", "", element("code", `${method.toUpperCase()} ${path}`), " ", element("span", operation.summary));
  return element("details", "", title, element("p", operation.description ?? ""), element("dl", "", ...list));
}

async function show(main) {
  const api = await (await fetch("/v1/openapi.json")).json();
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  for (const { name } of api.tags) {
    main.append(element("h2", name));
    for (const { path, method, operation } of operations) {
      if (operation.tags.includes(name)) main.append(entry(api, path, method, operation));
    }
  }
  main.append(element("h2", "schemas"));
  const schemas = Object.entries(api.components.schemas).flatMap(([name, of]) => [element("dt", name), element("dd", inWords(of))]);
  main.append(element("dl", "", ...schemas));
}

if (globalThis.document) show(document.querySelector("main"));
