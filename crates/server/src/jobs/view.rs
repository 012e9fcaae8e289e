//! A job as answers show it.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Jobs;
use super::live::JobProgress;
use super::request::JobRequest;
use super::store::{Record, State, StoreError};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    /// Its name.
    #[schema(example = "0f8b6c0e4a5d4b6c9a54a5d0e8f1c2b3")]
    pub(crate) id: String,
    pub(crate) state: State,
    /// Counts up from job to job, for `before` of the list.
    pub(crate) number: i64,
    /// What was asked for.
    #[schema(value_type = Option<JobRequest>)]
    pub(crate) request: Option<JobRequest>,
    /// When it was taken, as RFC 3339 has it.
    pub(crate) created: String,
    /// When a device began it.
    pub(crate) started: Option<String>,
    /// When it ended.
    pub(crate) ended: Option<String>,
    /// How often it was begun: more than once where the service ended in the middle of it, and it went on.
    pub(crate) attempts: i64,
    /// Whether somebody has asked for its end.
    pub(crate) cancel_requested: bool,
    /// How many jobs are before it; null unless it waits.
    pub(crate) jobs_before: Option<u64>,
    /// How far it is; null unless it runs.
    pub(crate) progress: Option<JobProgress>,
    /// Bytes of the input's files with the tensors; null until it is done.
    pub(crate) bytes_in: Option<u64>,
    /// Bytes of the output's files with the tensors; null until it is done.
    pub(crate) bytes_out: Option<u64>,
    /// Who did it; null until it is done.
    pub(crate) adapter: Option<String>,
    /// Why it failed, as a problem document; null unless it did.
    #[schema(value_type = Option<Object>)]
    pub(crate) error: Option<Value>,
}

impl Jobs {
    /// A job as it is now.
    pub(super) fn view(&self, job: Record) -> Result<JobView, StoreError> {
        let mut state = job.state;
        let mut progress = None;
        if let (Some(live), false) = (self.live(&job.id), state.is_final()) {
            let now = live.now();
            (state, progress) = (now.state, now.progress);
        }
        let jobs_before = if state == State::Queued { Some(self.store.n_before(job.number)?) } else { None };
        let count = |n: Option<i64>| n.map(i64::unsigned_abs);
        Ok(JobView {
            id: job.id,
            state,
            number: job.number,
            request: serde_json::from_str(&job.request).ok(),
            created: moment(job.created),
            started: job.started.map(moment),
            ended: job.ended.map(moment),
            attempts: job.attempts,
            cancel_requested: job.cancelled,
            jobs_before,
            progress,
            bytes_in: count(job.bytes_in),
            bytes_out: count(job.bytes_out),
            adapter: job.adapter,
            error: job.error.and_then(|text| serde_json::from_str(&text).ok()),
        })
    }
}

/// Milliseconds since 1970 as RFC 3339 has them.
fn moment(milliseconds: i64) -> String {
    let since = Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}
