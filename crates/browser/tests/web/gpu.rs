//! The shaders and the case table on another implementation of WebGPU than the library's own.

use wgquant::gpu::{Kernel, ProductKernel, ProductShape};

use crate::common::{LONG, package, strings};

/// What the browser says of WGSL, with what was compiled: the module's messages, and the pipeline's errors. Whatever else the
/// device complains of goes to the console.
const COMPILE: &str = "
globalThis.device ??= await (await navigator.gpu.requestAdapter()).requestDevice();
globalThis.complaints = async ({ label, entryPoint, code }) => {
  const module = device.createShaderModule({ label, code });
  const { messages } = await module.getCompilationInfo();
  const said = messages.map(({ type, lineNum, message }) => `${label}: ${type} in line ${lineNum}: ${message}`);
  await device.createComputePipelineAsync({ label, layout: 'auto', compute: { module, entryPoint } })
    .catch((error) => said.push(`${label}: ${error.message}`));
  return said;
};";

#[test]
fn every_entry_point_compiles_without_a_word() {
    let (_server, mut page) = package();
    page.eval(&format!("(async () => {{ {COMPILE} }})()"));
    // The check sees what is no WGSL, and what naga lets pass.
    let error = page
        .eval("complaints({ label: 'x', entryPoint: 'f', code: '@compute @workgroup_size(1) fn f() { nothing(); }' })");
    assert!(strings(&error).len() > 1, "{error}");
    let uniformity = "var<workgroup> n: u32; @group(0) @binding(0) var<storage, read_write> out: u32;\
                      @compute @workgroup_size(2) fn f(@builtin(local_invocation_index) i: u32) {\
                      if (i == 0u) { workgroupBarrier(); } n = i; out = n; }";
    let refused = page.eval(&format!("complaints({{ label: 'x', entryPoint: 'f', code: {uniformity:?} }})"));
    assert!(strings(&refused).iter().any(|text| text.contains("uniform")), "{refused}");

    let compiled = page.eval_within(
        LONG,
        "(async () => {
           const all = await wgquant.shaders();
           const texts = new Map(all.map((shader) => [shader.entryPoint + shader.code, shader]));
           const errors = [];
           device.onuncapturederror = ({ error }) => errors.push(error.message);
           const said = (await Promise.all([...texts.values()].map(complaints))).flat().concat(errors);
           return { n: all.length, distinct: texts.size, entryPoints: [...new Set(all.map((s) => s.entryPoint))], said };
         })()",
    );
    println!("{} kernels, {} of them with a text of their own", compiled["n"], compiled["distinct"]);
    assert_eq!(strings(&compiled["said"]), Vec::<String>::new());
    // Subgroups are not for browsers: their text would need a line that naga doesn't know. Nor have browsers 64-bit integers.
    let packing = || Kernel::all().filter(|kernel| kernel.needs().is_empty());
    let products = || ProductKernel::all().filter(|kernel| kernel.shape != ProductShape::RowsInSubgroups);
    assert_eq!(compiled["n"], packing().count() + products().count());
    let mut entry_points = strings(&compiled["entryPoints"]);
    let mut expected: Vec<_> = packing().map(|kernel| kernel.entry_point().to_owned()).collect();
    expected.extend(products().map(|kernel| kernel.entry_point().to_owned()));
    expected.sort();
    expected.dedup();
    entry_points.sort();
    assert_eq!(entry_points, expected);
}

/// All formats, both directions, all types, subnormals and what is not finite: by bits. SwiftShader flushes subnormals in
/// float arithmetic, of which the kernels have none.
fn case_table(shape: &str) {
    let (_server, mut page) = package();
    let ran = page.eval_within(
        LONG,
        &format!(
            "(async () => {{
               const engine = await wgquant.Engine.gpu({{ allowSoftware: true, shape: '{shape}' }});
               const start = performance.now();
               const {{ nCompared, failures }} = await wgquant.selfTest(engine);
               return {{ nCompared, failures, on: engine.description, seconds: (performance.now() - start) / 1000 }};
             }})()"
        ),
    );
    println!("{shape}: {} comparisons on {} in {} s", ran["nCompared"], ran["on"], ran["seconds"]);
    assert_eq!(strings(&ran["failures"]), Vec::<String>::new());
    let shape = wgquant::gpu::Shape::from_name(shape).unwrap();
    let expected: usize = Kernel::all()
        .filter(|kernel| kernel.shape == shape && kernel.access == wgquant::gpu::Access::Vectors)
        .map(|kernel| match kernel.direction {
            wgquant::gpu::Direction::Quantize => {
                let of = |cases: Vec<_>| cases.len();
                of(wgquant::selftest::cases(kernel.format, kernel.dtype))
                    + of(wgquant::selftest::non_finite_cases(kernel.format, kernel.dtype))
            }
            wgquant::gpu::Direction::Dequantize => wgquant::selftest::packed_cases(kernel.format).len(),
        })
        .sum();
    assert_eq!(ran["nCompared"], expected);
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[test]
fn the_case_table_passes_in_serial_kernels() {
    case_table("serial");
}

#[test]
fn the_case_table_passes_in_tile_kernels() {
    case_table("tile");
}

#[test]
fn the_case_table_passes_in_block_kernels() {
    case_table("block");
}
