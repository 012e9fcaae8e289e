/** A way to store weights in fewer bits. */
export type Format = 'sym4' | 'sym8' | 'nf4' | 'fp4' | 'nf4-dq' | 'fp4-dq' | 'q4_0' | 'q8_0' | 'mxfp4';

/** Types of weights. `f16` and `bf16` are 16 bits each, `f16` also a `Float16Array` where there is one. */
export type Dtype = 'f32' | 'f16' | 'bf16';

/** Weights: `f32` numbers, or the bits of `f16` or `bf16`. Any typed array of these, at any offset. */
export type Weights = Float32Array | Uint16Array;

/** A row of the table of formats. */
export interface FormatInfo {
  name: Format;
  summary: string;
  /** Bits a code. */
  bits: number;
  /** Consecutive weights that share a scale. */
  block: number;
  /** The scale's type. */
  scale: string;
  /** Codes and scales together. */
  bits_per_weight: number;
  /** Whether a tensor's rows must be a multiple of the block. */
  whole_blocks: boolean;
  /** Layouts of one file that it can be written in. */
  containers: Container[];
}

/** A layout of one file. */
export type Container = 'native' | 'gguf' | 'mxfp4';

/** The table of formats. */
export function formats(): Promise<FormatInfo[]>;

/** Why a page gets no GPU here, as a sentence; `null` where it gets one. */
export function whyNoGpu(options?: { allowSoftware?: boolean }): Promise<string | null>;

export interface GpuOptions {
  /** The page's own device, with whatever limits and features. It stays the page's. */
  device?: GPUDevice;
  /** Whether a GPU in software counts. It is slower than the CPU path as a rule. */
  allowSoftware?: boolean;
  /** The kernels' shape, instead of the one that suits the GPU. The bytes are the same. */
  shape?: 'block' | 'serial' | 'tile';
}

export interface Stoppable<Progress> {
  /** Ends it: the promise is rejected with the signal's reason, and nothing remains. */
  signal?: AbortSignal;
  /** Told now and then how far it is. */
  onProgress?: (progress: Progress) => void;
}

/** How far a tensor is, in bytes of its weights. */
export interface TensorProgress {
  done: number;
  total: number;
}

/** How far a job is, in bytes of the input; what is verified in full counts twice. */
export interface JobProgress extends TensorProgress {
  /** The tensor that is worked on. */
  tensor: string;
}

/** How far values moved. All `null` where nothing was measured; `sqnr_db` also where nothing moved. */
export interface Figures {
  max_abs_error: number | null;
  mse: number | null;
  sqnr_db: number | null;
}

/**
 * What quantizes tensors in memory: a GPU, or the CPU path. It works on the thread that calls it. On a GPU it gives the
 * thread back between pieces of 16 MiB; the CPU path does not, so in a page use it for small tensors, or from a worker.
 */
export class Engine {
  private constructor();
  /** The browser's GPU, or the page's own `device`; `null` where there is none. */
  static gpu(options?: GpuOptions): Promise<Engine | null>;
  /** The CPU path. */
  static cpu(): Promise<Engine>;
  /** The GPU, or where there is none the CPU path. */
  static open(options?: GpuOptions): Promise<Engine>;
  readonly kind: 'gpu' | 'cpu';
  /** For people: the GPU as the browser tells it, or `CPU`. */
  readonly description: string;
  /** The device that it works on. */
  readonly device: GPUDevice | null;
  /** Packs weights. A `Uint16Array` needs `dtype`. Rejects with a sentence that says which weight is not finite. */
  quantize(
    format: Format,
    weights: Weights,
    options?: { dtype?: Dtype } & Stoppable<TensorProgress>,
  ): Promise<Packed>;
  /** Unpacks to `f32`. */
  dequantize(packed: Packed, options?: { dtype?: 'f32' } & Stoppable<TensorProgress>): Promise<Float32Array>;
  /** Unpacks to 16 bits, rounded once to nearest even. */
  dequantize(packed: Packed, options: { dtype: 'f16' | 'bf16' } & Stoppable<TensorProgress>): Promise<Uint16Array>;
  /** Brings packed weights to the GPU, to be multiplied there. Only on a GPU. */
  upload(packed: Packed): Promise<DeviceWeights>;
  /** Frees it, and its device unless the page gave it. */
  free(): void;
}

/** A packed tensor's parts, as they can be kept anywhere. */
export interface PackedParts {
  format: Format;
  /** How many weights. */
  length: number;
  /** `ceil(length · bits / 8)` bytes. */
  codes: Uint8Array;
  /** One scale a block, little-endian. */
  scales: Uint8Array;
  /** Of `-dq` formats: second-level scales, little-endian `f32`. */
  nestedAbsmax?: Uint8Array;
  /** Of `-dq` formats: what all scales have in common. */
  nestedOffset?: number;
}

/** A packed tensor, in wasm's memory. Parts are copied out each time that they are asked for. */
export class Packed {
  private constructor();
  /** From parts that were kept. Rejects if a part's length is not what `length` calls for. */
  static fromParts(parts: PackedParts): Promise<Packed>;
  readonly format: Format;
  readonly length: number;
  /** All parts together. */
  readonly byteLength: number;
  readonly codes: Uint8Array;
  readonly scales: Uint8Array;
  readonly nestedAbsmax: Uint8Array;
  readonly nestedOffset: number;
  /** BLAKE3 of all parts, in hexadecimal: the same as everywhere else. */
  readonly digest: string;
  /**
   * Recomputes every byte from the weights on the CPU, at once: rejects with a `MismatchError` at the first that differs.
   */
  verify(weights: Weights, options?: { dtype?: Dtype }): Promise<Figures>;
  /** Frees it now instead of when nothing refers to it any more. */
  free(): void;
}

