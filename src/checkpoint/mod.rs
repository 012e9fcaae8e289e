//! What is in a checkpoint, what of it to quantize, and how it is written.
//!
//! Each job reads its input by ranges and writes beside its output's final name, so memory does not depend on the size of
//! the model, and an output is there only once it is complete: [`quantize()`], [`dequantize()`], [`verify()`], [`inspect()`],
//! [`compare()`].

mod check;
mod compare;
mod container;
mod data;
mod dequantize;
mod document;
mod elsewhere;
mod frontier;
mod gguf;
mod histogram;
mod inspect;
mod journal;
mod layout;
mod nested;
mod output;
mod packed_file;
mod packed_writer;
mod packing;
mod plan;
mod progress;
mod quantize;
mod quantize_report;
mod safetensors;
mod select;
mod source;
mod spread;
mod storage;
mod stored;
mod tasks;
mod verify;
mod weight;

pub use self::compare::{
    CompareOptions, CompareReport, ComparedFormat, ComparedTensor, Outcome, compare, compare_source,
};
pub use self::dequantize::{DequantizeOptions, DequantizeReport, DequantizedTensor, dequantize, dequantize_into};
pub use self::document::{Figures, hex};
pub use self::elsewhere::{PlannedFile, TaskPlan, finish_elsewhere, plan_task};
pub use self::histogram::{Histogram, histograms, histograms_of};
pub use self::inspect::{InspectReport, InspectedTensor, inspect, inspect_source};
pub use self::output::{holds_weights, remove_journal};
pub use self::packed_file::PackedFile;
pub use self::packed_writer::{NewTensor, PackedWriter};
pub use self::progress::{OnProgress, Progress};
pub use self::quantize::{QuantizeOptions, plan, plan_source, quantize, quantize_into, quantize_source};
pub use self::quantize_report::{Action, PlanReport, PlannedTensor, QuantizeReport, QuantizedTensor};
pub use self::safetensors::{SafetensorsFile, TensorInfo};
pub use self::select::{DEFAULT_MIN_ELEMENTS, Override, Selection};
pub use self::source::Source;
pub use self::storage::Storage;
pub use self::stored::StoredDtype;
pub use self::tasks::{Task, TaskReport, finish_tasks, quantize_task};
pub use self::verify::{VerifiedTensor, VerifyReport, verify, verify_packed};
pub use self::weight::PackedTensor;
