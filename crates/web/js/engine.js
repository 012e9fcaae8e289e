// Tensors in memory, on this thread: engines, packed tensors, products.

import { BytesStorage } from './storage.js';
import { load } from './wasm.js';

/** What opened last, and what of a browser has no WebGPU: a sentence, or null where there is one. */
export async function whyNoGpu({ allowSoftware = false } = {}) {
  if (!globalThis.navigator?.gpu) {
    return globalThis.isSecureContext === false
      ? 'This page was not loaded over HTTPS, so the browser does not let it use WebGPU.'
      : 'This browser has no WebGPU.';
  }
  const adapter = await requestAdapter();
  if (!adapter) return 'This browser has WebGPU, but finds no GPU for it.';
  if (isSoftware(adapter) && !allowSoftware) return 'This browser has WebGPU, but only in software.';
  return null;
}

async function requestAdapter(options) {
  return (await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance', ...options })) ?? null;
}

function isSoftware(adapter) {
  return adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
}

function describe(info) {
  const words = [info?.vendor, info?.architecture, info?.description].filter(Boolean);
  return `${words.join(' ') || 'a GPU'} (webgpu)`;
}

/** What quantizes: a GPU, or the CPU path on this thread. */
export class Engine {
  /** @internal */
  raw;
  #own;

  constructor(raw, kind, description, device, own) {
    this.raw = raw;
    this.kind = kind;
    this.description = description;
    this.device = device;
    this.#own = own;
  }

  /** The CPU path. */
  static async cpu() {
    const wasm = await load();
    return new Engine(wasm.RawEngine.cpu(), 'cpu', 'CPU', null, false);
  }

  /**
   * The browser's GPU, or the page's own `device`; null where there is none. A GPU in software counts only with
   * `allowSoftware`.
   */
  static async gpu({ device, allowSoftware = false, shape, goesOn = false } = {}) {
    const wasm = await load();
    if (device) {
      const raw = await rawEngine(wasm, device, shape, goesOn);
      return new Engine(raw, 'gpu', describe(device.adapterInfo), device, false);
    }
    const adapter = await requestAdapter();
    if (!adapter || (isSoftware(adapter) && !allowSoftware)) return null;
    const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits;
    const own = await adapter.requestDevice({
      label: 'wgquant',
      requiredLimits: { maxStorageBufferBindingSize, maxBufferSize },
    });
    try {
      const raw = await rawEngine(wasm, own, shape, goesOn);
      return new Engine(raw, 'gpu', describe(adapter.info), own, true);
    } catch (error) {
      own.destroy();
      throw error;
    }
  }

  /** The GPU, or where there is none the CPU path. */
  static async open(options) {
    return (await Engine.gpu(options)) ?? Engine.cpu();
  }

  /** Packs weights. */
  async quantize(format, weights, { dtype, signal, onProgress } = {}) {
    const type = dtypeOf(weights, dtype);
    return stoppable(signal, onProgress, async (progress) => {
      const raw = await this.raw.quantize(format, type, new BytesStorage(weights), progress);
      return new Packed(raw);
    });
  }

  /** Unpacks weights: `f32` into a Float32Array, `f16` and `bf16` into the bits in a Uint16Array. */
  async dequantize(packed, { dtype = 'f32', signal, onProgress } = {}) {
    const values = dtype === 'f32' ? new Float32Array(packed.length) : new Uint16Array(packed.length);
    return stoppable(signal, onProgress, async (progress) => {
      await this.raw.dequantize(packed.raw, dtype, new BytesStorage(values), progress);
      return values;
    });
  }

  /** Brings packed weights to the GPU, to be multiplied there any number of times. */
  async upload(packed) {
    return new DeviceWeights(await this.raw.upload(packed.raw));
  }

  /** Frees what it holds; a device that the page gave stays the page's. */
  free() {
    this.raw.free();
    if (this.#own) this.device.destroy();
  }
}

// wgpu takes its device from `navigator.gpu`, so that is what gives it this one, as long as it looks.
async function rawEngine(wasm, device, shape, goesOn) {
  const { features, limits, adapterInfo: info } = device;
  const adapter = { features, limits, info, requestDevice: async () => device };
  const wgslLanguageFeatures = navigator.gpu?.wgslLanguageFeatures ?? new Set();
  const gpu = { wgslLanguageFeatures, requestAdapter: async () => adapter };
  Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
  let instance;
  try {
    instance = new wasm.RawInstance();
  } finally {
    delete navigator.gpu;
  }
  return wasm.RawEngine.gpu(instance, shape, goesOn);
}

/** A packed tensor: codes and scales, in wasm's memory. */
export class Packed {
  /** @internal */
  raw;

  constructor(raw) {
    this.raw = raw;
  }

  /** From parts that were kept. */
  static async fromParts({ format, length, codes, scales, nestedAbsmax = new Uint8Array(0), nestedOffset = 0 }) {
    const wasm = await load();
    if (!Number.isSafeInteger(length) || length < 0) throw new TypeError(`length ${length} is no number of weights`);
    return new Packed(wasm.RawPacked.fromParts(format, length, codes, scales, nestedAbsmax, nestedOffset));
  }

  get format() {
    return this.raw.format;
  }
  get length() {
    return this.raw.length;
  }
  get byteLength() {
    return this.raw.byteLength;
  }
  get codes() {
    return this.raw.codes;
  }
  get scales() {
    return this.raw.scales;
  }
  get nestedAbsmax() {
    return this.raw.nestedAbsmax;
  }
  get nestedOffset() {
    return this.raw.nestedOffset;
  }
  get digest() {
    return this.raw.digest;
  }

  /** Recomputes all of it from the weights on the CPU; gives the error's figures, or fails where a byte differs. */
  async verify(weights, { dtype } = {}) {
    const wasm = await load();
    const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
    return JSON.parse(wasm.verifyTensor(dtypeOf(weights, dtype), bytes, this.raw));
  }

  free() {
    this.raw.free();
  }
}

/** Packed weights in the GPU's memory. */
export class DeviceWeights {
  #raw;

  constructor(raw) {
    this.#raw = raw;
  }

  /** Bytes in the GPU's memory. */
  get deviceBytes() {
    return this.#raw.deviceBytes;
  }

  /** `x` times the transpose of the weights (rows × columns), plus a bias: one row of results a vector in `x`. */
  async product(x, { rows, columns, bias, dtype }) {
    const type = dtypeOf(x, dtype);
    const bytes = (array) => array && new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const y = await this.#raw.product(rows, columns, type, bytes(x), bytes(bias));
    return type === 'f32' ? new Float32Array(y.buffer) : new Uint16Array(y.buffer);
  }

  free() {
    this.#raw.free();
  }
}

function dtypeOf(array, dtype) {
  const only = { Float32Array: ['f32'], Float16Array: ['f16'], Uint16Array: ['f16', 'bf16'] }[array?.constructor.name];
  if (!only) throw new TypeError('weights are a Float32Array, a Float16Array, or a Uint16Array with the bits of f16 or bf16');
  if (dtype === undefined && only.length === 1) return only[0];
  if (only.includes(dtype)) return dtype;
  throw new TypeError(`say what a ${array.constructor.name} holds with dtype: ${only.join(' or ')}`);
}

// Runs work that asks between its pieces whether to stop.
async function stoppable(signal, onProgress, work) {
  signal?.throwIfAborted();
  try {
    return await work((_, done, total) => {
      onProgress?.({ done, total });
      return signal?.aborted ?? false;
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
