// The wasm module, started once.

import init, * as wasm from './wasm/wgquant.js';

let started;

/** The module's exports, once it is there. */
export async function load() {
  started ??= init({ module_or_path: new URL('./wasm/wgquant_bg.wasm', import.meta.url) });
  try {
    memory = (await started).memory;
  } catch (error) {
    // Another call may try again, such as after a lost connection.
    started = undefined;
    throw error;
  }
  return wasm;
}

let memory;

/** Bytes that wasm's memory has now, which is the most that it ever had. */
export function memoryBytes() {
  return memory?.buffer.byteLength ?? 0;
}
