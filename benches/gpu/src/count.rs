//! Arithmetic an element of a `tile` kernel, counted in its SPIR-V without running it.
//!
//! Functions are counted where they are called, and what has only constant operands counts as nothing, as any compiler
//! folds it. A branch is one of two things: the part that works for a whole block (the longest before the last barrier), or rare
//! (short tails, reports of bad values, guesses in doubt), which counts as nothing. Loads, stores and addresses are no
//! arithmetic here. What a driver fuses (three-operand logic, multiply-add) makes the true number smaller.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use wgquant::gpu::{Direction, Kernel};

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
    let mut truth = HashMap::new();
    let mut functions: HashMap<u32, Vec<Instruction>> = HashMap::new();
    let (mut open, mut entry) = (None, None);
    let mut at = 5;
    while at < words.len() {
        let (op, n) = ((words[at] & 0xffff) as u16, (words[at] >> 16) as usize);
        let operands = words[at + 1..at + n].to_vec();
        at += n;
        match op {
            op::ENTRY_POINT => entry = Some(operands[1]),
            op::CONSTANT_TRUE..=op::CONSTANT_NULL => {
                constants.insert(operands[1]);
                if op <= op::CONSTANT_FALSE {
                    truth.insert(operands[1], op == op::CONSTANT_TRUE);
                }
            }
            op::FUNCTION => open = Some(operands[1]),
            op::FUNCTION_END => open = None,
            _ => {}
        }
        if let Some(function) = open {
            functions.entry(function).or_default().push(Instruction { op, words: operands });
        }
    }
    let walk = Walk { functions, constants, truth };
    let entry = entry.context("no entry point")?;
    let sections = walk.sections(entry, &[]);
    let branches: Vec<_> =
        sections[1..].iter().filter(|section| !section.is_loop && section.n_barriers_after > 0).collect();
    let longest = |sections: &[&Section]| sections.iter().map(|section| section.n).max().unwrap_or(0);
    let block = match kernel.direction {
        Direction::Quantize => longest(&branches),
        // Its only branch is rare.
        Direction::Dequantize => 0,
    };
    Ok(Count { each: sections[0].n, block })
}

struct Walk {
    functions: HashMap<u32, Vec<Instruction>>,
    constants: HashSet<u32>,
    /// Boolean constants.
    truth: HashMap<u32, bool>,
}

/// Operations of a part of a function.
struct Section {
    n: usize,
    is_loop: bool,
    n_barriers_after: usize,
}

/// Opcodes.
mod op {
    pub const EXT_INST: u16 = 12;
    pub const ENTRY_POINT: u16 = 15;
    pub const CONSTANT_TRUE: u16 = 41;
    pub const CONSTANT_FALSE: u16 = 42;
    pub const CONSTANT_NULL: u16 = 46;
    pub const FUNCTION: u16 = 54;
    pub const FUNCTION_PARAMETER: u16 = 55;
    pub const FUNCTION_END: u16 = 56;
    pub const FUNCTION_CALL: u16 = 57;
    pub const COMPOSITE_CONSTRUCT: u16 = 80;
    pub const COMPOSITE_EXTRACT: u16 = 81;
    pub const BITCAST: u16 = 124;
    pub const S_NEGATE: u16 = 126;
    pub const S_MOD: u16 = 152;
    pub const LOGICAL_EQUAL: u16 = 164;
    pub const SELECT: u16 = 169;
    pub const S_LESS_THAN_EQUAL: u16 = 179;
    pub const SHIFT_RIGHT_LOGICAL: u16 = 194;
    pub const BIT_COUNT: u16 = 205;
    pub const CONTROL_BARRIER: u16 = 224;
    pub const LOOP_MERGE: u16 = 246;
    pub const SELECTION_MERGE: u16 = 247;
    pub const LABEL: u16 = 248;
    pub const BRANCH_CONDITIONAL: u16 = 250;
}

