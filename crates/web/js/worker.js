// One job on files, in a worker: reads and writes at once, a piece at a time.

import { Engine } from './engine.js';
import { BlobStorage, PartsStorage, PrivateFile } from './storage.js';
import { load, memoryBytes } from './wasm.js';

/** Milliseconds between reports of progress. */
const INTERVAL = 100;

let last = -Infinity;

function progress(tensor, done, total) {
  const now = performance.now();
  if (now - last >= INTERVAL || done === total) {
    last = now;
    postMessage({ progress: { tensor, done, total } });
  }
  return false;
}

async function openEngine(device) {
  const gpu = device === 'cpu' ? null : await Engine.gpu({ allowSoftware: device === 'gpu', goesOn: device === 'auto' });
  if (!gpu && device === 'gpu') throw new Error('there is no GPU that this browser lets a page use: take the CPU');
  return gpu ?? Engine.cpu();
}

// A file of the browser's own, or what stands in for one.
async function openOutput(name) {
  try {
    return { storage: await PrivateFile.create(name), isPrivate: true };
  } catch {
    return { storage: new PartsStorage(), isPrivate: false };
  }
}

const name = (file) => file.name ?? 'the file';

const jobs = {
  async quantize(wasm, { file, options, device, output }) {
    return intoFile(device, output, (engine, storage) =>
      wasm.quantizeFile(engine.raw, new BlobStorage(file), name(file), storage, JSON.stringify(options), progress),
    );
  },
  async dequantize(wasm, { file, dtype, device, output }) {
    return intoFile(device, output, (engine, storage) =>
      wasm.dequantizeFile(engine.raw, new BlobStorage(file), name(file), storage, dtype, progress),
    );
  },
  async verify(wasm, { original, quantized }) {
    const blobs = [original, quantized].flatMap((file) => [new BlobStorage(file), name(file)]);
    return { report: JSON.parse(wasm.verifyFiles(...blobs, progress)) };
  },
  async inspect(wasm, { file }) {
    return { report: JSON.parse(wasm.inspectFile(new BlobStorage(file), name(file))) };
  },
  async histograms(wasm, { original, quantized, names, bins }) {
    const blobs = [original, quantized].flatMap((file) => [new BlobStorage(file), name(file)]);
    return { report: JSON.parse(wasm.histogramsOf(...blobs, names, bins, progress)) };
  },
};

async function intoFile(device, output, work) {
  const engine = await openEngine(device);
  const { storage, isPrivate } = await openOutput(output);
  const start = performance.now();
  const report = JSON.parse(await work(engine, storage));
  const seconds = (performance.now() - start) / 1000;
  const file = await storage.finish();
  return { report: { ...report, adapter: engine.description, seconds }, file, isPrivate };
}

addEventListener('message', async ({ data: { job, ...what } }) => {
  try {
    const done = await jobs[job](await load(), what);
    done.report.wasmMemoryBytes = memoryBytes();
    postMessage({ done });
  } catch (error) {
    postMessage({ failed: { name: error.name, message: error.message ?? String(error) } });
  }
});
