//! The shaders as text and as naga sees them: integers only, translatable to every backend, and structs that match Rust's.

use std::collections::BTreeSet;
use std::path::Path;

use naga::proc::BoundsCheckPolicies;
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{Expression, Function, Module, Statement, TypeInner};
use wgquant::gpu::{Kernel, Params, ProductKernel, ProductParams};

fn parse(label: &str, source: &str) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string_with_path(source, label))?;
    // All that WebGPU has without any feature, but for the kernels that are there for one.
    let mut features = if in_subgroups(source) { Capabilities::SUBGROUP } else { Capabilities::empty() };
    features.set(Capabilities::SHADER_INT64, in_pairs(source));
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32 | features)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::BASIC | naga::valid::SubgroupOperationSet::ARITHMETIC)
        .validate(&module)
        .map_err(|error| error.emit_to_string_with_path(source, label))?;
    Ok((module, info))
}

/// Whether a kernel is only for devices with subgroups.
fn in_subgroups(source: &str) -> bool {
    source.contains("// ---- product/rows_subgroups.wgsl\n")
}

/// Whether a kernel is only for devices with 64-bit integers.
fn in_pairs(source: &str) -> bool {
    source.contains("_pairs.wgsl\n")
}

/// A kernel of one of the tables.
struct Shader {
    label: String,
    source: String,
    entry_point: &'static str,
    /// Whether it multiplies, and so may use floating point.
    is_product: bool,
    /// Whether it guesses in floating point what integers settle.
    guesses: bool,
}

fn all_shaders() -> Vec<Shader> {
    let packing = Kernel::all().map(|kernel| Shader {
        label: kernel.label(),
        source: kernel.source(),
        entry_point: kernel.entry_point(),
        is_product: false,
        guesses: kernel.guesses(),
    });
    let products = ProductKernel::all().map(|kernel| Shader {
        label: kernel.label(),
        source: kernel.source(),
        entry_point: kernel.entry_point(),
        is_product: true,
        guesses: false,
    });
    packing.chain(products).collect()
}

/// Gathers what every kernel's check has to say and fails once, with all of it.
fn for_all_kernels(check: impl Fn(&Shader, &Module, &ModuleInfo) -> Result<(), String>) {
    let mut failures = Vec::new();
    let shaders = all_shaders();
    assert!(shaders.len() >= 200, "only {} kernels", shaders.len());
    for shader in shaders {
        let label = &shader.label;
        let result = parse(label, &shader.source).and_then(|(module, info)| check(&shader, &module, &info));
        failures.extend(result.err().map(|error| format!("{label}: {error}")));
    }
    assert!(failures.is_empty(), "{} kernels:\n{}", failures.len(), failures.join("\n"));
}

/// Every floating-point expression that the entry point can reach.
fn floats(module: &Module, info: &ModuleInfo, entry_point: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let index = module.entry_points.iter().position(|e| e.name == entry_point).expect("the entry point is there");
    let mut open: Vec<(&Function, &FunctionInfo)> =
        vec![(&module.entry_points[index].function, info.get_entry_point(index))];
    while let Some((function, function_info)) = open.pop() {
        let name = function.name.as_deref().unwrap_or(entry_point);
        for (handle, expression) in function.expressions.iter() {
            if is_float(module, function_info[handle].ty.inner_with(&module.types)) {
                found.push(format!("{name}: {expression:?}"));
            }
            if let Expression::CallResult(callee) = *expression
                && seen.insert(callee)
            {
                open.push((&module.functions[callee], &info[callee]));
            }
        }
        let locals = function.local_variables.iter().map(|(_, local)| local.ty);
        let arguments = function.arguments.iter().map(|argument| argument.ty);
        for ty in locals.chain(arguments).chain(function.result.as_ref().map(|result| result.ty)) {
            if is_float(module, &module.types[ty].inner) {
                found.push(format!("{name}: a float in its variables"));
            }
        }
        for callee in calls(&function.body) {
            if seen.insert(callee) {
                open.push((&module.functions[callee], &info[callee]));
            }
        }
    }
    found
}

