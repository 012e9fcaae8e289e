//! Clients that go away, are slow, or send half of what they said. The service is alive after each.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::time::{Duration, Instant};

use wgquant_server::Lane;

use crate::common::{Answer, Service, file, floats, raw_file, wait_for};

/// About 16 MB in 4 tensors.
pub(crate) fn large() -> Vec<u8> {
    let names = ["a", "b", "c", "d"];
    file(&names.map(|name| floats(name, &[1024, 1000], u64::from(name.as_bytes()[0]))))
}

/// Nothing waits and nothing runs.
fn is_idle(service: &Service) -> bool {
    let (waiting, running, _) = service.app.queue.counts(Lane::Direct);
    waiting + running == 0
}

#[test]
fn a_client_that_goes_away_in_mid_upload() {
    let service = Service::start();
    let body = large();
    for n in [0, 4, 100, body.len() / 2, body.len() - 1] {
        let mut stream = service.connect();
        let head = service.head("POST /v1/quantize?format=nf4", &[], Some(body.len()));
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(&body[..n]).expect("sent");
        if n > 0 {
            wait_for("the work", || !is_idle(&service));
        }
        drop(stream);
        wait_for("its place", || is_idle(&service));
    }
    service.is_well();
}

/// The answer has come, and its bytes are not taken.
#[test]
fn a_client_that_goes_away_in_mid_download() {
    let service = Service::with(|args| args.memory = Some(bytesize::ByteSize::mib(400)));
    let body = large();
    for _ in 0..3 {
        let mut stream = service.connect();
        let head = service.head("POST /v1/quantize?format=sym8&override=*%3Dkeep", &[], Some(body.len()));
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(&body).expect("sent");
        let mut start = [0; 1000];
        stream.read_exact(&mut start).expect("an answer");
        assert!(start.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&start));
        assert!(service.app.budget.memory().0 > 8 << 20, "most of it is not yet taken");
        drop(stream);
        wait_for("its room", || service.app.budget.memory().0 == 0);
    }
    service.is_well();
}

/// The connection ends where the client has declared more.
#[test]
fn half_a_body() {
    let service = Service::start();
    let body = large();
    for half in [&body[..0], &body[..7], &body[..body.len() / 2]] {
        let mut stream = service.connect();
        let head = service.head("POST /v1/quantize?format=nf4", &[], Some(body.len()));
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(half).expect("sent");
        stream.shutdown(Shutdown::Write).expect("a socket");
        // It may find the connection closed, but no result.
        if let Ok(answer) = Answer::try_read(&mut stream) {
            answer.is_problem(400, "before it was complete");
        }
        wait_for("its place", || is_idle(&service));
    }
    service.is_well();
}

/// The body is what was declared, and the file in it is half a file.
#[test]
fn half_a_file() {
    let service = Service::start();
    let body = large();
    service.post("/v1/quantize?format=nf4", &body[..body.len() / 2]).is_problem(422, "body: is cut short");
    service.post("/v1/dequantize", &body[..100]).is_problem(422, "cut short");
    service.is_well();
}

