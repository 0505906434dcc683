// Draws /openapi.json for people, and sends requests on their behalf. Everything from the document is put in as text.

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts stay texts. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

let document_ = {};

function resolve(schema) {
  if (!schema || !schema.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((place, part) => place?.[part], document_) ?? {};
}

/** A schema in a few words: its type, its bounds. */
function words(schema, depth = 0) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((one) => words(one, depth)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${depth > 3 ? "…" : words(schema.items ?? {}, depth + 1)}`;
  if (schema.type === "object" && schema.additionalProperties && !schema.properties)
    return `object of ${words(schema.additionalProperties, depth + 1)}`;
  const bounds = [];
  if (schema.minimum !== undefined) bounds.push(`from ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) bounds.push(`above ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) bounds.push(`to ${schema.maximum}`);
  if (schema.maxLength !== undefined) bounds.push(`at most ${schema.maxLength} characters`);
  if (schema.default !== undefined && schema.default !== null) bounds.push(`otherwise ${JSON.stringify(schema.default)}`);
  return [schema.type ?? "anything", ...bounds].join(", ");
}

/** An example of a schema, to begin with. */
function example(schema, depth = 0) {
  const found = resolve(schema);
  if (depth > 4) return null;
  if (found.default !== undefined && found.default !== null) return found.default;
  if (found.enum) return found.enum[0];
  if (found.const !== undefined) return found.const;
  if (found.anyOf) return example(found.anyOf[0], depth + 1);
  if (found.type === "object") {
    const required = found.required ?? [];
    const entries = Object.entries(found.properties ?? {}).filter(([name]) => required.includes(name) || depth === 0);
    return Object.fromEntries(entries.map(([name, inner]) => [name, example(inner, depth + 1)]));
  }
  if (found.type === "array") return [];
  return { string: "", integer: 0, number: 0, boolean: false }[found.type] ?? null;
}

function fields(schema) {
  const found = resolve(schema);
  if (!found.properties) return make("p", {}, make("code", {}, words(schema)));
  const rows = Object.entries(found.properties).map(([name, inner]) =>
    make("tr", {},
      make("td", {}, make("code", {}, name)),
      make("td", {}, words(inner)),
      make("td", { class: "soft" }, (found.required ?? []).includes(name) ? "" : "may be missing", inner.description ? ` ${inner.description}` : "")));
  return make("div", {}, found.description ? make("p", { class: "soft" }, found.description) : null, make("table", {}, make("tbody", {}, ...rows)));
}

function parametersOf(operation) {
  const rows = (operation.parameters ?? []).map((one) =>
    make("tr", {},
      make("td", {}, make("code", {}, one.name)),
      make("td", { class: "soft" }, one.in),
      make("td", {}, words(one.schema ?? {})),
      make("td", { class: "soft" }, one.description ?? "")));
  return rows.length ? [make("h3", {}, "Parameters"), make("table", {}, make("tbody", {}, ...rows))] : [];
}

function bodyOf(operation) {
  const content = Object.entries(operation.requestBody?.content ?? {});
  return content.flatMap(([type, { schema }]) => [make("h3", {}, `Body: ${type}`), fields(schema)]);
}

function answersOf(operation) {
  const rows = Object.entries(operation.responses).map(([status, given]) => {
    const answer = resolve(given);
    const [type, media] = Object.entries(answer.content ?? {})[0] ?? [];
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, answer.description),
      make("td", { class: "soft" }, type ? `${type} ${words(media.schema ?? {})}` : ""));
  });
  return [make("h3", {}, "Answers"), make("table", {}, make("tbody", {}, ...rows))];
}

async function ask(method, path, operation, inputs, output) {
  let url = path;
  const query = [], headers = {};
  for (const one of operation.parameters ?? []) {
    const value = inputs[one.name].value;
    if (one.in === "path") url = url.replace(`{${one.name}}`, encodeURIComponent(value));
    else if (value !== "" && one.in === "query") query.push(`${one.name}=${encodeURIComponent(value)}`);
    else if (value !== "" && one.in === "header") headers[one.name] = value;
  }
  if (query.length) url += `?${query.join("&")}`;
  const token = byId("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { method: method.toUpperCase(), headers, credentials: "omit", cache: "no-store" };
  if (inputs.$body && inputs.$body.value !== "") {
    options.body = inputs.$body.value;
    headers["Content-Type"] = Object.keys(operation.requestBody.content)[0];
  }
  output.textContent = "…";
  try {
    const response = await fetch(url, { ...options, signal: AbortSignal.timeout(60_000) });
    const shown = ["ETag", "Content-Type", "Allow", "Retry-After"].map((name) => [name, response.headers.get(name)]);
    const lines = shown.filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`);
    output.textContent = [`${response.status} ${response.statusText}`, ...lines, "", (await response.text()).slice(0, 20_000)].join("\n");
  } catch (error) {
    output.textContent = String(error);
  }
}