/// Functions that a block calls, those without a result too.
fn calls(block: &naga::Block) -> Vec<naga::Handle<Function>> {
    let mut found = Vec::new();
    for statement in block {
        match statement {
            Statement::Call { function, .. } => found.push(*function),
            Statement::Block(inner) => found.extend(calls(inner)),
            Statement::If { accept, reject, .. } => found.extend([accept, reject].into_iter().flat_map(calls)),
            Statement::Switch { cases, .. } => found.extend(cases.iter().flat_map(|case| calls(&case.body))),
            Statement::Loop { body, continuing, .. } => found.extend([body, continuing].into_iter().flat_map(calls)),
            _ => {}
        }
    }
    found
}

fn is_float(module: &Module, inner: &TypeInner) -> bool {
    match inner {
        TypeInner::Array { base, .. } | TypeInner::Pointer { base, .. } => is_float(module, &module.types[*base].inner),
        TypeInner::Struct { members, .. } => members.iter().any(|m| is_float(module, &module.types[m.ty].inner)),
        inner => inner
            .scalar_kind()
            .is_some_and(|kind| matches!(kind, naga::ScalarKind::Float | naga::ScalarKind::AbstractFloat)),
    }
}

/// Whatever quantizes or dequantizes has none, but for the kernels that guess. Products and those must have some, or the walk
/// would have missed them; and of those that guess, only two functions have some: numbers go through all others as bits.
#[test]
fn no_kernel_has_a_floating_point_expression() {
    for_all_kernels(|shader, module, info| match floats(module, info, shader.entry_point) {
        found if found.is_empty() => {
            if shader.is_product || shader.guesses {
                Err("no floating point found where there is some".to_owned())
            } else {
                Ok(())
            }
        }
        _ if shader.is_product => Ok(()),
        mut found => {
            if shader.guesses {
                found.retain(|float| !["tell: ", "sum: "].iter().any(|function| float.starts_with(function)));
            }
            if found.is_empty() { Ok(()) } else { Err(format!("floating point in reach: {}", found.join("; "))) }
        }
    });
    let guessing: BTreeSet<_> =
        Kernel::all().filter(|k| k.guesses()).map(|k| format!("{} {:?}", k.format, k.shape)).collect();
    assert_eq!(
        guessing.iter().map(String::as_str).collect::<Vec<_>>(),
        ["nf4 Tile", "nf4-dq Tile", "q8_0 Tile", "sym4 Tile", "sym8 Tile"],
        "these and no others"
    );
    let packing = ["quantize", "dequantize"];
    for shader in all_shaders() {
        let packs = packing.iter().any(|word| shader.entry_point.starts_with(word));
        assert_eq!(packs, !shader.is_product, "{}: products alone are exempt", shader.label);
    }
}

/// The walk must find a float in a nested call, in a variable, and in a comparison whose result is none.
#[test]
fn the_walk_for_floats_can_fail() {
    for body in [
        "out[0] = helper(out[1]);",
        "var x: array<f32, 2>; x[out[1]] = f32(out[0]); out[0] = bitcast<u32>(x[0]);",
        "if bitcast<f32>(out[0]) > bitcast<f32>(out[1]) { out[0] = 1u; }",
        "for (var i = 0u; i < 3u; i++) { nothing(); }",
        "out[0] = u32(f32(out[1]));",
    ] {
        let source = format!(
            "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
             fn helper(x: u32) -> u32 {{ return bitcast<u32>(bitcast<f32>(x) * 2.0); }}
             fn nothing() {{ out[0] = helper(1u); }}
             fn unused(x: f32) -> f32 {{ return x; }}
             @compute @workgroup_size(1) fn main() {{ {body} }}"
        );
        let (module, info) = parse("control", &source).expect("valid");
        assert!(!floats(&module, &info, "main").is_empty(), "not found in: {body}");
    }
    let unused = "fn unused(x: f32) -> f32 { return x; } @compute @workgroup_size(1) fn main() { }";
    let (module, info) = parse("control", unused).expect("valid");
    assert!(floats(&module, &info, "main").is_empty(), "what is out of reach does not count");
}

