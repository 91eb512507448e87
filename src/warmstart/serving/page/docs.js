// The OpenAPI description as a plain page.
const $ = (id) => document.getElementById(id);

function element(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

function list(title, pairs) {
  if (!pairs.length) return [];
  const items = pairs.flatMap(([name, text]) => [element("dt", "", element("code", name)), element("dd", text)]);
  return [element("h3", title), element("dl", "", ...items)];
}

function folded(title, pairs) {
  const node = element("details", "", element("summary", title));
  node.append(...list("", pairs).slice(1));
  return node;
}

// A type in words: `number or null`, `Neighbour[]`.
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.prefixItems) return `[${schema.prefixItems.map(kind).join(", ")}]`;
  if (schema.type === "array") return `${kind(schema.items)}[]`;
  if (schema.format === "binary" || schema.contentMediaType) return "file";
  if (schema.additionalProperties?.type) return `object of ${schema.additionalProperties.type}`;
  return schema.type || "any";
}

function fields(schema, parts) {
  const own = schema?.$ref ? parts[schema.$ref.split("/").at(-1)] : schema;
  return Object.entries(own?.properties ?? {}).map(([name, one]) => [
    name, [kind(one), one.description].filter(Boolean).join(": "),
  ]);
}

// An example file for each content type.
const FILES = { "image/*": "photo.jpg", "audio/*": "clip.wav", "text/plain": "new.txt", "text/csv": "new.csv" };

function example(method, path, operation) {
  const where = `${location.origin}${path.replace("{index}", "0")}`;
  const header = sessionStorage.getItem("token") ? ' -H "Authorization: Bearer $WARMSTART_TOKEN"' : "";
  const file = FILES[Object.keys(operation.requestBody?.content ?? {}).find((type) => FILES[type])];
  return `curl${header} ${file ? `-F file=@${file} ` : ""}${where}`;
}

function section(method, path, operation, parts) {
  const body = Object.entries(operation.requestBody?.content ?? {});
  const good = operation.responses["200"]?.content?.["application/json"]?.schema;
  const shapes = new Set([...fields(good, parts).map(([, text]) => text.match(/^(\w+)\[\]/)?.[1])].filter((name) => parts[name]));
  return element(
    "section", "",
    element("h2", "", element("code", `${method.toUpperCase()} ${path}`)),
    element("p", operation.description || operation.summary || ""),
    element("pre", "", element("code", example(method, path, operation))),
    ...list("Request body, one of", body.map(([type, one]) => [type, fields(one.schema, parts).map(([n, t]) => `${n} (${t})`).join(", ") || kind(one.schema)])),
    ...list("Response", fields(good, parts)),
    ...[...shapes].flatMap((name) => list(name, fields(parts[name], parts))),
    folded("Errors", Object.entries(operation.responses).filter(([status]) => status !== "200").map(([status, one]) => [status, one.description])),
  );
}

async function describe() {
  const api = await (await fetch("/openapi.json")).json();
  const parts = api.components?.schemas ?? {};
  $("title").textContent = `${api.info.title}: HTTP API`;
  $("summary").textContent = api.info.description;
  const routes = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => section(method, path, operation, parts)));
  $("routes").replaceChildren(...routes);
}

describe().catch(() => $("routes").replaceChildren(element("p", "The server does not answer.")));
