use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("jobs.sqlite")).unwrap();
    (folder, store)
}

fn submit(store: &Store, key: Option<(&str, &str)>) -> Submitted {
    let key = key.map(|(key, digest)| Key { key, digest });
    store.submit("{}", key).unwrap()
}

fn new(store: &Store) -> Record {
    match submit(store, None) {
        Submitted::New(job) => job,
        other => panic!("{other:?}"),
    }
}

fn done() -> Ending {
    Ending::Done { report: "{}".to_owned(), bytes_in: 8, bytes_out: 1, adapter: "CPU".to_owned() }
}

#[test]
fn a_key_makes_one_job() {
    let (_folder, store) = store();
    let Submitted::New(first) = submit(&store, Some(("key", "a"))) else { panic!("the first is new") };
    assert!(matches!(submit(&store, Some(("key", "a"))), Submitted::Repeated(job) if job.id == first.id));
    assert!(matches!(submit(&store, Some(("key", "b"))), Submitted::OtherRequest));
    assert!(matches!(submit(&store, Some(("yek", "a"))), Submitted::New(job) if job.id != first.id));
    assert_ne!(new(&store).id, new(&store).id);
    assert_eq!(store.list(9, None, None).unwrap().len(), 4);
}

#[test]
fn a_job_is_begun_once_and_ends_once() {
    let (_folder, store) = store();
    let job = new(&store);
    let begun = store.begin(&job.id).unwrap().expect("it waits");
    assert_eq!((begun.state, begun.attempts), (State::Running, 1));
    assert!(store.begin(&job.id).unwrap().is_none(), "it runs already");
    store.end(&job.id, &done()).unwrap();
    let end = store.get(&job.id).unwrap().unwrap();
    assert_eq!((end.state, end.bytes_out, end.ended.is_some()), (State::Done, Some(1), true));
    assert_eq!(store.report(&job.id).unwrap().as_deref(), Some("{}"));
    // Neither another end nor a cancellation changes that.
    store.end(&job.id, &Ending::Cancelled).unwrap();
    assert_eq!(store.cancel(&job.id).unwrap().unwrap().state, State::Done);
    assert_eq!(store.untidy().unwrap().len(), 1);
    store.tidied(&job.id).unwrap();
    assert_eq!(store.untidy().unwrap().len(), 0);
}

#[test]
fn what_was_running_waits_again_after_a_restart() {
    let (folder, store) = store();
    let (first, second) = (new(&store), new(&store));
    store.begin(&first.id).unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("jobs.sqlite")).unwrap();
    let waiting: Vec<_> = store.waiting().unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(waiting, [first.id.clone(), second.id.clone()]);
    assert_eq!(store.n_before(second.number).unwrap(), 1);
    assert_eq!(store.begin(&first.id).unwrap().unwrap().attempts, 2);
    store.put_back(&first.id).unwrap();
    assert_eq!(store.get(&first.id).unwrap().unwrap().state, State::Queued);
}

#[test]
fn one_that_nobody_has_begun_is_cancelled_at_once() {
    let (_folder, store) = store();
    let (waits, runs, again) = (new(&store), new(&store), new(&store));
    store.begin(&runs.id).unwrap();
    store.begin(&again.id).unwrap();
    store.put_back(&again.id).unwrap();
    let cancel = |job: &Record| store.cancel(&job.id).unwrap().unwrap();
    assert_eq!((cancel(&waits).state, cancel(&waits).ended.is_some()), (State::Cancelled, true));
    assert!(store.begin(&waits.id).unwrap().is_none());
    assert_eq!((cancel(&runs).state, cancel(&runs).cancelled), (State::Running, true));
    // What it has left beside its output is to be taken away first.
    assert_eq!((cancel(&again).state, cancel(&again).cancelled), (State::Queued, true));
    assert!(store.cancel("no such").unwrap().is_none());
    let counts = store.counts().unwrap();
    assert_eq!(counts.iter().map(|&(_, n)| n).collect::<Vec<_>>(), [1, 1, 0, 0, 1]);
}

#[test]
fn lists_go_on_where_they_ended() {
    let (_folder, store) = store();
    let jobs: Vec<_> = (0..5).map(|_| new(&store).id).collect();
    let ids = |limit, before| {
        let found = store.list(limit, before, None).unwrap();
        (found.last().map(|job| job.number), found.into_iter().map(|job| job.id).collect::<Vec<_>>())
    };
    let (last, found) = ids(2, None);
    assert_eq!(found, [jobs[4].clone(), jobs[3].clone()]);
    let (_, rest) = ids(9, last);
    assert_eq!(rest, [jobs[2].clone(), jobs[1].clone(), jobs[0].clone()]);
    assert_eq!(store.list(9, None, Some(State::Done)).unwrap().len(), 0);
}

/// Another process has the database for longer than a call waits: that is said, and nothing is lost.
#[test]
fn a_locked_database_is_busy_and_works_again() {
    let (folder, store) = store();
    let job = new(&store);
    let other = Connection::open(folder.path().join("jobs.sqlite")).unwrap();
    other.execute_batch("begin immediate").unwrap();
    assert!(matches!(store.submit("{}", None), Err(StoreError::Busy)));
    assert!(matches!(store.begin(&job.id), Err(StoreError::Busy)));
    assert_eq!(store.list(9, None, None).unwrap().len(), 1, "it can be read");
    other.execute_batch("rollback").unwrap();
    assert!(store.begin(&job.id).unwrap().is_some());
    new(&store);
}

/// A database that can't grow any more.
#[test]
fn a_full_disk_is_said() {
    let (_folder, store) = store();
    let pages: i64 = store.db().query_row("pragma page_count", [], |row| row.get(0)).unwrap();
    store.db().pragma_update(None, "max_page_count", pages).unwrap();
    let long = "x".repeat(100_000);
    assert!(matches!(store.submit(&long, None), Err(StoreError::Full)));
    assert_eq!(store.list(9, None, None).unwrap().len(), 0);
    store.db().pragma_update(None, "max_page_count", 1_000_000).unwrap();
    assert!(matches!(store.submit(&long, None), Ok(Submitted::New(_))));
}