/// The front end folds constants, so floats must not stand in the text either, but for what products alone are made of, and
/// guesses.
#[test]
fn no_shader_text_names_a_float() {
    let mut n = 0;
    for (path, text) in shader_files() {
        if path.starts_with("product/") {
            let in_packing = Kernel::all().any(|kernel| kernel.source().contains(&format!("// ---- {path}\n")));
            assert!(!in_packing, "{path} is in a kernel that quantizes or dequantizes");
            continue;
        }
        if path.starts_with("guesses/") {
            let mut kernels = Kernel::all().filter(|kernel| kernel.source().contains(&format!("// ---- {path}\n")));
            assert!(kernels.all(Kernel::guesses), "{path} is in a kernel that isn't named");
            continue;
        }
        n += 1;
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')) {
                let literal = word.starts_with(|c: char| c.is_ascii_digit())
                    && !word.starts_with("0x")
                    && (word.contains('.') || word.ends_with(['f', 'h']));
                let a_float = ["f32", "f16", "vec2f", "vec3f", "vec4f", "vec2h", "vec3h", "vec4h"].contains(&word);
                assert!(!literal && !a_float, "{path}:{}: {line}", number + 1);
            }
        }
    }
    assert!(n > 10, "only {n} shader files");
}

#[test]
fn every_shader_translates_to_every_backend() {
    for_all_kernels(|shader, module, info| {
        let entry_point = shader.entry_point.to_owned();
        let stage = naga::ShaderStage::Compute;

        let words = naga::back::spv::write_vec(
            module,
            info,
            &naga::back::spv::Options::default(),
            Some(&naga::back::spv::PipelineOptions { shader_stage: stage, entry_point: entry_point.clone() }),
        )
        .map_err(|error| format!("SPIR-V: {error}"))?;
        assert!(words.len() > 100);

        let options = naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
        let (text, _) = naga::back::msl::write_string(module, info, &options, &Default::default())
            .map_err(|error| format!("MSL: {error}"))?;
        assert!(text.contains("kernel void"));

        let mut text = String::new();
        let mut options = naga::back::hlsl::Options::default();
        if in_subgroups(&shader.source) || in_pairs(&shader.source) {
            options.shader_model = naga::back::hlsl::ShaderModel::V6_0;
        }
        naga::back::hlsl::Writer::new(&mut text, &options, &Default::default())
            .write(module, info, None)
            .map_err(|error| format!("HLSL: {error}"))?;
        assert!(text.contains("[numthreads("));

        if in_subgroups(&shader.source) || in_pairs(&shader.source) {
            return Ok(()); // GL has neither
        }
        let mut text = String::new();
        let options = naga::back::glsl::Options {
            version: naga::back::glsl::Version::new_gles(310),
            ..naga::back::glsl::Options::default()
        };
        let pipeline = naga::back::glsl::PipelineOptions { shader_stage: stage, entry_point, multiview: None };
        naga::back::glsl::Writer::new(&mut text, module, info, &options, &pipeline, BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write())
            .map_err(|error| format!("GLSL: {error}"))?;
        assert!(text.contains("void main()"));
        Ok(())
    });
}