export interface ProductOptions {
  /** Outputs: rows of the weights. */
  rows: number;
  /** Inputs: columns of the weights. */
  columns: number;
  /** One number for each row, of the type of `x`. */
  bias?: Weights;
  /** The type of `x`, bias and result: `f32` or `f16`. */
  dtype?: 'f32' | 'f16';
}

/** Packed weights in the GPU's memory. */
export class DeviceWeights {
  private constructor();
  /** Bytes in the GPU's memory. */
  readonly deviceBytes: number;
  /**
   * `y[v, r] = Σ x[v, c] · W[r, c] + bias[r]` straight from the codes, for as many vectors as `x` holds. Sums are in `f32`;
   * a GPU may round otherwise than another.
   */
  product(x: Float32Array, options: ProductOptions): Promise<Float32Array>;
  product(x: Uint16Array, options: ProductOptions & { dtype: 'f16' }): Promise<Uint16Array>;
  free(): void;
}

/** Where a job on files runs: the GPU and else the CPU; a GPU, in software too; or the CPU. */
export type Device = 'auto' | 'gpu' | 'cpu';

/** How a file is compressed. */
export interface QuantizeOptions extends Stoppable<JobProgress> {
  format: Format;
  /** The layout; the format's first unless said otherwise. */
  container?: Container;
  /** How much is recomputed and compared before the promise is kept. A sample unless said otherwise. */
  verify?: 'none' | 'sample' | 'full';
  /** Patterns of the names of weights to pack; without any, float tensors of two dimensions and 4,096 elements or more. */
  include?: string[];
  /** Patterns of names that are left alone. */
  exclude?: string[];
  minElements?: number;
  /** Copy what does not fit the format's blocks, instead of refusing the file. */
  copyUnfit?: boolean;
  /** Patterns, each with a format of its own or `keep`. */
  overrides?: [string, Format | 'keep'][];
  device?: Device;
}

/** A tensor of a compressed file. */
export interface QuantizedTensor extends Figures {
  name: string;
  action: 'quantized' | 'copied';
  format: Format | null;
  shape: number[];
  dtype: string;
  /** BLAKE3 of codes and scales, in hexadecimal. */
  digest: string | null;
  verified: 'none' | 'sample' | 'full';
}

export interface JobReport {
  /** Bytes that the worker's wasm memory took at most. */
  wasmMemoryBytes: number;
}

export interface QuantizeReport extends JobReport {
  adapter: string;
  seconds: number;
  format: Format;
  container: Container;
  bytes_in: number;
  bytes_out: number;
  tensors: QuantizedTensor[];
  /** Sentences that a person should read. */
  notices: string[];
}

export interface DequantizeReport extends JobReport {
  adapter: string;
  seconds: number;
  container: string;
  bytes_in: number;
  bytes_out: number;
  tensors: { name: string; action: 'dequantized' | 'copied'; shape: number[]; dtype: string; digest: string | null }[];
  notices: string[];
}

export interface VerifyReport extends JobReport {
  matches: boolean;
  /** What differs first, as a sentence. */
  mismatch: string | null;
  tensors: (Figures & {
    name: string;
    action: 'quantized' | 'copied';
    shape: number[];
    dtype: string;
    digest: string | null;
    /** The block with the largest error. */
    worst_block: number | null;
    verified: 'full';
    matches: boolean;
    mismatch?: string;
  })[];
}

export interface InspectReport extends JobReport {
  /** `null` for a file that is not compressed. */
  container: string | null;
  bytes: number;
  metadata: Record<string, string>;
  tensors: {
    name: string;
    format: Format | null;
    shape: number[];
    dtype: string;
    bytes: number;
    digest: string | null;
  }[];
}

/** What a job made. */
export interface Output<Report> {
  readonly report: Report;
  /** To be downloaded, stored or read. Good until `dispose`. */
  readonly file: File;
  /** Whether its bytes lie on disk, in the site's private files; else the browser keeps them as it likes. */
  readonly isOnDisk: boolean;
  /** Removes its bytes. What a page leaves behind is removed by the site's next job. */
  dispose(): Promise<void>;
}

/** Compresses a `.safetensors` or `.gguf` file in a worker, into the bytes that the command line gives. */
export function quantizeFile(file: Blob, options: QuantizeOptions): Promise<Output<QuantizeReport>>;

/** Turns a compressed file back into a plain one. Each weight's digest is checked first, where there are digests. */
export function dequantizeFile(
  file: Blob,
  options?: { dtype?: Dtype; device?: Device } & Stoppable<JobProgress>,
): Promise<Output<DequantizeReport>>;

/** Holds a compressed file against its original, every byte. What differs is in the report. */
export function verifyFile(original: Blob, quantized: Blob, options?: Stoppable<JobProgress>): Promise<VerifyReport>;

/** What a file holds. */
export function inspectFile(file: Blob, options?: { signal?: AbortSignal }): Promise<InspectReport>;

/** How many of a weight's values lie in each of equally wide bins. */
export interface Histogram {
  min: number;
  max: number;
  before: number[];
  after: number[];
}

/** How the values of some weights lie, in the original and in what was compressed. */
export function histograms(
  original: Blob,
  quantized: Blob,
  names: string[],
  options?: { /** 1 to 65,536; 64 unless said otherwise. */ bins?: number } & Stoppable<JobProgress>,
): Promise<Histogram[]>;

/** The library's case table on a GPU, by bits: how many comparisons there were, and a sentence for each that failed. */
export function selfTest(engine: Engine): Promise<{ nCompared: number; failures: string[] }>;

/** Every kernel that there is, as WGSL. */
export function shaders(): Promise<{ label: string; entryPoint: string; code: string }[]>;
