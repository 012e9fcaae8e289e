// The page: a file goes in, a compressed one comes out, and what it cost is shown. The work is the package's, in a worker.

import { formats, histograms, inspectFile, quantizeFile, whyNoGpu } from './wgquant/index.js';
import { broken, bytes, count, decibels, duration, element, histogram, small } from './show.js';

/** Weights whose values are shown. */
const N_HISTOGRAMS = 3;

const $ = (id) => document.getElementById(id);

const state = { file: null, running: null, output: null, url: null, inspecting: null };

async function start() {
  const table = await formats();
  for (const { name, bits_per_weight: bits } of table) {
    $('format').append(new Option(`${name} – ${+bits.toFixed(2)} bits a weight`, name));
  }
  $('format').value = 'nf4';
  const describe = () => ($('summary').textContent = table.find(({ name }) => name === $('format').value).summary);
  $('format').addEventListener('change', describe);
  describe();
  await chooseEngine();
  $('file').addEventListener('change', () => choose($('file').files[0]));
  $('form').addEventListener('submit', (event) => {
    event.preventDefault();
    compress();
  });
  $('cancel').addEventListener('click', () => state.running?.abort());
  for (const [type, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) {
    $('drop').addEventListener(type, () => $('drop').classList.toggle('over', over));
  }
  // Beside the field, a file that is dropped counts too; without this the browser would open it.
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    choose(event.dataTransfer.files[0]);
  });
  document.body.dataset.ready = 'true';
}

// Says what the work will run on, and lets the visitor choose.
async function chooseEngine() {
  const why = await whyNoGpu();
  const inSoftware = why !== null && (await whyNoGpu({ allowSoftware: true })) === null;
  const engines = [['cpu', 'the CPU']];
  if (why === null) engines.unshift(['auto', 'your GPU']);
  if (inSoftware) engines.push(['gpu', 'a GPU in software']);
  for (const [value, text] of engines) $('engine').append(new Option(text, value));
  $('device').textContent =
    why === null
      ? 'Your GPU does the work, through WebGPU.'
      : `${why} The CPU does the work instead, in the background; the bytes are the same.`;
}

async function choose(file) {
  if (!file || state.running) return;
  state.inspecting?.abort();
  const inspecting = (state.inspecting = new AbortController());
  state.file = null;
  $('start').disabled = true;
  fail(null);
  $('chosen').textContent = `${file.name}: reading what is in it…`;
  try {
    const found = await inspectFile(file, { signal: inspecting.signal });
    const weights = found.tensors.reduce((sum, { shape }) => sum + shape.reduce((n, side) => n * side, 1), 0);
    const tensors = count(found.tensors.length, 'tensor');
    $('chosen').textContent = `${file.name}: ${count(weights, 'number')} in ${tensors}, ${bytes(file.size)}`;
    state.file = file;
    $('start').disabled = false;
  } catch (error) {
    if (inspecting.signal.aborted) return;
    $('chosen').textContent = '';
    fail(error);
  }
}

async function compress() {
  const { file } = state;
  if (!file || state.running) return;
  const controller = (state.running = new AbortController());
  fail(null);
  await clear();
  show(true);
  const began = performance.now();
  try {
    const output = (state.output = await quantizeFile(file, {
      format: $('format').value,
      device: $('engine').value,
      verify: $('verify').value,
      // A weight whose rows don't fit the format's blocks is no reason to refuse the rest.
      copyUnfit: true,
      signal: controller.signal,
      onProgress: (progress) => tell(progress, file, began),
    }));
    report(file, output);
    await plot(file, output, controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) fail(error);
  } finally {
    state.running = null;
    show(false);
    // Where the focus was is gone.
    if ($('result').hidden) $('start').focus();
  }
}

function tell({ tensor, done, total }, file, began) {
  const part = total > 0 ? done / total : 1;
  const seconds = (performance.now() - began) / 1000;
  // A job that verifies goes through the file twice; the rate is of the file, not of the passes.
  const rate = (part * file.size) / seconds;
  $('progress').value = part;
  $('percent').textContent = `${Math.floor(part * 100)} %`;
  const left = part > 0 ? (seconds / part) * (1 - part) : 0;
  $('rate').textContent = `${bytes(rate)}/s, ${duration(left)} left`;
  $('tensor').textContent = tensor;
}