function trier(method, path, operation) {
  if (path.startsWith("/api/v1/events")) return null;
  const inputs = {}, rows = [];
  for (const one of operation.parameters ?? []) {
    const id = `${operation.operationId}-${one.name}`;
    inputs[one.name] = make("input", { id, autocomplete: "off", spellcheck: "false" });
    if (one.schema?.const !== undefined) inputs[one.name].value = one.schema.const;
    rows.push(make("label", { for: id }, one.name), inputs[one.name]);
  }
  const content = Object.entries(operation.requestBody?.content ?? {})[0];
  if (content) {
    const id = `${operation.operationId}-body`;
    inputs.$body = make("textarea", { id, spellcheck: "false" });
    if (content[0] === "application/json") inputs.$body.value = JSON.stringify(example(content[1].schema), null, 1);
    rows.push(make("label", { for: id }, "body"), inputs.$body);
  }
  const output = make("pre", { role: "status", tabindex: "0", hidden: "" });
  const button = make("button", { type: "submit" }, "Send");
  const form = make("form", { "aria-label": `Try ${method} ${path}` }, ...rows, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    output.hidden = false;
    ask(method, path, operation, inputs, output);
  });
  return make("div", {}, make("h3", {}, "Try"), form, output);
}

function draw(path, method, operation) {
  const title = make("summary", {},
    make("span", { class: `method ${method}` }, method.toUpperCase()), make("code", {}, path),
    make("span", { class: "soft" }, operation.summary ?? ""));
  const details = make("details", { id: operation.operationId, "data-text": `${method} ${path} ${operation.summary}`.toLowerCase() }, title);
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    details.append(make("div", {}, make("p", {}, operation.description ?? ""), ...parametersOf(operation),
      ...bodyOf(operation), ...answersOf(operation), trier(method, path, operation)));
  });
  return details;
}

function filter() {
  const wanted = byId("filter").value.trim().toLowerCase();
  for (const details of document.querySelectorAll("details")) details.hidden = !details.dataset.text.includes(wanted);
}

async function begin() {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`the node answered ${response.status}`);
  document_ = await response.json();
  byId("about").textContent = `${document_.info.description} Version ${document_.info.version}.`;
  const sections = new Map(document_.tags.map((tag) => [tag.name, { tag, routes: [] }]));
  for (const [path, methods] of Object.entries(document_.paths))
    for (const [method, operation] of Object.entries(methods))
      sections.get(operation.tags[0])?.routes.push(draw(path, method, operation));
  const contents = [];
  for (const { tag, routes } of sections.values()) {
    if (!routes.length) continue;
    byId("routes").append(make("h2", { id: `tag-${tag.name}` }, tag.name), make("p", { class: "soft" }, tag.description), ...routes);
    contents.push(make("li", {}, make("a", { href: `#tag-${tag.name}` }, tag.name)));
  }
  byId("contents").append(make("ul", {}, ...contents));
  byId("filter").addEventListener("input", filter);
  byId("try").addEventListener("submit", (event) => event.preventDefault());
  const wanted = byId(location.hash.slice(1));
  if (wanted) { if ("open" in wanted) wanted.open = true; wanted.scrollIntoView(); }
}

begin().catch((error) => { byId("about").textContent = `The OpenAPI document cannot be read: ${error.message}`; });
