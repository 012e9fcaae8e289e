// The page of the service: what goes on, and a place to drop a file. All that it knows comes from the API.

const POLL_MS = 1000;
const HIDDEN_POLL_MS = 15000;
/** Devices change seldom, and to ask for them costs the service more. */
const DEVICES_MS = 15000;
const SINGLE_FILE = ["native", "mxfp4", "gguf"];

const find = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("token"), formats: [], older: [], next: null, timer: 0, devicesAt: -Infinity, rows: new Map() };

/** An element with attributes, properties and children. Texts are never read as HTML. */
function make(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit++) n /= 1000;
  return `${unit ? n.toFixed(1) : n} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

const ratio = (before, after) => (after ? `${(before / after).toFixed(2)}×` : "");

const authorization = () => (state.token ? { Authorization: `Bearer ${state.token}` } : {});

/** What a refused answer says. */
async function problem(response) {
  try {
    return (await response.json()).detail || `The service answered ${response.status}.`;
  } catch {
    return `The service answered ${response.status}.`;
  }
}

/** Asks the API; a token that is missing or wrong leads to the form. */
async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  if (response.status === 401) {
    showLogin(true, state.token ? await problem(response) : "");
    throw new Error("a token is needed");
  }
  if (!response.ok) throw new Error(await problem(response));
  return response;
}

function showTrouble(text) {
  const place = find("trouble");
  place.textContent = text;
  place.hidden = !text;
}

function showLogin(shown, text = "") {
  find("login").hidden = !shown;
  find("main").hidden = shown;
  showTrouble(text);
  if (shown) find("token").focus();
}

// ---- What there is

async function loadFormats() {
  const { formats } = await (await ask("/v1/formats")).json();
  state.formats = formats;
  for (const id of ["format", "job-format"]) {
    const select = find(id);
    select.replaceChildren(...formats.map(({ name }) => make("option", { value: name, textContent: name })));
    select.value = formats.some(({ name }) => name === "nf4") ? "nf4" : formats[0].name;
    select.onchange = showContainers;
  }
  showContainers();
}

/** The containers of the chosen formats: a direct request gets one file. */
function showContainers() {
  for (const [format, container, allowed] of [
    ["format", "container", SINGLE_FILE],
    ["job-format", "job-container", null],
  ]) {
    const row = state.formats.find(({ name }) => name === find(format).value);
    const names = row.containers.filter((name) => !allowed || allowed.includes(name));
    const before = find(container).value;
    find(container).replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
    if (names.includes(before)) find(container).value = before;
    if (format === "format") find("format-hint").textContent = `${row.summary}, ${row.bits_per_weight.toFixed(2)} bits a weight`;
  }
}

async function loadDevices() {
  if (performance.now() < state.devicesAt + DEVICES_MS) return;
  state.devicesAt = performance.now();
  const { devices } = await (await ask("/v1/adapters")).json();
  find("devices").replaceChildren(
    ...devices.map(({ name, is_open, losses }) => {
      const lost = is_open ? (losses ? ` (was lost ${losses} times)` : "") : " (lost; it is opened anew)";
      return make("li", { textContent: name + lost, className: is_open ? "" : "lost" });
    }),
  );
}

// ---- Rows

/** A row with the parts that files and jobs have in common. */
function makeRow(name) {
  const parts = {
    name: make("span", { className: "name", textContent: name }),
    state: make("span", { className: "state" }),
    bar: make("progress", { max: 1, value: 0, hidden: true }),
    text: make("div", { className: "text" }),
    error: make("div", { className: "error" }),
    actions: make("div", { className: "actions" }),
  };
  parts.bar.setAttribute("aria-label", `Progress of ${name}`);
  const head = make("div", { className: "head" }, parts.name, parts.state);
  parts.row = make("li", {}, head, parts.bar, parts.text, parts.error, parts.actions);
  return parts;
}

function setState(parts, text) {
  parts.state.textContent = text;
  parts.state.className = `state ${text}`;
}

function saveButton(blob, name, text) {
  return make("a", { className: "button", href: URL.createObjectURL(blob), download: name, textContent: text });
}

// ---- Files

/** Sends a file, and offers what comes back. */
function compress(file) {
  const [format, container, verify] = ["format", "container", "verify"].map((id) => find(id).value);
  const parts = makeRow(file.name);
  parts.bar.hidden = false;
  setState(parts, "sending");
  parts.text.textContent = `${bytes(file.size)} to ${format}`;
  find("files").prepend(parts.row);

  const request = new XMLHttpRequest();
  const cancel = make("button", { type: "button", className: "quiet", textContent: "Cancel", onclick: () => request.abort() });
  parts.actions.append(cancel);
  const failed = (text) => {
    setState(parts, "failed");
    parts.bar.hidden = true;
    parts.error.textContent = text;
    parts.actions.replaceChildren();
  };
  request.open("POST", `/v1/quantize?${new URLSearchParams({ format, container, verify })}`);
  for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.responseType = "blob";
  request.upload.onprogress = ({ loaded, total }) => {
    parts.bar.max = total || 1;
    parts.bar.value = loaded;
    parts.text.textContent = `${bytes(loaded)} of ${bytes(total)} sent, to ${format}`;
  };
  request.upload.onload = () => {
    setState(parts, "compressing");
    parts.bar.removeAttribute("value");
  };
  request.onabort = () => failed("It was cancelled.");
  request.onerror = () => failed("The service can't be reached, or has ended the connection.");
  request.onload = async () => {
    if (request.status === 401) showLogin(true);
    if (request.status !== 200) {
      const told = await request.response.text().catch(() => "");
      return failed(await problem(new Response(told, { status: Math.max(request.status, 200) })));
    }
    const blob = request.response;
    const name = outputName(file.name, format, container);
    setState(parts, "done");
    parts.bar.hidden = true;
    parts.text.textContent = `${format}: ${bytes(file.size)} to ${bytes(blob.size)} (${ratio(file.size, blob.size)})`;
    parts.actions.replaceChildren(saveButton(blob, name, `Save ${name}`));
  };
  request.send(file);
}

function outputName(name, format, container) {
  const stem = name.replace(/\.(safetensors|gguf)$/i, "");
  return `${stem}-${format}.${container === "gguf" ? "gguf" : "safetensors"}`;
}

function listenToDrops() {
  const drop = find("drop");
  const stop = (event) => event.preventDefault();
  // A file that misses the place is not opened in place of the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, stop);
  drop.addEventListener("dragenter", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", (event) => drop.contains(event.relatedTarget) || drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    [...event.dataTransfer.files].forEach(compress);
  });
  find("file").addEventListener("change", ({ target }) => {
    [...target.files].forEach(compress);
    target.value = "";
  });
}

// ---- Jobs

function showJob(job) {
  let parts = state.rows.get(job.id);
  if (!parts) {
    const { source, destination } = job.request ?? { source: job.id, destination: "" };
    parts = makeRow(destination ? `${source} → ${destination}` : source);
    parts.row.id = `job-${job.id}`;
    state.rows.set(job.id, parts);
  }
  setState(parts, job.cancel_requested && job.state === "running" ? "cancelling" : job.state);
  const { progress } = job;
  parts.bar.hidden = job.state !== "running";
  if (progress) {
    parts.bar.max = progress.total_bytes || 1;
    parts.bar.value = progress.done_bytes;
  } else {
    parts.bar.removeAttribute("value");
  }
  parts.text.textContent = describe(job);
  parts.error.textContent = job.error?.detail ?? "";
  showActions(job, parts);
  return parts.row;
}

/** What a job is and how far, in a line. */
function describe(job) {
  const { format, container } = job.request ?? {};
  const what = [format, container && container !== "native" && `as ${container}`].filter(Boolean).join(" ");
  const said = [what];
  if (job.state === "queued") said.push(job.jobs_before ? `${job.jobs_before} before it` : "next");
  if (job.progress) {
    const { phase, tensor, done_bytes, total_bytes, bytes_per_second, seconds_left } = job.progress;
    said.push(`${Math.floor((100 * done_bytes) / Math.max(total_bytes, 1))} % of ${bytes(total_bytes)}`);
    if (bytes_per_second) said.push(`${bytes(bytes_per_second)}/s`, `${duration(seconds_left)} left`);
    said.push(`${phase} ${tensor}`);
  }
  if (job.state === "done") {
    said.push(`${bytes(job.bytes_in)} to ${bytes(job.bytes_out)} (${ratio(job.bytes_in, job.bytes_out)})`, job.adapter);
  }
  if (job.attempts > 1) said.push(`begun ${job.attempts} times`);
  const ended = job.ended ?? job.started ?? job.created;
  said.push(new Date(ended).toLocaleString());
  return said.filter(Boolean).join(" · ");
}

/** Buttons are made anew only where a job's state is another, so that one that has the focus keeps it. */
function showActions(job, parts) {
  const key = `${job.state}${job.cancel_requested}`;
  if (parts.shown === key) return;
  parts.shown = key;
  const button = (text, onclick) => make("button", { type: "button", className: "quiet", textContent: text, onclick });
  const actions = [];
  if (["queued", "running"].includes(job.state) && !job.cancel_requested) {
    actions.push(button("Cancel", () => act(parts, `/v1/jobs/${job.id}/cancel`, { method: "POST" })));
  }
  if (job.state === "done") {
    actions.push(
      button("Save the report", async () => {
        const response = await act(parts, `/v1/jobs/${job.id}/report`);
        if (response) saveButton(await response.blob(), `job-${job.id}.json`, "").click();
      }),
    );
  }
  parts.actions.replaceChildren(...actions);
}

async function act(parts, path, options) {
  try {
    const response = await ask(path, options);
    if (options) await refresh();
    return response;
  } catch (error) {
    parts.error.textContent = error.message;
    return null;
  }
}

async function loadJobs() {
  const page = await (await ask("/v1/jobs?limit=50")).json();
  const shown = new Set(page.jobs.map(({ id }) => id));
  const older = state.older.filter(({ id }) => !shown.has(id));
  if (!state.older.length) state.next = page.next;
  const rows = [...page.jobs, ...older].map(showJob);
  const list = find("jobs");
  // Rows stay where they are unless there are others, so that nothing that has the focus loses it.
  if (rows.length !== list.children.length || rows.some((row, ix) => list.children[ix] !== row)) list.replaceChildren(...rows);
  find("no-jobs").hidden = rows.length > 0;
  find("more").hidden = state.next === null;
}

async function loadOlder() {
  const page = await (await ask(`/v1/jobs?limit=50&before=${state.next}`)).json();
  state.older.push(...page.jobs);
  state.next = page.next;
  await refresh();
}

async function submitJob(event) {
  event.preventDefault();
  const value = (id) => find(id).value.trim();
  const job = { source: value("source"), destination: value("destination"), format: value("job-format") };
  Object.assign(job, { container: value("job-container"), verify: value("job-verify") });
  const trouble = find("submit-trouble");
  try {
    await ask("/v1/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(job) });
    trouble.hidden = true;
    find("submit-box").open = false;
    await refresh();
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
}

// ---- As it goes on

async function refresh() {
  clearTimeout(state.timer);
  let wait = document.hidden ? HIDDEN_POLL_MS : POLL_MS;
  try {
    await Promise.all([loadJobs(), loadDevices()]);
    showTrouble("");
  } catch (error) {
    if (!find("login").hidden) return;
    showTrouble(error instanceof TypeError ? "The service can't be reached; it is tried again." : error.message);
    wait = 5 * POLL_MS;
  }
  clearTimeout(state.timer);
  state.timer = setTimeout(refresh, wait);
}

async function start() {
  showLogin(false);
  try {
    await loadFormats();
  } catch (error) {
    if (!find("login").hidden) return;
    showTrouble("The service can't be reached; it is tried again.");
    setTimeout(start, 5 * POLL_MS);
    return;
  }
  await refresh();
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = find("token").value.trim();
  sessionStorage.setItem("token", state.token);
  find("token").value = "";
  start();
});
find("submit").addEventListener("submit", submitJob);
find("more").addEventListener("click", () => loadOlder().catch((error) => showTrouble(error.message)));
document.addEventListener("visibilitychange", () => document.hidden || refresh());
listenToDrops();
start();
