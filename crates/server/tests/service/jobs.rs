//! Jobs on a device that is lost: see the command line's tests for all else that jobs do.

use wgquant::{Container, Engine, Format};
use wgquant_server::Lane;

use crate::common::{Service, wait_for};
use crate::device::{adapters, lose};
use crate::direct::quantized;
use crate::faults::large;

#[test]
fn a_job_goes_on_after_its_device_was_lost() {
    let body = large();
    let wanted = quantized(&body, Format::Sym4, Container::Native);
    let root = tempfile::tempdir().expect("a folder");
    std::fs::write(root.path().join("in"), &body).expect("a file");
    let service = Service::with(|args| {
        args.device = Some(adapters()[0].clone());
        args.root = vec![root.path().to_owned()];
    });
    let name = service.app.devices[0].description().to_owned();
    let losses = || service.app.metrics.n_device_losses(&name);
    // The work may be quicker than the loss.
    for number in 0..50 {
        let (before, output) = (losses(), format!("out{number}"));
        let job = format!("{{\"source\": \"in\", \"destination\": \"{output}\", \"format\": \"sym4\"}}");
        let answer = service.send("POST /v1/jobs", &[("Content-Type", "application/json")], job.as_bytes());
        assert_eq!(answer.status, 202, "{}", answer.text());
        let path = format!("/v1/jobs/{}", answer.json()["id"].as_str().expect("a name"));
        let state = || service.get(&path).json()["state"].as_str().expect("a state").to_owned();
        wait_for("the work", || service.app.queue.counts(Lane::Job).1 == 1 || state() == "done");
        lose(&service.app);
        wait_for("the end", || ["done", "failed"].contains(&state().as_str()));
        assert_eq!(state(), "done", "{}", service.get(&path).text());
        assert!(std::fs::read(root.path().join(&output)).expect("a file") == wanted, "{output}");
        if losses() > before {
            assert!(matches!(service.app.devices[0].engine().as_deref(), Some(Engine::Gpu(_)) | None));
            service.is_well();
            return;
        }
    }
    panic!("it was never lost amid the work");
}
