//! Integer arithmetic an element of a `tile` kernel, counted in its SPIR-V without running it.
//!
//! Functions are counted where they are called, and what has only constant operands counts as nothing, as any compiler
//! folds it. A branch is one of three things, told by what it does: the part that works for a whole block (it is the
//! longest), or rare (short tails, reports of bad values), which counts as nothing. Loads, stores and addresses are no
//! arithmetic here. What a driver fuses (three-operand logic, multiply-add) makes the true number smaller.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use wgquant::gpu::Kernel;

/// Operations of one invocation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// That every invocation does.
    pub each: usize,
    /// That one invocation does for a block.
    pub block: usize,
}

impl Count {
    /// Operations an element, where an invocation has 8.
    pub fn per_element(self, block_elems: usize) -> f64 {
        self.each as f64 / 8.0 + self.block as f64 / block_elems as f64
    }
}

struct Instruction {
    op: u16,
    words: Vec<u32>,
}

pub fn count(kernel: Kernel) -> Result<Count> {
    let source = kernel.source();
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty())
        .validate(&module)?;
    let entry = naga::back::spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: kernel.entry_point().to_owned(),
    };
    // As wgpu sets it where the driver bounds buffers by itself.
    let mut options = naga::back::spv::Options::default();
    options.bounds_check_policies.index = naga::proc::BoundsCheckPolicy::Restrict;
    options.bounds_check_policies.buffer = naga::proc::BoundsCheckPolicy::Unchecked;
    let words = naga::back::spv::write_vec(&module, &info, &options, Some(&entry))?;

    let mut constants = HashSet::new();
    let mut functions: HashMap<u32, Vec<Instruction>> = HashMap::new();
    let (mut open, mut entry) = (None, None);
    let mut at = 5;
    while at < words.len() {
        let (op, n) = ((words[at] & 0xffff) as u16, (words[at] >> 16) as usize);
        let operands = words[at + 1..at + n].to_vec();
        at += n;
        match op {
            15 => entry = Some(operands[1]),                          // OpEntryPoint
            41..=46 => drop(constants.insert(operands[1])),           // OpConstant…
            54 => open = Some(operands[1]),                           // OpFunction
            56 => open = None,                                        // OpFunctionEnd
            _ => {}
        }
        if let Some(function) = open {
            functions.entry(function).or_default().push(Instruction { op, words: operands });
        }
    }
    let walk = Walk { functions, constants };
    let entry = entry.context("no entry point")?;
    let sections = walk.sections(entry, &[]);
    let block = sections.iter().skip(1).copied().max().unwrap_or(0);
    Ok(Count { each: sections[0], block })
}

struct Walk {
    functions: HashMap<u32, Vec<Instruction>>,
    constants: HashSet<u32>,
}

impl Walk {
    /// Operations outside of all branches, then those of each outermost branch.
    fn sections(&self, function: u32, constant_arguments: &[bool]) -> Vec<usize> {
        let mut known = self.constants.clone();
        let mut arguments = constant_arguments.iter();
        let mut sections = vec![0];
        // Label at which the outermost open branch ends.
        let mut merge = None;
        let mut pending = None;
        for instruction in &self.functions[&function] {
            let w = &instruction.words;
            let n = match instruction.op {
                55 => {
                    if arguments.next() == Some(&true) {
                        known.insert(w[1]);
                    }
                    0
                }
                247 if merge.is_none() => { pending = Some(w[0]); 0 }          // OpSelectionMerge
                246 if merge.is_none() => { pending = Some(w[0]); 0 }          // OpLoopMerge
                250 if merge.is_none() && pending.is_some() => {               // OpBranchConditional
                    if !known.contains(&w[0]) {
                        merge = pending.take();
                        sections.push(0);
                    } else {
                        pending = None;
                    }
                    0
                }
                248 => { if merge == Some(w[0]) { merge = None; } 0 }          // OpLabel
                57 => {
                    let constant: Vec<bool> = w[3..].iter().map(|id| known.contains(id)).collect();
                    if constant.iter().all(|c| *c) && !constant.is_empty() {
                        known.insert(w[1]);
                        0
                    } else {
                        self.sections(w[2], &constant).iter().sum()
                    }
                }
                op => {
                    let (operands, cost) = match op {
                        12 => (&w[4..], 1),                                    // OpExtInst
                        80 | 79 | 124 => (&w[2..], 0),                         // composites, bitcasts
                        81 => (&w[2..3], 0),
                        126..=152 | 164..=179 | 194..=205 => (&w[2..], 1),
                        169 => (&w[2..], 1),
                        _ => continue,
                    };
                    // A selection by a constant is a choice at compile time.
                    let folded = operands.iter().all(|id| known.contains(id)) || (op == 169 && known.contains(&w[2]));
                    if folded && operands.iter().all(|id| known.contains(id)) {
                        known.insert(w[1]);
                    }
                    if folded { 0 } else { cost }
                }
            };
            let section = if merge.is_some() { sections.len() - 1 } else { 0 };
            sections[section] += n;
        }
        sections
    }
}
