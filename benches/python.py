"""What the Python package costs beside the library, and what a second node brings.

    python3 -m pip install WHEEL numpy ray      # the wheel built as the example below is
    cargo build --release --example time_quantize
    python3 benches/python.py target/release/examples/time_quantize [--folder FOLDER]

Arrays: the fastest of many calls on 64 Mi weights, Python and Rust in turn. Cluster: eight shards, nf4-dq, everything
verified, on one and on two nodes of one core each, which are processes of a local Ray cluster on this machine; the fastest of
five runs each. `--folder` says where the shards go (the system's folder for temporary files).
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

# The loopback only, before Ray is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy

N_ELEMS = 64 << 20
N_REPEATS = 9
N_SHARDS = 8
SHARD_ROWS = 48 << 10
COLUMNS = 1024


def fastest(call, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result  # not within the time, nor is it in the example's
    return min(times)


def arrays(example):
    import wgquant

    # As the example has them: small numbers of both signs, without any cost of making them.
    weights = (numpy.arange(N_ELEMS, dtype="uint32") * numpy.uint32(2654435761)).view("int32").astype("float32")
    weights /= numpy.float32(2**31)
    for format in ("sym4", "nf4", "nf4-dq"):
        python, rust = [], []
        for _ in range(5):
            python.append(fastest(lambda: wgquant.quantize(weights, format, device="cpu"), N_REPEATS))
            done = subprocess.run([example, format, str(N_REPEATS)], capture_output=True, text=True, check=True)
            seconds, digest = done.stdout.split()
            rust.append(float(seconds))
        assert wgquant.quantize(weights, format, device="cpu").digest == digest, "both do the same work"
        print(f"{format}: Python {min(python) * 1e3:.1f} ms, Rust {min(rust) * 1e3:.1f} ms, {min(python) / min(rust):.3f} x")


def write_shards(folder):
    random = numpy.random.default_rng(1)
    weight_map = {}
    for number in range(1, N_SHARDS + 1):
        name, file = f"layers.{number}.weight", f"model-{number:05}-of-{N_SHARDS:05}.safetensors"
        values = (random.standard_normal((SHARD_ROWS, COLUMNS), "float32").view("uint32") >> 16).astype("uint16")
        entry = {"dtype": "BF16", "shape": values.shape, "data_offsets": [0, values.nbytes]}
        header = json.dumps({name: entry}).encode()
        with open(folder / file, "wb") as out:
            out.write(len(header).to_bytes(8, "little") + header + values.tobytes())
        weight_map[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def nodes(folder):
    import ray
    from ray.cluster_utils import Cluster

    from wgquant.ray import quantize_checkpoint

    source = folder / "in"
    source.mkdir()
    write_shards(source)
    local = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **local})
    times = {1: [], 2: []}
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for n_nodes in times:
            cluster.add_node(num_cpus=1, **local)
            cluster.wait_for_nodes()
            for run in range(6):
                options = {"verify": "full", "shard_size": 30_000_000}
                done = quantize_checkpoint(source, folder / f"out{n_nodes}{run}", "nf4-dq", **options)
                if run > 0:  # the first starts the workers
                    times[n_nodes].append(done.seconds)
    finally:
        ray.shutdown()
        cluster.shutdown()
    one, two = min(times[1]), min(times[2])
    print(f"{N_SHARDS} shards of {SHARD_ROWS * COLUMNS * 2 >> 20} MiB: one node {one:.2f} s, two {two:.2f} s, {one / two:.2f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example")
    parser.add_argument("--folder")
    parser.add_argument("--only", choices=["arrays", "nodes"])
    arguments = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}")
    if arguments.only != "nodes":
        arrays(arguments.example)
    if arguments.only != "arrays":
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            nodes(pathlib.Path(folder))
    print(f"load after: {os.getloadavg()[0]:.1f}")


main()
