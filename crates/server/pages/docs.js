// Renders /openapi.json: one part a route, then the schemas that they name.
"use strict";

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function table(headings, rows) {
  const head = element("tr", "", ...headings.map((heading) => element("th", heading)));
  const body = rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", cell))));
  return element("table", "", element("thead", "", head), element("tbody", "", ...body));
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf || schema.anyOf) return (schema.oneOf || schema.anyOf).map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  const type = [].concat(schema.type || "anything").join(" or ");
  return schema.items ? `list of ${typeOf(schema.items)}` : type + (schema.format ? ` (${schema.format})` : "");
}

function content(of) {
  return Object.entries((of && of.content) || {}).map(([type, { schema }]) => `${type}: ${typeOf(schema)}`).join("; ");
}

function route(method, path, operation) {
  const summary = element("summary", "", element("b", method.toUpperCase()), element("code", path), ` ${operation.summary || ""}`);
  const part = element("details", "", summary);
  if (operation.description) part.append(element("p", operation.description));
  const parameters = (operation.parameters || []).map((of) => [
    of.name + (of.required ? " (needed)" : ""), of.in, typeOf(of.schema), of.description || "",
  ]);
  if (parameters.length) part.append(table(["parameter", "in", "type", "what it is"], parameters));
  if (operation.requestBody) part.append(element("p", `Body: ${content(operation.requestBody)}`));
  const responses = Object.entries(operation.responses).map(([status, of]) => [status, of.description || "", content(of)]);
  part.append(table(["status", "what it says", "body"], responses));
  return part;
}

async function show() {
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  const main = document.querySelector("main");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) main.append(route(method, path, operation));
  }
  main.append(element("h2", "Schemas"));
  for (const [name, schema] of Object.entries((api.components || {}).schemas || {})) {
    main.append(element("details", "", element("summary", name), element("pre", JSON.stringify(schema, null, 2))));
  }
}

show().catch((error) => { document.getElementById("about").textContent = `The document could not be read: ${error.message}`; });
