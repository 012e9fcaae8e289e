//! GPU bytes are CPU bytes: the case table on every adapter, in every shape.

mod common;

use wgquant::gpu::Shape;
use wgquant::selftest;

/// Runs the whole table on every adapter and gathers what differs.
fn run_all(shape: Shape, max_chunk_bytes: Option<u64>) {
    let mut failures = Vec::new();
    for name in common::adapter_names() {
        let mut gpu = common::open(&name).with_shape(shape);
        if let Some(n_bytes) = max_chunk_bytes {
            gpu = gpu.with_max_chunk_bytes(n_bytes);
        }
        let n = pollster::block_on(selftest::run(&gpu, |failure| failures.push(format!("{name}: {failure}"))))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(n > 1000, "{name}: only {n} comparisons");
        eprintln!("{name}: {n} comparisons");
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
}

#[test]
fn the_case_table_in_the_serial_shape() {
    run_all(Shape::Serial, None);
}

#[test]
fn the_case_table_in_the_block_shape() {
    run_all(Shape::Block, None);
}

#[test]
fn the_case_table_in_the_tile_shape() {
    run_all(Shape::Tile, None);
}

#[test]
fn the_case_table_in_many_tiny_chunks() {
    run_all(Shape::Serial, Some(4096));
}
