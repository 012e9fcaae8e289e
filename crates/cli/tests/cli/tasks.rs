//! A job in tasks, each a process of its own, and the one that finishes it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Folder, file_at, floats, tensor};

const N_SHARDS: usize = 24;
const NAMES: [&str; N_SHARDS] = [
    "t00.weight",
    "t01.weight",
    "t02.weight",
    "t03.weight",
    "t04.weight",
    "t05.weight",
    "t06.weight",
    "t07.weight",
    "t08.weight",
    "t09.weight",
    "t10.weight",
    "t11.weight",
    "t12.weight",
    "t13.weight",
    "t14.weight",
    "t15.weight",
    "t16.weight",
    "t17.weight",
    "t18.weight",
    "t19.weight",
    "t20.weight",
    "t21.weight",
    "t22.weight",
    "t23.weight",
];
/// Files of the output: the three tensors that are no weights don't fit beside a weight.
const N_FILES: usize = 27;
const PARTS: &str = "out.wgquant-parts";

/// A model of 24 shards, in `in/`, with what else a model's folder has.
fn model() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in")).unwrap();
    let mut weight_map = json!({});
    for (number, name) in NAMES.iter().enumerate() {
        let file = format!("model-{:05}-of-{N_SHARDS:05}.safetensors", number + 1);
        let mut tensors = vec![floats(name, "F32", &[64, 100 + 10 * number as u64], number as u64 + 1)];
        if number % 8 == 3 {
            tensors.push(tensor(["ids", "more", "rest"][number / 8], "I64", &[3], vec![7; 24]));
        }
        for tensor in &tensors {
            weight_map[tensor.name] = json!(file);
        }
        folder.write(&format!("in/{file}"), &file_at(&tensors, &[("format", "pt")], number % 3));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    folder.write("in/model.safetensors.index.json", index.to_string().as_bytes());
    folder.write("in/config.json", br#"{"model_type": "llama", "dtype": "float32"}"#);
    folder.write("in/tokenizer.json", b"{}");
    folder
}

/// Arguments that cut the output into files of about a tensor each.
fn quantize<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["quantize", "in", "-o", output, "--device", "cpu", "--format", "nf4-dq", "--shard-size", "5KB"];
    [&args[..], &["--container", "bnb", "--verify", "full"], more].concat()
}

fn finish<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["finish"], &quantize(output, more)[1..]].concat()
}

/// Everything in a folder, by name.
fn contents(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder.path(name)).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())).collect()
}

fn task(folder: &Folder, number: usize, of: usize) -> Value {
    folder.json(&quantize("out", &["--shard-task", &format!("{number}/{of}")]))
}

/// Whether anything looks like a model that is complete.
fn has_index(folder: &Folder) -> bool {
    let is_there = |path: &str| folder.path(path).exists();
    is_there("out") || is_there("out.wgquant-parts/files/model.safetensors.index.json")
}

/// Five tasks in any order, one of them killed at twenty moments and repeated: the bytes and the report of a single run.
#[test]
fn tasks_make_what_one_process_makes() {
    let folder = model();
    let mut expected_report = folder.json(&quantize("one", &[]));
    let expected = contents(&folder, "one");
    assert!(expected.len() == N_FILES + 3, "files, index, config, tokenizer: {:?}", expected.keys());
    let killed = quantize("out", &["--shard-task", "3/5"]);
    let mut files = Vec::new();
    for moment in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wgquant"));
        let child = child.args(&killed).current_dir(folder.root()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment * 2));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }
    for number in [4, 2, 5, 3, 1, 3] {
        assert!(!has_index(&folder));
        files.push((number, task(&folder, number, 5)["files"].clone()));
    }
    assert_eq!(files[3], files[5], "the same part when it is repeated");
    let mut made: Vec<_> = files[..5].iter().flat_map(|(_, files)| files.as_array().unwrap()).collect();
    made.sort_by_key(ToString::to_string);
    let names = expected.keys().filter(|name| name.ends_with(".safetensors"));
    assert!(made.iter().map(|name| name.as_str().unwrap()).eq(names), "none is missing or doubled");

    assert!(!has_index(&folder));
    let mut report = folder.json(&finish("out", &[]));
    assert!(contents(&folder, "out") == expected);
    assert_eq!(folder.names(), ["in", "one", "out"]);
    for key in ["seconds", "peak_memory"] {
        (report[key], expected_report[key]) = (Value::Null, Value::Null);
    }
    assert_eq!(report, expected_report, "the report too");
    folder.ok(&["verify", "in", "out"]);
    folder.fails(1, &finish("out", &[]), "out: no task has made a part of it");
}

/// Any number of tasks, more than there are files too; and one that has nothing to do says so.
#[test]
fn any_number_of_tasks() {
    let folder = model();
    folder.ok(&quantize("one", &[]));
    for of in [1, 2, 7, 40] {
        let idle = (1..=of).filter(|&number| task(&folder, number, of)["files"] == json!([])).count();
        assert_eq!(idle, of.saturating_sub(N_FILES));
        folder.ok(&finish("out", &[]));
        assert!(contents(&folder, "out") == contents(&folder, "one"), "{of} tasks");
        std::fs::remove_dir_all(folder.path("out")).unwrap();
    }
}

