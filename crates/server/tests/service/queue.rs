//! A full queue, and a service that stops.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wgquant_server::Lane;

use crate::common::{Answer, Service, file, floats, wait_for};
use crate::faults::large;

/// Twice as many clients as there are places, each of which sends all of its body before it looks for an answer.
#[test]
fn every_refused_client_gets_its_answer() {
    let service = Service::with(|args| args.queue = Some(2));
    let body = large();
    let (accepted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wanted = crate::direct::quantized(&body, wgquant::Format::Sym4, wgquant::Container::Native);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let answer = service.post("/v1/quantize?format=sym4", &body);
                if answer.status == 200 {
                    assert!(answer.body == wanted, "another file");
                    accepted.fetch_add(1, Ordering::Relaxed);
                } else {
                    answer.is_problem(429, "wait already, as many as may");
                    let seconds: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
                    assert!((1..=60).contains(&seconds));
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(accepted.load(Ordering::Relaxed) >= 3 && refused.load(Ordering::Relaxed) >= 1, "{accepted:?} {refused:?}");
    let (_, _, counted) = service.app.queue.counts(Lane::Direct);
    assert_eq!(counted, refused.load(Ordering::Relaxed) as u64);
    service.is_well();
}

/// A refused client that goes on sending for long is not waited for.
#[test]
fn a_refused_body_is_dropped_for_ten_seconds_at_most() {
    let service = Service::with(|args| (args.queue, args.idle_limit) = (Some(1), Some(60)));
    let body = large();
    let head = service.head("POST /v1/quantize?format=sym4", &[], Some(body.len()));
    let holders: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = service.connect();
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    wait_for("a full queue", || {
        let (waiting, running, _) = service.app.queue.counts(Lane::Direct);
        waiting + running == 2
    });
    let started = std::time::Instant::now();
    let mut stream = service.connect();
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&body[..1000]).expect("sent");
    let answer = Answer::read(&mut stream);
    answer.is_problem(429, "");
    assert_eq!(answer.header("connection"), Some("close"));
    let taken = started.elapsed();
    assert!(taken > Duration::from_secs(9) && taken < Duration::from_secs(20), "{taken:?}");
    drop(holders);
    wait_for("their places", || service.app.queue.counts(Lane::Direct).0 == 0);
    service.is_well();
}

/// What runs is finished, and what comes later is told so.
#[test]
fn it_stops_in_order() {
    let mut service = Service::start();
    let body = large();
    let mut running = service.connect();
    running.write_all(service.head("POST /v1/quantize?format=sym4", &[], Some(body.len())).as_bytes()).expect("sent");
    running.write_all(&body[..body.len() / 2]).expect("sent");
    wait_for("the work", || service.app.queue.counts(Lane::Direct).1 == 1);
    let (app, address) = (std::sync::Arc::clone(&service.app), service.address);
    let stopping = std::thread::spawn(move || service.stop());
    wait_for("the end", || app.queue.is_closed());
    wait_for("a closed door", || std::net::TcpStream::connect(address).is_err());
    running.write_all(&body[body.len() / 2..]).expect("sent");
    let answer = Answer::read(&mut running);
    let wanted = crate::direct::quantized(&body, wgquant::Format::Sym4, wgquant::Container::Native);
    assert!(answer.status == 200 && answer.body == wanted, "{}", answer.status);
    stopping.join().expect("it ends well");
}

/// Connections beyond the limit wait for one that ends.
#[test]
fn connections_are_bounded() {
    let service = Service::with(|args| (args.max_connections, args.idle_limit) = (Some(3), Some(60)));
    let mut idle: Vec<_> = (0..3).map(|_| service.connect()).collect();
    for stream in &mut idle {
        write!(stream, "GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", service.address).expect("sent");
        assert_eq!(Answer::read(stream).status, 200);
    }
    let mut one_more = service.connect();
    write!(one_more, "GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", service.address).expect("sent");
    one_more.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    assert!(Answer::try_read(&mut one_more).is_err(), "it waits");
    drop(idle);
    one_more.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    assert_eq!(Answer::read(&mut one_more).status, 200);
    drop(one_more);
    assert_eq!(service.post("/v1/quantize?format=sym4", &file(&[floats("a", &[64, 64], 1)])).status, 200);
}
