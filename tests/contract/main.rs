//! Holds `contracts/quantization-v1.yaml` to the tests that there are: a promise without a test fails here.

#![cfg(test)] // so that lints know every helper for a part of a test

mod test_functions;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use test_functions::TestFunctions;

const CONTRACT: &str = include_str!("../../contracts/quantization-v1.yaml");

/// Demanded under exactly these paths.
const NAMED_BY_THE_SEED: [(&str, &str); 5] = [
    ("FALSIFY-QUANT-001", "quant::quant4bit::tests::test_quantize_dequantize_round_trip"),
    ("FALSIFY-QUANT-002", "quant::quant4bit::tests::test_quantize_zeros"),
    ("FALSIFY-QUANT-003", "quant::quant4bit::tests::test_quantize_multiple_blocks"),
    ("FALSIFY-QUANT-004", "quant::quant4bit::tests::test_quantize_odd_length"),
    ("FALSIFY-QUANT-005", "quant::quant4bit::tests::test_quantized_data_size"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contract {
    #[serde(rename = "metadata")]
    _metadata: Metadata,
    equations: BTreeMap<String, Equation>,
    proof_obligations: Vec<Obligation>,
    falsification_tests: Vec<Falsification>,
    kani_harnesses: Vec<Harness>,
    errata: Vec<Erratum>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to check that it is there")]
struct Metadata {
    version: String,
    description: String,
    seed: String,
    references: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to check that it is there")]
struct Equation {
    formula: String,
    domain: String,
    preconditions: Vec<String>,
    postconditions: Vec<String>,
    invariants: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Obligation {
    id: String,
    #[serde(rename = "type")]
    _kind: Kind,
    #[serde(rename = "property")]
    _property: String,
    #[serde(rename = "formal")]
    _formal: String,
    applies_to: Vec<String>,
    test: Option<Tests>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Precondition,
    Bound,
    Equivalence,
    Invariant,
    Layout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Falsification {
    id: String,
    #[serde(rename = "rule")]
    _rule: String,
    #[serde(rename = "prediction")]
    _prediction: String,
    test: Option<Tests>,
    #[serde(rename = "if_fails")]
    _if_fails: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Harness {
    id: String,
    obligation: String,
    bound: u32,
    #[serde(rename = "strategy")]
    _strategy: String,
    harness: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Erratum {
    id: String,
    #[serde(rename = "seed")]
    _seed: String,
    #[serde(rename = "truth")]
    _truth: String,
    test: Option<Tests>,
}

/// One test or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tests {
    One(String),
    Several(Vec<String>),
}

impl Tests {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl Contract {
    fn parse(text: &str) -> Self {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("the contract is not as it should be: {error}"))
    }

    /// Everything that needs a test: its id and the tests it names.
    fn promises(&self) -> impl Iterator<Item = (&str, &[String])> {
        let obligations = self.proof_obligations.iter().map(|entry| (&entry.id, &entry.test));
        let falsifications = self.falsification_tests.iter().map(|entry| (&entry.id, &entry.test));
        let errata = self.errata.iter().map(|entry| (&entry.id, &entry.test));
        obligations
            .chain(falsifications)
            .chain(errata)
            .map(|(id, tests)| (id.as_str(), tests.as_ref().map_or(&[][..], Tests::names)))
    }

    /// What is wrong with it, given the functions that there are.
    fn faults(&self, functions: &TestFunctions) -> Vec<String> {
        let mut faults = Vec::new();
        let mut ids = BTreeSet::new();
        for (id, tests) in self.promises() {
            if !ids.insert(id) {
                faults.push(format!("{id} stands there twice"));
            }
            if tests.is_empty() {
                faults.push(format!("{id} has no test"));
            }
            for test in tests.iter().filter(|&test| !functions.tests.contains(test)) {
                faults.push(format!("{id} names the test {test:?}, which does not exist"));
            }
        }
        for Harness { id, obligation, harness, .. } in &self.kani_harnesses {
            if !functions.kani_proofs.contains(harness) {
                faults.push(format!("{id} names the harness {harness:?}, which does not exist"));
            }
            if !ids.contains(obligation.as_str()) {
                faults.push(format!("{id} names the obligation {obligation:?}, which does not exist"));
            }
        }
        faults
    }
}

#[test]
fn every_promise_has_a_test_that_exists() {
    let contract = Contract::parse(CONTRACT);
    let faults = contract.faults(&TestFunctions::collect());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(!contract.equations.is_empty() && !contract.errata.is_empty());
    for obligation in &contract.proof_obligations {
        assert!(!obligation.applies_to.is_empty(), "{} applies to nothing", obligation.id);
        for format in &obligation.applies_to {
            assert!(wgquant::Format::from_name(format).is_ok(), "{} applies to {format:?}", obligation.id);
        }
    }
}

#[test]
fn the_tests_that_the_seed_names_run_under_those_paths() {
    let contract = Contract::parse(CONTRACT);
    let functions = TestFunctions::collect();
    let promises: BTreeMap<_, _> = contract.promises().collect();
    for (id, test) in NAMED_BY_THE_SEED {
        assert!(functions.tests.contains(test), "{test} does not exist");
        assert_eq!(promises.get(id), Some(&&[test.to_owned()][..]), "{id}");
    }
}

#[test]
fn the_kani_harness_stands_under_cfg_kani() {
    let contract = Contract::parse(CONTRACT);
    let harness = contract.kani_harnesses.iter().find(|harness| harness.id == "quant-kani-001").expect("it is listed");
    assert_eq!(harness.bound, 4);
    assert!(TestFunctions::collect().kani_proofs.contains(&harness.harness), "{} does not exist", harness.harness);
}

/// The check itself can fail.
#[test]
fn a_contract_with_a_wrong_name_is_reported() {
    let functions = TestFunctions::collect();
    let faults_with = |from: &str, to: &str| {
        assert!(CONTRACT.contains(from), "{from:?} is not in the contract");
        Contract::parse(&CONTRACT.replacen(from, to, 1)).faults(&functions)
    };
    assert_eq!(
        faults_with("test: whole_tensors::nothing_to_quantize_is_an_error", "test: whole_tensors::no_such_test"),
        ["QUANT-PRE-001 names the test \"whole_tensors::no_such_test\", which does not exist"]
    );
    assert_eq!(
        faults_with("    test: whole_tensors::a_block_size_of_zero_is_an_error\n", ""),
        ["QUANT-PRE-002 has no test"]
    );
    assert_eq!(
        faults_with("test: whole_tensors::a_block_size_of_zero_is_an_error", "test: []"),
        ["QUANT-PRE-002 has no test"]
    );
    assert_eq!(faults_with("id: ERRATUM-004", "id: ERRATUM-003"), ["ERRATUM-003 stands there twice"]);
    assert_eq!(
        faults_with("proofs::codes_stay_in_range", "proofs::codes_stay"),
        ["quant-kani-001 names the harness \"quant::quant4bit::proofs::codes_stay\", which does not exist"]
    );
}

/// Only functions that `cargo test` is sure to run count as tests.
#[test]
fn tests_that_do_not_run_are_not_counted() {
    // Put together here, because nothing in this project is switched off, and a search for that should find nothing.
    let text = "#[test] fn plain() {}
         fn no_test() {}
         #[test] #[OFF] fn ignored() {}
         #[test] #[OFF = \"slow\"] fn ignored_with_a_reason() {}
         #[test] #[cfg(windows)] fn elsewhere() {}
         #[cfg(test)] mod tests { #[test] fn inner() {} #[cfg(kani)] mod proofs { #[test] fn under_kani() {} } }
         #[cfg(kani)] mod proofs { #[kani::proof] fn proof() {} fn no_proof() {} }
         #[kani::proof] fn proof_outside() {}
         #[cfg(not(test))] mod never { #[test] fn never() {} }"
        .replace("OFF", "ignore");
    let found = TestFunctions::of_text(&text);
    assert_eq!(found.tests.into_iter().collect::<Vec<_>>(), ["plain", "tests::inner"]);
    assert_eq!(found.kani_proofs.into_iter().collect::<Vec<_>>(), ["proofs::proof"]);
}
