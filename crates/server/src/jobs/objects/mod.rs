//! Checkpoints in S3-compatible stores. Where a store is and who may use it, the service's environment says
//! (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_REGION`, …), and never a job.

mod source;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientConfigKey, Error, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::Handle;

pub(super) use self::source::RemoteSource;
pub(super) use self::upload::{Destination, Ended, remove_stage};
use crate::problem::{Kind, Problem};

/// How long a store that answers with errors, or not at all, is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_RETRIES: usize = 6;

/// Objects under a key that are looked at.
const MAX_OBJECTS: usize = 10_000;

/// A bucket, and the runtime that its requests run in.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: Arc<AmazonS3>,
    name: String,
    runtime: Handle,
}

impl Bucket {
    /// Reads from the environment where the bucket is.
    ///
    /// # Errors
    /// What is missing there.
    pub(super) fn open(name: &str, runtime: &Handle) -> Result<Self, Problem> {
        let retry = RetryConfig {
            max_retries: MAX_RETRIES,
            retry_timeout: PATIENCE,
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        };
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        let builder = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry);
        let builder = builder.with_config(timeout, format!("{} seconds", PATIENCE.as_secs()));
        let store = builder.build().map_err(|error| {
            tracing::error!(%error, bucket = name, "the store can't be used");
            Problem::new(
                Kind::Unavailable,
                format!("the store of s3://{name} is not set up: the service's log says why"),
            )
        })?;
        Ok(Self { store: Arc::new(store), name: name.to_owned(), runtime: runtime.clone() })
    }

    /// Waits for a request, on a thread that is none of the runtime's.
    fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    /// What is known of an object, if there is one.
    fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, Problem> {
        match self.wait(self.store.head(key)) {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.problem(key, &error)),
        }
    }

    /// The objects right under a key, as if that were a folder.
    fn list(&self, key: &Key) -> Result<Vec<ObjectMeta>, Problem> {
        match self.wait(self.store.list_with_delimiter(Some(key))) {
            Ok(found) if found.objects.len() > MAX_OBJECTS => {
                let text = format!("{} has more than {MAX_OBJECTS} objects under it", self.called(key));
                Err(Problem::new(Kind::BadRequest, text))
            }
            // What a console makes for an empty folder comes under the folder's own key.
            Ok(found) => Ok(found.objects.into_iter().filter(|object| object.location != *key).collect()),
            Err(error) => Err(self.problem(key, &error)),
        }
    }

    /// An object as people name it.
    fn called(&self, key: &Key) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// What a store's error is to a job. What the store itself says goes to the log.
    fn problem(&self, key: &Key, error: &Error) -> Problem {
        let called = self.called(key);
        let said = crate::cause(error);
        tracing::warn!(error = said, object = called, "the store refused");
        match error {
            // A bucket that is missing has no kind of its own.
            _ if said.contains("NoSuchBucket") => {
                Problem::new(Kind::NotFound, format!("{called} is not there: there is no such bucket"))
            }
            Error::NotFound { .. } => {
                Problem::new(Kind::NotFound, format!("{called} is not there, or its bucket is not"))
            }
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Problem::new(Kind::Forbidden, format!("{called}: the store refuses the service's credentials"))
            }
            Error::Precondition { .. } => changed(&called),
            _ => {
                let text =
                    format!("{called}: the store can't be used now, and the service's log says why: try again later");
                Problem::new(Kind::Unavailable, text)
            }
        }
    }
}

/// An object that is another by now.
fn changed(called: &str) -> Problem {
    let text = format!("{called} was changed while it was read, so what came of it is worthless: submit it again");
    Problem::new(Kind::Unprocessable, text)
}

/// The last part of a key.
fn name_of(object: &ObjectMeta) -> String {
    object.location.filename().unwrap_or_default().to_owned()
}

/// A key as the store takes it.
fn parse_key(key: &str) -> Result<Key, Problem> {
    Key::parse(key).map_err(|error| Problem::new(Kind::BadRequest, format!("{key:?} is no key: {error}")))
}