/// A part that is missing, cut short, altered by a bit or another job's is named, and nothing gets the output's name.
#[test]
fn parts_that_are_not_as_they_should_be() {
    let folder = model();
    let part = |name: &str| format!("{PARTS}/files/{name}");
    folder.fails(1, &finish("out", &[]), "out: no task has made a part of it: run quantize with --shard-task first");
    for number in [1, 2, 4, 5] {
        task(&folder, number, 5);
    }
    let sentence = folder.fails(1, &finish("out", &[]), "out: its parts model-000");
    assert!(sentence.contains("(--shard-task 3/5)") && sentence.ends_with("are missing\n"), "{sentence}");
    task(&folder, 3, 5);

    let name = "model-00007-of-00027.safetensors";
    let whole = folder.read(&part(name));
    std::fs::remove_file(folder.path(&part(name))).unwrap();
    let missing = folder.fails(1, &finish("out", &[]), &format!("out: its part {name} (--shard-task "));
    assert!(missing.ends_with("/5) is missing\n"), "{missing}");
    let again = missing.split("--shard-task ").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    for bytes in [&altered[..], &whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), b""] {
        folder.write(&part(name), bytes);
        let wanted =
            format!("out: its part {name} (--shard-task {again}) is not what its task wrote: run that task again");
        folder.fails(1, &finish("out", &[]), &wanted);
        assert!(!has_index(&folder));
    }
    // Its record is altered or torn.
    folder.write(&part(name), &whole);
    let record = format!("{PARTS}/{name}.json");
    let text = String::from_utf8(folder.read(&record)).unwrap();
    folder.write(&record, text.replace("\"blake3\":\"", "\"blake3\":\"0").as_bytes());
    folder.fails(1, &finish("out", &[]), "is not what its task wrote");
    folder.write(&record, &text.as_bytes()[..text.len() / 2]);
    folder.fails(1, &finish("out", &[]), &format!("out: its part {name} (--shard-task {again}) is missing"));
    // Repeating the task mends all of it.
    folder.ok(&quantize("out", &["--shard-task", again]));
    assert!(folder.read(&part(name)) == whole);

    folder.fails(1, &finish("out", &["--exclude", "t03.weight"]), "was made with another selection");
    let other = quantize("out", &["--shard-task", "1/5", "--exclude", "t03.weight"]);
    folder.fails(1, &other, "was made with another selection: run its task again with --force");
    folder.ok(&[&other[..], &["--force"]].concat());
    let sentence = folder.fails(1, &finish("out", &[]), "was made with another selection");
    assert!(sentence.contains("out: its part model-000"), "{sentence}");
    folder.ok(&quantize("out", &["--shard-task", "1/5", "--force"]));

    // What a killed task left goes away in the end, and so does a file of a job that was given up.
    folder.write(&format!("{PARTS}/files/model-00001-of-00003.safetensors"), b"old");
    folder.write(&format!("{PARTS}/torn"), b"");
    folder.ok(&finish("out", &[]));
    folder.ok(&["verify", "in", "out"]);
    assert_eq!(contents(&folder, "out").len(), N_FILES + 3, "shards, index, config, tokenizer");
    assert_eq!(folder.names(), ["in", "out"]);
    folder.fails(1, &quantize("out", &["--shard-task", "1/5"]), "out: exists already");
}

/// The last step is killed after its rename, and before it has tidied up.
#[test]
fn finishing_is_repeated() {
    let folder = model();
    folder.ok(&quantize("one", &[]));
    task(&folder, 1, 1);
    let parts = contents_of_records(&folder);
    folder.ok(&finish("out", &[]));
    std::fs::create_dir(folder.path(PARTS)).unwrap();
    for (name, bytes) in &parts {
        folder.write(&format!("{PARTS}/{name}"), bytes);
    }
    let name = "out/model-00002-of-00027.safetensors";
    let whole = folder.read(name);
    folder.write(name, &whole[1..]);
    folder.fails(1, &finish("out", &[]), "is not what its task wrote");
    folder.write(name, &whole);
    folder.ok(&finish("out", &[]));
    assert!(contents(&folder, "out") == contents(&folder, "one"));
    assert_eq!(folder.names(), ["in", "one", "out"]);
}

fn contents_of_records(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder.path(PARTS)).unwrap().map(|entry| entry.unwrap().path());
    let records = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    records.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn tasks_that_there_are_not() {
    let folder = model();
    for (text, wanted) in [
        ("0/5", "there is no task 0 of 5"),
        ("6/5", "there is no task 6 of 5"),
        ("3", "as in 3/8"),
        ("a/b", "as in 3/8"),
        ("-1/5", "as in 3/8"),
    ] {
        folder.fails(2, &quantize("out", &[&format!("--shard-task={text}")]), wanted);
    }
    folder.fails(2, &quantize("out", &["--shard-task", "1/5", "--resume"]), "cannot be used with");
    folder.fails(1, &finish("out", &["--shard-task", "1/5"]), "wgquant finish has no use for --shard-task");
    folder.write("file", &file_at(&[floats("w", "F32", &[64, 64], 1)], &[], 0));
    let one_file = ["quantize", "file", "-o", "out", "--device", "cpu", "--format", "sym4", "--shard-task", "1/2"];
    folder.fails(1, &one_file, "out: is to be one file, which tasks can't share: give --shard-size");
    // A weight that can't be quantized: nothing of its file remains, and the sentence is that of a single run.
    let mut bad = floats("t05.weight", "F32", &[64, 150], 6);
    bad.bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.write("in/model-00006-of-00024.safetensors", &file_at(&[bad], &[], 2));
    let output = folder.run(&quantize("out", &["--shard-task", "1/1", "--quiet"]));
    let sentence = crate::common::failure(&output, 1, "tensor \"t05.weight\": element 2 is NaN");
    assert!(sentence.contains("in/model-00006-of-00024.safetensors"), "{sentence}");
    assert!(!contents(&folder, &format!("{PARTS}/files")).keys().any(|name| name.contains("00007-of")));
}
