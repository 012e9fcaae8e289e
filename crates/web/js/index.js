// wgquant in a browser: see index.d.ts for what everything is.

import { load } from './wasm.js';

export { DeviceWeights, Engine, Packed, whyNoGpu } from './engine.js';
export { dequantizeFile, histograms, inspectFile, quantizeFile, verifyFile } from './jobs.js';

/** The table of formats. */
export async function formats() {
  const wasm = await load();
  return JSON.parse(wasm.formatsJson());
}

/** The library's case table on a GPU, by bits: how many comparisons there were, and a sentence for each that failed. */
export async function selfTest(engine) {
  const wasm = await load();
  const failures = [];
  const nCompared = await wasm.runCases(engine.raw, (failure) => failures.push(failure));
  return { nCompared, failures };
}

/** Every kernel's WGSL. */
export async function shaders() {
  const wasm = await load();
  const texts = wasm.allShaders();
  return Array.from({ length: texts.length / 3 }, (_, ix) => {
    const [label, entryPoint, code] = texts.slice(3 * ix, 3 * ix + 3);
    return { label, entryPoint, code };
  });
}
