//! `wgquant compare`: what it says of formats is what `quantize` gives.

use serde_json::{Value, json};
use wgquant::Format;

use crate::common::{Folder, Tensor, file, floats, mixed, tensor};
use crate::output::keys;

const FIGURES: [&str; 3] = ["max_abs_error", "mse", "sqnr_db"];

/// Tensors that every format fits; one takes several pieces, and its nested scales several second-level blocks.
fn fitting() -> Vec<Tensor> {
    vec![
        floats("a.weight", "F32", &[70, 64], 1),
        floats("ids", "F64", &[3], 2),
        floats("b.weight", "F16", &[65, 96], 3),
        floats("big.weight", "BF16", &[1100, 1024], 4),
        tensor("zeros.weight", "F32", &[64, 64], vec![0; 16384]),
    ]
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

#[test]
fn figures_are_those_of_quantize() {
    let folder = Folder::with("in", &file(&fitting()));
    let compared = folder.json(&["compare", "in"]);
    assert_eq!(keys(&compared), ["bytes_in", "elements", "formats", "seconds", "tensors"]);
    assert_eq!(list(&compared, "formats").len(), Format::ALL.len());
    let mut n_compared = 0;
    for (ix, &format) in Format::ALL.iter().enumerate() {
        let quantized = folder.quantize(format.name(), &["--force", "--verify", "full"]);
        let verified = folder.json(&["verify", "in", "out"]);
        let inspected = folder.json(&["inspect", "out"]);
        let total = &compared["formats"][ix];
        let wanted =
            ["bits_per_weight", "bytes_out", "format", "frontier", "max_abs_error", "mse", "sqnr_db", "unfit_tensors"];
        assert_eq!(keys(total), wanted);
        assert_eq!((&total["format"], &total["unfit_tensors"]), (&json!(format.name()), &json!(0)));
        let mut bytes_out = 0;
        for tensor in list(&compared, "tensors") {
            assert_eq!(keys(tensor), ["bytes_in", "dtype", "formats", "name", "shape"]);
            let found = &tensor["formats"][ix];
            let wanted = ["bytes_out", "format", "max_abs_error", "mse", "sqnr_db", "unfit", "worst_block"];
            assert_eq!(keys(found), wanted);
            assert_eq!((&found["format"], &found["unfit"]), (&json!(format.name()), &Value::Null));
            let named = |document: &Value| {
                list(document, "tensors").iter().find(|other| other["name"] == tensor["name"]).unwrap().clone()
            };
            for figure in FIGURES {
                assert_eq!(found[figure], named(&quantized)[figure], "{format} {} {figure}", tensor["name"]);
            }
            assert_eq!(found["worst_block"], named(&verified)["worst_block"]);
            // The native container adds a digest of 32 bytes.
            assert_eq!(found["bytes_out"].as_u64().unwrap() + 32, named(&inspected)["bytes"].as_u64().unwrap());
            bytes_out += found["bytes_out"].as_u64().unwrap();
            n_compared += 1;
        }
        assert_eq!(total["bytes_out"], bytes_out);
        let bits = bytes_out as f64 * 8.0 / compared["elements"].as_f64().unwrap();
        assert_eq!(total["bits_per_weight"], bits);
    }
    assert_eq!(n_compared, 4 * Format::ALL.len());
    assert_eq!(folder.names(), ["in", "out"], "nothing but what quantize wrote");
}

/// The marks are what the definition gives for the figures that stand beside them.
#[test]
fn the_frontier_is_that_of_the_figures() {
    let folder = Folder::with("in", &file(&fitting()));
    let compared = folder.json(&["compare", "in"]);
    let point = |format: &Value| (format["bytes_out"].as_u64().unwrap(), format["mse"].as_f64().unwrap());
    let formats = list(&compared, "formats");
    for format in formats {
        let (size, error) = point(format);
        let is_beaten = formats.iter().map(point).any(|(a, b)| a <= size && b <= error && (a < size || b < error));
        assert_eq!(format["frontier"], !is_beaten, "{format}");
    }
    assert!(formats.iter().any(|format| format["frontier"] == true));
    assert!(formats.iter().any(|format| format["frontier"] == false));
}

#[test]
fn formats_that_do_not_fit_are_shown() {
    let large: Vec<u8> = [1e30_f32, -1.0].repeat(2048).into_iter().flat_map(f32::to_le_bytes).collect();
    let tensors = [&mixed()[..], &[tensor("large.weight", "F32", &[64, 64], large)]].concat();
    let folder = Folder::with("in", &file(&tensors));
    let compared = folder.json(&["compare", "in", "--formats", "q4_0,sym8,q4_0,mxfp4"]);
    let formats: Vec<_> = list(&compared, "formats").iter().map(|format| format["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["q4_0", "sym8", "mxfp4"], "as they were asked for, each once");
    let outcome = |name: &str, ix: usize| {
        list(&compared, "tensors").iter().find(|tensor| tensor["name"] == name).unwrap()["formats"][ix].clone()
    };
    let unfit = outcome("a.weight", 0);
    assert_eq!(unfit["unfit"], "its rows of 61 elements are no multiple of 32");
    for key in [&FIGURES[..], &["bytes_out", "worst_block"]].concat() {
        assert!(unfit[key].is_null(), "{key}");
    }
    assert!(outcome("large.weight", 0)["unfit"].as_str().unwrap().starts_with("the scale of block 0 would be"));
    assert!(outcome("large.weight", 2)["unfit"].is_null() && outcome("a.weight", 1)["unfit"].is_null());
    // q4_0 fits none of the four: it would leave all as they are, which is no choice.
    let total = &compared["formats"][0];
    assert_eq!((&total["unfit_tensors"], &total["bytes_out"]), (&json!(4), &compared["bytes_in"]));
    assert_eq!((&total["frontier"], &total["sqnr_db"]), (&json!(false), &Value::Null));
    // mxfp4 fits one, and the others count as they are.
    let kept = compared["bytes_in"].as_u64().unwrap() - 4096 * 4;
    assert_eq!(compared["formats"][2]["bytes_out"], kept + 4096 / 2 + 4096 / 32);
    let text = folder.ok(&["compare", "in"]);
    assert!(text.contains("unfit") && text.contains("frontier") && text.contains("mxfp4"), "{text}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.fails(2, &["compare", "in", "--formats", "sym4,nf5"], "there is no format \"nf5\"; there are: sym4");
    folder.fails(1, &["compare", "in", "--include", "x*"], "in: --include \"x*\" matches no tensor");
    folder.fails(1, &["compare", "in", "--min-elements", "9000000"], "in: has no tensor to compare");
    folder.fails(1, &["compare", "nothing"], "nothing: ");
    folder.quantize("sym4", &[]);
    folder.fails(1, &["compare", "out"], "out: was quantized already");
    let mut bytes = vec![0; 16384];
    bytes[4000..4004].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.write("nan", &file(&[tensor("w", "F32", &[64, 64], bytes)]));
    folder.fails(1, &["compare", "nan"], "nan: tensor \"w\": element 1000 is NaN");
}
