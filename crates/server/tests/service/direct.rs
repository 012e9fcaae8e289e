//! Direct requests: a checkpoint in the body, the result in the answer.

use serde_json::json;
use wgquant::checkpoint::{DequantizeOptions, QuantizeOptions, dequantize, quantize};
use wgquant::{Container, Dtype, Engine, Format};

use crate::common::{Answer, Service, checkpoint, file, floats, mixed};

/// What the command line's own call makes of a file.
pub(crate) fn quantized(bytes: &[u8], format: Format, container: Container) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&input, bytes).expect("a temporary folder");
    let options = QuantizeOptions { container, ..QuantizeOptions::new(format) };
    pollster::block_on(quantize(&Engine::Cpu, &input, &output, &options, &mut |_| {})).expect("quantized");
    std::fs::read(&output).expect("an output")
}

fn dequantized(bytes: &[u8], dtype: Option<Dtype>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&input, bytes).expect("a temporary folder");
    let options = DequantizeOptions { dtype, ..DequantizeOptions::default() };
    pollster::block_on(dequantize(&Engine::Cpu, &input, &output, options, &mut |_| {})).expect("dequantized");
    std::fs::read(&output).expect("an output")
}

/// A form of these parts.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let head = format!("--limit\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
        body.extend(head.as_bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--limit--\r\n");
    body
}

pub(crate) fn verify(service: &Service, parts: &[(&str, &[u8])]) -> Answer {
    let body = form(parts);
    service.send("POST /v1/verify", &[("content-type", "multipart/form-data; boundary=limit")], &body)
}

#[test]
fn the_real_checkpoint_gets_the_bytes_that_the_command_line_gives() {
    let service = Service::start();
    let input = std::fs::read(checkpoint()).expect("the checkpoint");
    for format in [Format::Sym4, Format::Nf4Dq, Format::Q8_0] {
        let wanted = quantized(&input, format, Container::Native);
        let answer = service.post(&format!("/v1/quantize?format={format}&container=native"), &input);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body == wanted, "{format}: another file");
        assert_eq!(answer.header("wgquant-tensors-quantized"), Some("39"));
        let back = service.post("/v1/dequantize?dtype=f32", &wanted);
        assert!(back.body == dequantized(&wanted, Some(Dtype::F32)), "{format}: other values");
        let verified = verify(&service, &[("original", &input), ("quantized", &wanted)]);
        assert_eq!((verified.status, &verified.json()["matches"]), (200, &json!(true)), "{}", verified.text());
    }
    service.is_well();
}

#[test]
fn formats_containers_and_options() {
    let service = Service::start();
    let bytes = file(&[floats("model.a.weight", &[64, 128], 1), floats("model.b.weight", &[64, 64], 2)]);
    for (container, name) in [(Container::Native, "native"), (Container::Gguf, "gguf"), (Container::Mxfp4, "mxfp4")] {
        let answer = service.post(&format!("/v1/quantize?format=mxfp4&container={name}&verify=full"), &bytes);
        assert!(answer.body == quantized(&bytes, Format::Mxfp4, container), "{name}: another file");
        let verified = verify(&service, &[("original", &bytes), ("quantized", &answer.body)]).json();
        assert_eq!(verified["matches"], true, "{name}: {verified}");
    }
    for container in ["bnb", "compressed-tensors"] {
        let answer = service.post(&format!("/v1/quantize?format=nf4&container={container}"), &bytes);
        answer.is_problem(400, "submit a job for it");
    }
    let kept = service.post("/v1/quantize?format=nf4&override=*b*%3Dkeep,*a*%3Dsym8", &bytes);
    assert_eq!(
        (kept.header("wgquant-tensors-quantized"), kept.header("wgquant-tensors-copied")),
        (Some("1"), Some("1"))
    );
    let halves = service.post("/v1/dequantize?dtype=bf16", &kept.body);
    assert!(halves.body == dequantized(&kept.body, Some(Dtype::BF16)));
    for (query, wanted) in [
        ("format=nf5", "there is no format \"nf5\""),
        ("", "missing field `format`"),
        ("format=nf4&formt=nf4", "unknown field `formt`"),
        ("format=nf4&container=zip", "there is no container \"zip\""),
        ("format=nf4&verify=most", "there are: none, sample, full"),
        ("format=nf4&min_elements=-1", "min_elements"),
        ("format=nf4&override=x", "it is PATTERN=FORMAT"),
        ("format=nf4&include=%5B", "[\""),
    ] {
        let answer = service.post(&format!("/v1/quantize?{query}"), &bytes);
        answer.is_problem(400, wanted.trim_end_matches('"'));
    }
    service.post("/v1/dequantize?dtype=f64", &kept.body).is_problem(400, "there are: f32, f16, bf16");
    service.is_well();
}

#[test]
fn verify_says_what_differs() {
    let service = Service::start();
    let bytes = file(&mixed());
    let packed = quantized(&bytes, Format::Sym4, Container::Native);
    // In another order too.
    let right = verify(&service, &[("quantized", &packed), ("original", &bytes)]);
    assert_eq!((right.status, &right.json()["matches"]), (200, &json!(true)));
    assert!(right.json()["tensors"][0]["mse"].as_f64().is_some_and(|mse| mse > 0.0));
    let mut damaged = packed.clone();
    let last = damaged.len() - 40;
    damaged[last] ^= 1;
    let wrong = verify(&service, &[("original", &bytes), ("quantized", &damaged)]);
    assert_eq!((wrong.status, &wrong.json()["matches"]), (200, &json!(false)));
    assert!(wrong.json()["mismatch"].as_str().is_some_and(|text| text.contains("tensor \"")), "{}", wrong.text());
    for (parts, status, wanted) in [
        (&[("original", &bytes[..])][..], 400, "no part \"quantized\""),
        (&[("original", &bytes), ("original", &bytes)], 400, "two parts \"original\""),
        (&[("original", &bytes), ("other", &bytes)], 400, "a part \"other\""),
        (&[("original", &bytes), ("quantized", &bytes)], 422, "was not quantized by wgquant"),
    ] {
        verify(&service, parts).is_problem(status, wanted);
    }
    service.post("/v1/verify", &bytes).is_problem(415, "multipart/form-data");
    service.is_well();
}

/// A body without a declared length, in pieces.
#[test]
fn a_body_in_chunks() {
    let service = Service::start();
    let bytes = file(&mixed());
    let mut body = Vec::new();
    for piece in bytes.chunks(5000) {
        body.extend(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend(piece);
        body.extend(b"\r\n");
    }
    body.extend(b"0\r\n\r\n");
    let answer = service.send("POST /v1/quantize?format=sym8", &[("transfer-encoding", "chunked")], &body);
    assert!(answer.body == quantized(&bytes, Format::Sym8, Container::Native));
    service.is_well();
}
