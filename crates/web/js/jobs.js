// Jobs on files: each in a worker of its own, so that the page goes on and a job ends at once when it is told to.

import { load } from './wasm.js';

/** What files of the browser's own are called that outputs are made in. */
const PREFIX = 'wgquant-output-';

/** An output, and what was said of it. Its bytes are on disk where the browser allows, until `dispose`. */
class Output {
  #release;

  constructor({ report, file, isPrivate }, name, release) {
    this.report = report;
    this.file = new File([file], name, { type: 'application/octet-stream' });
    this.isOnDisk = isPrivate;
    this.#release = release;
  }

  /** Removes the output's bytes. */
  async dispose() {
    const release = this.#release;
    this.#release = undefined;
    await release?.();
  }
}

/** Compresses a `.safetensors` or `.gguf` file. */
export async function quantizeFile(file, { format, device = 'auto', signal, onProgress, ...options }) {
  const wasm = await load();
  const known = JSON.stringify({ format, ...options });
  const name = `${stem(file)}-${format}.${wasm.extensionOf(known)}`;
  return output({ job: 'quantize', file, options: JSON.parse(known), device }, name, { signal, onProgress });
}

/** Turns a compressed file back into a plain one. */
export async function dequantizeFile(file, { dtype, device = 'auto', signal, onProgress } = {}) {
  const name = `${stem(file)}-${dtype ?? 'plain'}.safetensors`;
  return output({ job: 'dequantize', file, dtype, device }, name, { signal, onProgress });
}

/** Holds a compressed file against its original: every byte. */
export async function verifyFile(original, quantized, { signal, onProgress } = {}) {
  return (await run({ job: 'verify', original, quantized }, { signal, onProgress })).report;
}

/** What a file holds. */
export async function inspectFile(file, { signal } = {}) {
  return (await run({ job: 'inspect', file }, { signal })).report;
}

/** How the values of some weights lie, in the original and in what was compressed. */
export async function histograms(original, quantized, names, { bins = 64, signal, onProgress } = {}) {
  return (await run({ job: 'histograms', original, quantized, names, bins }, { signal, onProgress })).report;
}

function stem(file) {
  return (file.name ?? 'model').replace(/\.(safetensors|gguf)$/i, '');
}

async function output(message, name, { signal, onProgress }) {
  await removeLeftOvers();
  // `randomUUID` is for pages over HTTPS alone.
  const file = PREFIX + crypto.getRandomValues(new Uint32Array(4)).join('-');
  const unlock = await lock(file);
  const release = async () => {
    await remove(file);
    unlock();
  };
  try {
    return new Output(await run({ ...message, output: file }, { signal, onProgress }), name, release);
  } catch (error) {
    await release();
    throw error;
  }
}

function run(message, { signal, onProgress }) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'wgquant' });
    const end = (settle, value) => {
      worker.terminate();
      signal?.removeEventListener('abort', onAbort);
      settle(value);
    };
    const onAbort = () => end(reject, signal.reason);
    signal?.addEventListener('abort', onAbort);
    worker.onmessage = ({ data: { progress, done, failed } }) => {
      if (progress) onProgress?.(progress);
      if (done) end(resolve, done);
      if (failed) end(reject, Object.assign(new Error(failed.message), { name: failed.name }));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      end(reject, new Error(`the worker could not be started: ${event.message ?? 'its script can’t be loaded'}`));
    };
    worker.postMessage(message);
  });
}

// Outputs that a page left behind are removed by the next one. Locks tell which pages are still there.

async function lock(name) {
  if (!navigator.locks) return () => {};
  let unlock;
  await new Promise((held) => {
    navigator.locks.request(name, () => {
      held();
      return new Promise((release) => (unlock = release));
    });
  });
  return unlock;
}

async function removeLeftOvers() {
  try {
    const root = await navigator.storage.getDirectory();
    const names = [];
    for await (const name of root.keys()) if (name.startsWith(PREFIX)) names.push(name);
    // Only now: a lock is taken before its file is made.
    const { held } = await navigator.locks.query();
    const live = new Set(held.map(({ name }) => name));
    for (const name of names) if (!live.has(name)) await root.removeEntry(name);
  } catch {
    // Without such files there is nothing to remove; one that can't be is tried again by the next job.
  }
}

async function remove(name) {
  // A worker that was ended may hold its file for a moment more.
  for (let attempt = 0; attempt < 50; attempt++) {
    try {
      const root = await navigator.storage.getDirectory();
      await root.removeEntry(name);
      return;
    } catch (error) {
      if (error.name !== 'NoModificationAllowedError') return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