impl Walk {
    /// Operations outside of all branches, then those of each outermost branch or loop.
    fn sections(&self, function: u32, constant_arguments: &[bool]) -> Vec<Section> {
        let is_barrier = |instruction: &&Instruction| instruction.op == op::CONTROL_BARRIER;
        let n_barriers = self.functions[&function].iter().filter(is_barrier).count();
        let mut n_barriers_after = n_barriers;
        let mut known = self.constants.clone();
        let mut arguments = constant_arguments.iter();
        let mut sections = vec![Section { n: 0, is_loop: false, n_barriers_after }];
        // Labels at which the innermost and the outermost open branch end.
        let (mut selection, mut outermost) = (None, None);
        // An arm that a constant condition never takes: its label, the other arm's, and where both end.
        let mut dead: Option<[u32; 3]> = None;
        let mut skipping = false;
        for Instruction { op, words: w } in &self.functions[&function] {
            if let (op::LABEL, Some([begin, other, end])) = (*op, dead) {
                skipping = w[0] == begin || (skipping && w[0] != end && w[0] != other);
                dead = dead.filter(|_| w[0] != end);
            }
            if skipping {
                continue;
            }
            let n = match *op {
                op::FUNCTION_PARAMETER => {
                    if arguments.next() == Some(&true) {
                        known.insert(w[1]);
                    }
                    0
                }
                op::LOOP_MERGE if outermost.is_none() => {
                    outermost = Some(w[0]);
                    sections.push(Section { n: 0, is_loop: true, n_barriers_after });
                    0
                }
                op::SELECTION_MERGE => {
                    selection = Some(w[0]);
                    0
                }
                op::BRANCH_CONDITIONAL => {
                    match (self.truth.get(&w[0]), selection.take()) {
                        (Some(true), Some(end)) if end != w[2] => dead = Some([w[2], w[1], end]),
                        (Some(false), Some(end)) => dead = Some([w[1], w[2], end]),
                        (None, Some(end)) if outermost.is_none() => {
                            outermost = Some(end);
                            sections.push(Section { n: 0, is_loop: false, n_barriers_after });
                        }
                        _ => {}
                    }
                    0
                }
                op::LABEL => {
                    outermost = outermost.filter(|end| *end != w[0]);
                    0
                }
                op::FUNCTION_CALL => {
                    let constant: Vec<bool> = w[3..].iter().map(|id| known.contains(id)).collect();
                    if constant.iter().all(|c| *c) && !constant.is_empty() {
                        known.insert(w[1]);
                        0
                    } else {
                        let sections = self.sections(w[2], &constant);
                        // Behind the last barrier a function that the entry point calls branches for rare things alone.
                        let n_counted = if n_barriers > 0 && n_barriers_after == 0 { 1 } else { sections.len() };
                        sections[..n_counted].iter().map(|section| section.n).sum()
                    }
                }
                op::CONTROL_BARRIER => {
                    n_barriers_after -= 1;
                    0
                }
                op => self.arithmetic(op, w, &mut known),
            };
            let section = if outermost.is_some() { sections.len() - 1 } else { 0 };
            sections[section].n += n;
        }
        sections
    }

    /// 1 for an operation, 0 for what is none or can be folded; notes which results are constant.
    fn arithmetic(&self, op: u16, w: &[u32], known: &mut HashSet<u32>) -> usize {
        let (operands, cost) = match op {
            op::EXT_INST => (&w[4..], 1),
            op::COMPOSITE_CONSTRUCT | op::BITCAST => (&w[2..], 0),
            op::COMPOSITE_EXTRACT => (&w[2..3], 0),
            op::S_NEGATE..=op::S_MOD
            | op::LOGICAL_EQUAL..=op::S_LESS_THAN_EQUAL
            | op::SHIFT_RIGHT_LOGICAL..=op::BIT_COUNT => (&w[2..], 1),
            _ => return 0,
        };
        if operands.iter().all(|id| known.contains(id)) {
            known.insert(w[1]);
            return 0;
        }
        // A selection by a constant is a choice at compile time.
        if op == op::SELECT && known.contains(&w[2]) { 0 } else { cost }
    }
}
