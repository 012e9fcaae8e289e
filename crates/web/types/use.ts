// What an app writes with the package: compiled, and not run, so that its types hold together.

import {
  type Container,
  DeviceWeights,
  type Dtype,
  Engine,
  type Format,
  type Output,
  Packed,
  type QuantizeReport,
  dequantizeFile,
  formats,
  histograms,
  inspectFile,
  quantizeFile,
  selfTest,
  shaders,
  verifyFile,
  whyNoGpu,
} from 'wgquant';

const names: Format[] = (await formats()).map(({ name }) => name);
const containers: Container[] = (await formats()).flatMap((row) => row.containers);
const why: string | null = await whyNoGpu({ allowSoftware: true });

const weights = new Float32Array(64);
const halves = new Uint16Array(64);
const stop = new AbortController();

const device = await (await navigator.gpu.requestAdapter())!.requestDevice();
const engine: Engine = (await Engine.gpu({ device, shape: 'tile' })) ?? (await Engine.cpu());
const packed: Packed = await engine.quantize('nf4', weights, {
  signal: stop.signal,
  onProgress: ({ done, total }) => console.log(done / total),
});
const dtype: Dtype = 'bf16';
await engine.quantize('sym8', halves, { dtype });
const plain: Float32Array = await engine.dequantize(packed);
const bits: Uint16Array = await engine.dequantize(packed, { dtype: 'f16' });
const again: Packed = await Packed.fromParts({
  format: packed.format,
  length: packed.length,
  codes: packed.codes,
  scales: packed.scales,
});
const { sqnr_db: decibels } = await again.verify(weights);

const matrix: DeviceWeights = await engine.upload(packed);
const y: Float32Array = await matrix.product(weights, { rows: 1, columns: 64, bias: plain });
const z: Uint16Array = await matrix.product(halves, { rows: 1, columns: 64, dtype: 'f16' });

const file = new File([], 'model.safetensors');
const output: Output<QuantizeReport> = await quantizeFile(file, {
  format: 'q8_0',
  container: 'gguf',
  verify: 'full',
  overrides: [['lm_head*', 'keep']],
  signal: stop.signal,
  onProgress: ({ tensor }) => console.log(tensor),
});
const worst = output.report.tensors.filter(({ action }) => action === 'quantized').map(({ name }) => name);
const [histogram] = await histograms(file, output.file, worst, { bins: 48 });
const { matches, mismatch } = await verifyFile(file, output.file);
const { tensors } = await inspectFile(output.file);
const back = await dequantizeFile(output.file, { dtype: 'f16' });
await output.dispose();
const { nCompared, failures } = await selfTest(engine);
const [shader] = await shaders();

console.log(names, containers, why, bits, decibels, y, z, histogram?.before, matches, mismatch, tensors);
console.log(back.report.tensors[0]?.digest, nCompared, failures, shader?.entryPoint);

// @ts-expect-error: there is no such format
await engine.quantize('int3', weights);
// @ts-expect-error: 16 bits are of a type that must be said, and of no third
await engine.quantize('nf4', halves, { dtype: 'f64' });
// @ts-expect-error: engines are opened
new Engine();
// @ts-expect-error: a folder is no output of a browser's
await quantizeFile(file, { format: 'nf4', container: 'bnb' });
