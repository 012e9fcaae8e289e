//! Jobs in an embedded database, so that they outlive the process.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};

/// How long a call waits for another process that has the database.
const BUSY: Duration = Duration::from_secs(2);

/// Jobs that have ended and are remembered; older ones are forgotten.
const MAX_ENDED: i64 = 10_000;

/// The layout of the database.
const LAYOUT: i64 = 1;

/// What a table row holds, in the order that [`record`] reads it.
const COLUMNS: &str =
    "number, id, state, request, created, started, ended, attempts, cancelled, error, bytes_in, bytes_out, adapter";

/// What became of a job so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It waits for a device.
    Queued,
    /// A device works on it.
    Running,
    /// Its output is complete.
    Done,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl State {
    const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// Its name in the database and in answers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another process has it.
    #[error("the database of jobs is in use by another process")]
    Busy,
    /// There is no room for it.
    #[error("there is no room left on the disk for the database of jobs")]
    Full,
    /// Anything else. What SQLite says may hold paths, and is for the log alone.
    #[error("the database of jobs can't be used")]
    Other(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Other(error),
        }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// A job as the database has it. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Counts up from job to job.
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) state: State,
    /// What was asked for, as JSON.
    pub(crate) request: String,
    pub(crate) created: i64,
    pub(crate) started: Option<i64>,
    pub(crate) ended: Option<i64>,
    /// How often it was begun: more than once where the service ended in the middle of it.
    pub(crate) attempts: i64,
    /// Whether somebody asked for its end.
    pub(crate) cancelled: bool,
    /// Why it failed: a problem document.
    pub(crate) error: Option<String>,
    pub(crate) bytes_in: Option<i64>,
    pub(crate) bytes_out: Option<i64>,
    pub(crate) adapter: Option<String>,
}

/// A key that makes a repeated submission the same job, and a digest of what was submitted with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) key: &'a str,
    pub(crate) digest: &'a str,
}

/// What became of a submission.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new job.
    New(Record),
    /// The job that the key had made before.
    Repeated(Record),
    /// The key was used for something else.
    OtherRequest,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Done { report: String, bytes_in: u64, bytes_out: u64, adapter: String },
    Failed { error: String },
    Cancelled,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Store(Mutex<Connection>);