/// A head, or a body, that comes by drops.
#[test]
fn a_slow_loris() {
    let service = Service::with(|args| args.idle_limit = Some(1));
    let started = Instant::now();
    let mut heads: Vec<_> = (0..20).map(|_| service.connect()).collect();
    for stream in &mut heads {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").expect("sent");
    }
    // Nothing at all, and nothing more after an answer.
    heads.extend((0..5).map(|_| service.connect()));
    let mut kept = service.connect();
    kept.write_all(service.head("GET /healthz", &[], None).as_bytes()).expect("sent");
    assert_eq!(Answer::read(&mut kept).status, 200);
    heads.push(kept);
    let body = large();
    let mut stream = service.connect();
    stream.write_all(service.head("POST /v1/quantize?format=nf4", &[], Some(body.len())).as_bytes()).expect("sent");
    stream.write_all(&body[..50_000]).expect("sent");
    // One byte now and then is not enough.
    let mut drop_by_drop = stream.try_clone().expect("a socket");
    let writer = std::thread::spawn(move || {
        for byte in body[50_000..].chunks(1).take(100) {
            if drop_by_drop.write_all(byte).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    service.is_well_beside();
    Answer::read(&mut stream).is_problem(408, "fewer than 16384 bytes in 1 s");
    drop(stream);
    writer.join().expect("no panic");
    for stream in &mut heads {
        let mut rest = Vec::new();
        // Closed, with or without a word.
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    service.is_well();
}

/// Clients that send nothing more don't keep the worker from others.
#[test]
fn slow_clients_don_t_hold_the_device() {
    slow_clients(None);
}

/// Nor do those that send a little now and then.
#[test]
fn dripping_clients_don_t_hold_the_device() {
    slow_clients(Some(Duration::from_millis(100)));
}

fn slow_clients(drip: Option<Duration>) {
    let service = Service::with(|args| args.idle_limit = Some(120));
    let body = large();
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = service.connect();
            let head = service.head("POST /v1/quantize?format=nf4", &[], Some(body.len()));
            stream.write_all(head.as_bytes()).expect("sent");
            stream.write_all(&body[..body.len() / 2]).expect("sent");
            stream
        })
        .collect();
    wait_for("the work", || service.app.queue.counts(Lane::Direct).1 == 1);
    let is_served = std::sync::atomic::AtomicBool::new(false);
    let n_sent = std::thread::scope(|scope| {
        let dripping = drip.map(|pause| {
            scope.spawn({
                let (slow, body, is_served) = (&slow, &body, &is_served);
                move || {
                    let mut at = body.len() / 2;
                    while !is_served.load(std::sync::atomic::Ordering::Relaxed) {
                        for mut stream in slow {
                            stream.write_all(&body[at..at + 300]).expect("sent");
                        }
                        at += 300;
                        std::thread::sleep(pause);
                    }
                    at
                }
            })
        });
        let started = Instant::now();
        service.is_well_beside();
        is_served.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        dripping.map_or(body.len() / 2, |thread| thread.join().expect("no panic"))
    });
    // Nothing of theirs is lost.
    let wanted = crate::direct::quantized(&body, wgquant::Format::Nf4, wgquant::Container::Native);
    for mut stream in slow {
        stream.write_all(&body[n_sent..]).expect("sent");
        let answer = Answer::read(&mut stream);
        assert!(answer.status == 200 && answer.body == wanted, "{}", answer.status);
    }
    service.is_well();
}

/// A client that takes nothing of its answer keeps no room.
#[test]
fn a_client_that_does_not_read() {
    let service = Service::with(|args| args.idle_limit = Some(1));
    let body = large();
    let mut stream = service.connect();
    let head = service.head("POST /v1/quantize?format=sym8&override=*%3Dkeep", &[], Some(body.len()));
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&body).expect("sent");
    wait_for("the answer", || is_idle(&service));
    wait_for("its room", || service.app.budget.memory().0 == 0);
    service.is_well();
    drop(stream);
}

#[test]
fn an_answer_that_takes_too_long() {
    let service = Service::with(|args| args.time_limit = Some(1));
    let body = large();
    let mut stream = service.connect();
    let head = service.head("POST /v1/quantize?format=nf4", &[], Some(body.len()));
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&body[..body.len() / 2]).expect("sent");
    wait_for("the work", || !is_idle(&service));
    wait_for("the limit", || is_idle(&service));
    stream.write_all(&body[body.len() / 2..]).expect("sent");
    Answer::read(&mut stream).is_problem(503, "longer than 1 s");
    service.is_well();
}

/// More than memory and temporary files may take.
#[test]
fn no_more_room() {
    let service = Service::with(|args| {
        args.memory = Some(bytesize::ByteSize::mib(192));
        args.disk = Some(bytesize::ByteSize::mib(1));
    });
    let (_, bodies) = service.app.budget.memory();
    let n = usize::try_from(bodies).expect("small") + (2 << 20);
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
    let body = raw_file(&header, &vec![7; n]);
    let answer = service.post("/v1/quantize?format=sym4", &body);
    answer.is_problem(507, "all that temporary files may take");
    assert_eq!(answer.header("retry-after"), Some("10"));
    service.is_well();
}

/// Larger than memory: it goes through temporary files, with the same bytes.
#[test]
fn a_body_that_is_larger_than_memory() {
    let service = Service::with(|args| args.memory = Some(bytesize::ByteSize::mib(192)));
    let (_, bodies) = service.app.budget.memory();
    let rows = bodies / 4000 + 1000;
    let body = file(&[floats("w", &[rows, 1000], 1)]);
    for format in [wgquant::Format::Sym4, wgquant::Format::Nf4Dq] {
        let answer = service.post(&format!("/v1/quantize?format={format}"), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let wanted = crate::direct::quantized(&body, format, wgquant::Container::Native);
        assert!(answer.body == wanted, "another file");
    }
    service.is_well();
}

/// A folder for temporary files on a disk that is really full: a tmpfs that this test mounts in a namespace of its own.
#[test]
fn a_full_disk() {
    if std::env::var_os("WGQUANT_TEST_FULL_DISK").is_none() {
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("Linux")) == 0;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = r#"mount -t tmpfs -o size=4M tmpfs "$1" || exit 99
            WGQUANT_TEST_FULL_DISK="$1" exec "$2" --exact faults::a_full_disk --nocapture"#;
        let mut unshare = Command::new("unshare");
        unshare.arg(if is_root { "-m" } else { "-rm" }).args(["sh", "-c", script, "sh"]).arg(folder.path());
        let output = unshare.arg(std::env::current_exe().expect("this test")).output();
        let output = output.expect("this test needs unshare (util-linux)");
        assert_ne!(output.status.code(), Some(99), "this test needs to mount a tmpfs: {output:?}");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let disk = std::env::var_os("WGQUANT_TEST_FULL_DISK").expect("set above");
    let service = Service::with(|args| {
        args.memory = Some(bytesize::ByteSize::mib(192));
        args.state = Some(disk.into());
    });
    let (_, bodies) = service.app.budget.memory();
    let n = usize::try_from(bodies).expect("small") + (16 << 20);
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
    let body = raw_file(&header, &vec![7; n]);
    for _ in 0..2 {
        service.post("/v1/quantize?format=sym4", &body).is_problem(507, "temporary files");
        wait_for("its room", || service.app.budget.memory().0 == 0 && service.app.budget.disk().0 == 0);
    }
    service.is_well_beside();
}
