//! Devices: the same bytes from each, and one that is lost is opened anew.

use std::sync::atomic::{AtomicBool, Ordering};

use wgquant::{Container, Engine, Format};
use wgquant_server::App;

use crate::common::{Service, wait_for};
use crate::direct::quantized;
use crate::faults::large;

/// What `WGQUANT_TEST_ADAPTERS` promises, or else every adapter there is. None is a failure.
pub(crate) fn adapters() -> Vec<String> {
    let names: Vec<String> = match std::env::var("WGQUANT_TEST_ADAPTERS") {
        Ok(names) => names.split(',').map(str::to_owned).collect(),
        Err(_) => {
            let adapters = pollster::block_on(wgquant::gpu::adapters());
            adapters.iter().map(|adapter| format!("{}:{}", adapter.backend, adapter.name)).collect()
        }
    };
    assert!(!names.is_empty(), "there is no GPU adapter, not even a software one: run `cargo xtask test`");
    names
}

/// Loses the open device, as a driver does that resets; whether there was one.
pub(crate) fn lose(app: &App) -> bool {
    match app.devices[0].engine().as_deref() {
        Some(Engine::Gpu(gpu)) => {
            gpu.device().destroy();
            true
        }
        _ => false,
    }
}

#[test]
fn every_device_gives_the_same_bytes() {
    let body = large();
    let wanted = quantized(&body, Format::Sym4, Container::Native);
    for adapter in adapters() {
        let service = Service::with(|args| args.device = Some(adapter.clone()));
        let answer = service.post("/v1/quantize?format=sym4", &body);
        assert!(answer.status == 200 && answer.body == wanted, "{adapter}: {}", answer.status);
        let name = answer.header("wgquant-adapter").expect("a name").to_owned();
        let device = service.get("/v1/adapters").json()["devices"][0].clone();
        assert_eq!(device["name"], name.as_str());
        // GL's drivers don't tell.
        if adapter.starts_with("vulkan") {
            assert!(device["memory_bytes"].as_u64().is_some_and(|n| n > 1 << 20), "{device}");
            assert!(service.get("/metrics").text().contains("\nwgquant_device_memory_bytes{device=\""));
        }
    }
}

/// Two devices are two workers.
#[test]
fn several_devices_share_the_queue() {
    let service = Service::with(|args| args.device = Some(format!("{},cpu", adapters()[0])));
    let body = large();
    let wanted = quantized(&body, Format::Nf4, Container::Native);
    let mut names: Vec<String> = std::thread::scope(|scope| {
        let post = || {
            let answer = service.post("/v1/quantize?format=nf4", &body);
            assert!(answer.status == 200 && answer.body == wanted, "{}", answer.status);
            answer.header("wgquant-adapter").expect("a name").to_owned()
        };
        let posts: Vec<_> = (0..6).map(|_| scope.spawn(post)).collect();
        posts.into_iter().map(|post| post.join().expect("no panic")).collect()
    });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
    service.is_well();
}

#[test]
fn a_lost_device_is_opened_anew() {
    let body = large();
    let wanted = quantized(&body, Format::Sym4, Container::Native);
    let service = Service::with(|args| args.device = Some(adapters()[0].clone()));
    // Between two requests.
    assert!(lose(&service.app));
    let answer = service.post("/v1/quantize?format=sym4", &body);
    assert!(answer.status == 200 && answer.body == wanted, "{}", answer.text());
    let name = service.app.devices[0].description().to_owned();
    assert_eq!(service.app.metrics.n_device_losses(&name), 1);
    // Amid one. The work may be quicker than the loss.
    for _ in 0..50 {
        let before = service.app.metrics.n_device_losses(&name);
        std::thread::scope(|scope| {
            let request = scope.spawn(|| service.post("/v1/quantize?format=sym4", &body));
            wait_for("the work", || {
                service.app.queue.counts(wgquant_server::Lane::Direct).1 == 1 || request.is_finished()
            });
            lose(&service.app);
            let answer = request.join().expect("no panic");
            assert!(answer.status == 200 && answer.body == wanted, "{}", answer.text());
        });
        if service.app.metrics.n_device_losses(&name) > before {
            break;
        }
    }
    assert!(service.app.metrics.n_device_losses(&name) > 1, "it was never lost amid the work");
    assert_eq!(service.get("/readyz").status, 200);
    service.is_well();
}

/// The work is tried once more, and then fails with a reason.
#[test]
fn a_device_that_is_lost_again_and_again() {
    let body = large();
    let service = Service::with(|args| args.device = Some(adapters()[0].clone()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lose(&service.app);
                std::thread::yield_now();
            }
        });
        let answer = service.post("/v1/quantize?format=sym4", &body);
        over.store(true, Ordering::Relaxed);
        answer.is_problem(503, "was lost twice while working on it");
    });
    service.is_well();
    let name = service.app.devices[0].description().to_owned();
    let losses = service.app.metrics.n_device_losses(&name);
    assert!(losses >= 2, "{losses}");
    let counted = format!("device_losses_total{{device=\"{}\"}} {losses}", name.replace('"', "\\\""));
    assert!(service.get("/metrics").text().contains(&counted), "{counted}");
}