impl Store {
    /// Opens the database, or makes it. What was running when the last process ended waits again.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // An answer that a job was taken is true after a power cut too.
        db.pragma_update(None, "synchronous", "full")?;
        db.execute_batch(
            "create table if not exists jobs (
                number integer primary key autoincrement,
                id text not null unique,
                state text not null,
                request text not null,
                key text unique,
                key_digest text,
                created integer not null,
                started integer,
                ended integer,
                attempts integer not null default 0,
                cancelled integer not null default 0,
                error text,
                report text,
                bytes_in integer,
                bytes_out integer,
                adapter text,
                untidy integer not null default 0
            );
            create index if not exists jobs_by_state on jobs (state, number);",
        )?;
        db.pragma_update(None, "user_version", LAYOUT)?;
        db.execute("update jobs set state = 'queued' where state = 'running'", [])?;
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job that a key has made, if there is one.
    pub(crate) fn find_key(&self, key: Key<'_>) -> Result<Option<Submitted>> {
        find_key(&self.db(), key)
    }

    /// Takes a job, unless its key has made one already.
    pub(crate) fn submit(&self, request: &str, key: Option<Key<'_>>) -> Result<Submitted> {
        let mut db = self.db();
        let db = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(found) = key.map(|key| find_key(&db, key)).transpose()?.flatten() {
            return Ok(found);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        db.execute(
            "insert into jobs (id, state, request, key, key_digest, created) values (?1, 'queued', ?2, ?3, ?4, ?5)",
            params![id, request, key.map(|key| key.key), key.map(|key| key.digest), now()],
        )?;
        db.execute(
            "delete from jobs where ended is not null and untidy = 0 and number <= (
                select number from jobs where ended is not null order by number desc limit 1 offset ?1)",
            [MAX_ENDED],
        )?;
        let made = by_id(&db, &id)?;
        db.commit()?;
        made.map_or_else(
            || Err(StoreError::Other(rusqlite::Error::QueryReturnedNoRows)),
            |made| Ok(Submitted::New(made)),
        )
    }

    /// The job of that name.
    pub(crate) fn get(&self, id: &str) -> Result<Option<Record>> {
        by_id(&self.db(), id)
    }

    /// Jobs, the newest first: at most `limit`, of those with a smaller number than `before` and in that state.
    pub(crate) fn list(&self, limit: u32, before: Option<i64>, state: Option<State>) -> Result<Vec<Record>> {
        let db = self.db();
        let mut found = db.prepare_cached(&format!(
            "select {COLUMNS} from jobs where number < ?1 and (?2 is null or state = ?2) order by number desc limit ?3"
        ))?;
        let rows = found.query_map(params![before.unwrap_or(i64::MAX), state.map(State::name), limit], record)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many jobs are in each state.
    pub(crate) fn counts(&self) -> Result<Vec<(State, u64)>> {
        let db = self.db();
        let mut counted = db.prepare_cached("select count(*) from jobs where state = ?1")?;
        let count = |state: State| counted.query_row([state.name()], |row| row.get::<_, i64>(0));
        let counts = State::ALL.map(count).into_iter().collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(State::ALL.into_iter().zip(counts.into_iter().map(i64::unsigned_abs)).collect())
    }

    /// How many waiting jobs are before that one.
    pub(crate) fn n_before(&self, number: i64) -> Result<u64> {
        let text = "select count(*) from jobs where state = 'queued' and number < ?1";
        Ok(self.db().query_row(text, [number], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }

    /// Begins a job that waits, which is running from now on; none if it does not wait any more.
    pub(crate) fn begin(&self, id: &str) -> Result<Option<Record>> {
        let text = format!(
            "update jobs set state = 'running', attempts = attempts + 1, started = coalesce(started, ?2)
             where id = ?1 and state = 'queued' returning {COLUMNS}"
        );
        Ok(self.db().query_row(&text, params![id, now()], record).optional()?)
    }

    /// Jobs that wait, the oldest first.
    pub(crate) fn waiting(&self) -> Result<Vec<Record>> {
        let db = self.db();
        let mut found = db.prepare(&format!("select {COLUMNS} from jobs where state = 'queued' order by number"))?;
        Ok(found.query_map([], record)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets a job that could not be taken after all.
    pub(crate) fn forget(&self, id: &str) -> Result<()> {
        self.db().execute("delete from jobs where id = ?1 and state = 'queued'", [id])?;
        Ok(())
    }

    /// Lets a job wait again that was stopped.
    pub(crate) fn put_back(&self, id: &str) -> Result<()> {
        self.db().execute("update jobs set state = 'queued' where id = ?1 and state = 'running'", [id])?;
        Ok(())
    }

    /// Asks for a job's end. One that nobody has begun has ended with that; gives the job as it is then.
    pub(crate) fn cancel(&self, id: &str) -> Result<Option<Record>> {
        let db = self.db();
        db.execute(
            "update jobs set cancelled = 1, ended = iif(state = 'queued' and attempts = 0, ?2, ended),
                state = iif(state = 'queued' and attempts = 0, 'cancelled', state)
             where id = ?1 and state in ('queued', 'running')",
            params![id, now()],
        )?;
        by_id(&db, id)
    }

    /// Records how a running job ended. What it left that is to be tidied up is remembered until [`Self::tidied`].
    pub(crate) fn end(&self, id: &str, ending: &Ending) -> Result<()> {
        let count = |n_bytes: u64| i64::try_from(n_bytes).unwrap_or(i64::MAX);
        let (state, error, report, bytes_in, bytes_out, adapter) = match ending {
            Ending::Done { report, bytes_in, bytes_out, adapter } => {
                (State::Done, None, Some(report), Some(count(*bytes_in)), Some(count(*bytes_out)), Some(adapter))
            }
            Ending::Failed { error } => (State::Failed, Some(error), None, None, None, None),
            Ending::Cancelled => (State::Cancelled, None, None, None, None, None),
        };
        self.db().execute(
            "update jobs set state = ?2, error = ?3, report = ?4, bytes_in = ?5, bytes_out = ?6, adapter = ?7, ended = ?8,
                untidy = 1 where id = ?1 and state = 'running'",
            params![id, state.name(), error, report, bytes_in, bytes_out, adapter, now()],
        )?;
        Ok(())
    }

    /// Jobs that have ended and left something to be tidied up.
    pub(crate) fn untidy(&self) -> Result<Vec<Record>> {
        let db = self.db();
        let mut found = db.prepare(&format!("select {COLUMNS} from jobs where untidy = 1"))?;
        Ok(found.query_map([], record)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Nothing of a job is left to be tidied up.
    pub(crate) fn tidied(&self, id: &str) -> Result<()> {
        self.db().execute("update jobs set untidy = 0 where id = ?1", [id])?;
        Ok(())
    }

    /// What a job that is done says of itself, as JSON.
    pub(crate) fn report(&self, id: &str) -> Result<Option<String>> {
        let db = self.db();
        let found = db.query_row("select report from jobs where id = ?1", [id], |row| row.get(0)).optional()?;
        Ok(found.flatten())
    }
}

fn find_key(db: &Connection, key: Key<'_>) -> Result<Option<Submitted>> {
    let text = format!("select {COLUMNS}, key_digest from jobs where key = ?1");
    let found =
        db.query_row(&text, [key.key], |row| Ok((record(row)?, row.get::<_, String>("key_digest")?))).optional()?;
    Ok(found.map(|(job, digest)| if digest == key.digest { Submitted::Repeated(job) } else { Submitted::OtherRequest }))
}

fn by_id(db: &Connection, id: &str) -> Result<Option<Record>> {
    let text = format!("select {COLUMNS} from jobs where id = ?1");
    Ok(db.query_row(&text, [id], record).optional()?)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let name: String = row.get(2)?;
    let state = State::ALL.into_iter().find(|state| state.name() == name);
    Ok(Record {
        number: row.get(0)?,
        id: row.get(1)?,
        state: state.ok_or(rusqlite::Error::InvalidQuery)?,
        request: row.get(3)?,
        created: row.get(4)?,
        started: row.get(5)?,
        ended: row.get(6)?,
        attempts: row.get(7)?,
        cancelled: row.get(8)?,
        error: row.get(9)?,
        bytes_in: row.get(10)?,
        bytes_out: row.get(11)?,
        adapter: row.get(12)?,
    })
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