function show(running) {
  $('running').hidden = !running;
  $('cancel').hidden = !running;
  $('start').disabled = running || !state.file;
  for (const id of ['file', 'format', 'engine', 'verify']) $(id).disabled = running;
  if (!running) return;
  $('progress').value = 0;
  $('percent').textContent = '0 %';
  $('rate').textContent = '';
  $('tensor').textContent = '';
  $('cancel').focus();
}

async function clear() {
  $('result').hidden = true;
  if (state.url) URL.revokeObjectURL(state.url);
  const { output } = state;
  state.output = state.url = null;
  await output?.dispose();
}

function report(input, { file, report }) {
  state.url = URL.createObjectURL(file);
  Object.assign($('download'), { href: state.url, download: file.name, textContent: `Download ${file.name}` });
  const quantized = report.tensors.filter(({ action }) => action === 'quantized');
  const worst = leastSqnr(quantized)[0];
  const verified = { full: 'every byte', sample: 'a sample', none: 'not verified' }[$('verify').value];
  const totals = [
    ['before', bytes(input.size)],
    ['after', bytes(file.size)],
    ['ratio', `${(input.size / file.size).toFixed(2)} : 1`],
    ['time', duration(report.seconds)],
    ['rate', `${bytes(input.size / report.seconds)}/s`],
    ['verified', verified],
    ['least SQNR', decibels(worst?.sqnr_db ?? null)],
    ['done by', report.adapter],
  ];
  $('totals').replaceChildren(
    ...totals.map(([label, text]) =>
      element('div', { children: [element('dt', { text: label }), element('dd', { text, id: `total-${label.replace(' ', '-')}` })] }),
    ),
  );
  $('notices').replaceChildren(...report.notices.map((text) => element('li', { text })));
  $('tensors').tBodies[0].replaceChildren(...report.tensors.map((tensor) => row(tensor, tensor === worst)));
  $('result').dataset.memory = report.wasmMemoryBytes;
  $('result').hidden = false;
  $('result-title').textContent = `${bytes(input.size)} became ${bytes(file.size)}`;
  $('result-title').focus({ preventScroll: true });
}

function row({ name, shape, dtype, action, sqnr_db, max_abs_error, digest }, isWorst) {
  const copied = action === 'copied';
  const cells = [
    element('th', { children: broken(name), scope: 'row' }),
    element('td', { text: shape.join(' × ') || '1' }),
    element('td', { text: dtype }),
    element('td', { text: copied ? 'copied' : decibels(sqnr_db), className: 'number sqnr' }),
    element('td', { text: copied ? '' : small(max_abs_error), className: 'number' }),
    element('td', { text: digest ? `${digest.slice(0, 16)}…` : '', className: 'digest', title: digest ?? '' }),
  ];
  return element('tr', { children: cells, className: isWorst ? 'marked' : '' });
}

function leastSqnr(tensors) {
  return tensors.filter(({ sqnr_db }) => sqnr_db !== null).sort((a, b) => a.sqnr_db - b.sqnr_db);
}

async function plot(input, { file, report }, signal) {
  const names = leastSqnr(report.tensors).slice(0, N_HISTOGRAMS).map(({ name }) => name);
  $('histograms').replaceChildren(element('p', { text: names.length ? 'Counting values…' : 'Nothing was packed.' }));
  if (names.length === 0) return;
  $('running').hidden = true;
  try {
    const found = await histograms(input, file, names, { bins: 48, signal });
    $('histograms').replaceChildren(...found.map((one, ix) => histogram(names[ix], one)));
  } catch (error) {
    $('histograms').replaceChildren(element('p', { text: 'The values were not counted.' }));
    throw error;
  }
}

function fail(error) {
  $('error').hidden = error === null;
  $('error').textContent = error === null ? '' : sentence(error.message);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

start().catch((error) => {
  $('device').textContent = 'This page can’t work here.';
  fail(error);
});