#[test]
fn uniforms_match_their_rust_structs() {
    macro_rules! members {
        ($params:ty: $($name:ident)*) => {
            (vec![$((stringify!($name), std::mem::offset_of!($params, $name))),*], size_of::<$params>())
        };
    }
    for_all_kernels(|shader, module, _| {
        let uniform = module
            .global_variables
            .iter()
            .find(|(_, global)| global.space == naga::AddressSpace::Uniform)
            .map(|(_, global)| &module.types[global.ty]);
        let Some(naga::Type { inner: TypeInner::Struct { members, span }, .. }) = uniform else {
            return Err("no uniform struct".to_owned());
        };
        let (ours, size) = if shader.is_product {
            members!(ProductParams: n_rows n_cols n_vectors y_stride skip codes_at scales_at x_at y_at bias_at has_bias _pad)
        } else {
            members!(Params: n_elems n_blocks values_at codes_at scales_at status_at skip _pad)
        };
        let theirs: Vec<_> =
            members.iter().map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize)).collect();
        if theirs != ours || *span as usize != size {
            return Err(format!("members at {theirs:?}, {span} bytes; in Rust at {ours:?}, {size} bytes"));
        }
        Ok(())
    });
}

/// Every file under `shaders/` is in some kernel, and every entry point in them is in the table.
#[test]
fn every_shader_file_and_entry_point_is_in_the_table() {
    let shaders = all_shaders();
    let entry_points: BTreeSet<_> = shaders.iter().map(|shader| shader.entry_point).collect();
    let sources: String = shaders.into_iter().map(|shader| shader.source).collect();
    for (path, text) in shader_files() {
        assert!(sources.contains(&format!("// ---- {path}\n")), "{path} is in no kernel");
        for after in text.split("@workgroup_size").skip(1) {
            let name = after.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or_default();
            assert!(entry_points.contains(name), "{path}: the entry point {name:?} is not in the table");
        }
    }
}

/// The table of cells says what the thresholds do, and how far guesses may be off.
#[test]
fn the_cells_of_nf4_have_its_thresholds() {
    let files = shader_files();
    let text = |path: &str| &files.iter().find(|(found, _)| found == path).expect("a shader").1;
    let number_after = |text: &str, name: &str| -> f64 {
        let rest = text.split_once(name).expect("a constant of that name").1;
        rest.split([';', 'u']).next().expect("a value").parse().expect("a number")
    };
    let (guess, nf4) = (text("guesses/guess.wgsl"), text("guesses/nf4.wgsl"));
    let doubt = number_after(guess, "const DOUBT: u32 = ");
    // Cell 0 stands where the sum is 192; see the file.
    let (steps, middle) = (number_after(nf4, "const STEPS: f32 = "), number_after(nf4, "const OFFSET: f32 = ") - 192.0);

    let mut cells = [(0xffff_u32, 0_u32); 32];
    for threshold in wgquant::quant::nf4::thresholds() {
        let place = (f64::from(threshold) * steps + middle) * 65_536.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than 32 cells")]
        let (cell, fraction) = (place as usize >> 16, (place as u32) & 0xffff);
        assert_eq!(cells[cell].0, 0xffff, "two thresholds in cell {cell}");
        assert!((16..65_520).contains(&fraction), "a guess in doubt has two cells");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few units")]
        let doubt = doubt as u32;
        cells[cell].0 = fraction - doubt;
        cells[cell + 1..].iter_mut().for_each(|(_, n_below)| *n_below += 1);
    }
    let expected: Vec<u32> =
        cells.iter().map(|(fraction, n_below)| fraction.wrapping_sub((n_below + 1) << 16)).collect();
    let table = nf4.split_once("array<u32, 32>(").and_then(|(_, rest)| rest.split_once(')')).expect("a table").0;
    let words = table.split(',').map(|word| word.trim().trim_start_matches("0x").trim_end_matches('u'));
    let actual: Vec<u32> =
        words.filter(|word| !word.is_empty()).map(|word| u32::from_str_radix(word, 16).expect("hexadecimal")).collect();
    assert_eq!(actual, expected);
}

/// Paths under `shaders/` and texts.
fn shader_files() -> Vec<(String, String)> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, root, found);
            } else {
                let path = entry.strip_prefix(root).expect("under the root").to_string_lossy().into_owned();
                found.push((path, std::fs::read_to_string(&entry).expect("text")));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found
}
