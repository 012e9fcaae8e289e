"""A local Ray cluster of three nodes, of which some are killed in mid-run; and what memory it takes."""

import contextlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy
import pytest
import ray
from conftest import contents, write_model, write_safetensors

import wgquant
from wgquant import _parts

N_SHARDS = 24
FORMAT = "nf4-dq"
OPTIONS = {"container": "bnb", "verify": "full", "shard_size": 1_000_000}
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    local = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **local})
    cluster.add = lambda: cluster.add_node(num_cpus=1, **local)
    cluster.workers = [cluster.add() for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def children(pid):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(stat.parent.name)


def hold(node):
    """Holds a node's workers if one of them is in the middle of a task, which Ray says in its title."""
    pids = [pid for raylet in node.all_processes["raylet"] for pid in children(raylet.process.pid)]
    titles = b""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
            titles += pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"ray::_quantize" in titles:
        return pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return None


def lose(cluster, surely=False):
    """Ends a node in the middle of a task, and adds another. Tasks are short, so one is caught and held first; where all
    are done before one is caught, an idle node goes, unless that would prove nothing."""
    end = time.monotonic() + (30 if surely else 1)
    held = None
    while not held and time.monotonic() < end:
        for node in cluster.workers:
            held = hold(node)
            if held:
                break
    assert held or not surely, "no node is working"
    cluster.remove_node(node, allow_graceful=False)
    for pid in held or ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.workers.remove(node)
    cluster.workers.append(cluster.add())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    source = write_model(folder / "in", N_SHARDS, 1024)
    wgquant.quantize_file(source, folder / "one", FORMAT, device="cpu", **OPTIONS)
    expected = contents(folder / "one")
    assert sum(name.endswith(".safetensors") for name in expected) == N_SHARDS
    return source, folder, expected


@pytest.mark.parametrize("kills", [(), (2, 9, 16)])
def test_the_same_bytes_when_nodes_are_lost(kills, cluster, model):
    from wgquant.ray import quantize_checkpoint

    source, folder, expected = model
    out = folder / f"out{len(kills)}"
    seen = []

    def progress(done, total):
        seen.append(done)
        assert total == N_SHARDS and not out.exists()
        # Which does not mind that folders in there come and go.
        walk = os.walk(folder / f"{out.name}.wgquant-parts")
        assert not [name for _, _, names in walk for name in names if name.endswith("index.json")]
        if done in kills:
            lose(cluster)

    summary = quantize_checkpoint(source, out, FORMAT, progress=progress, **OPTIONS)
    assert seen == list(range(1, N_SHARDS + 1))
    assert contents(out) == expected
    assert (summary.n_files, summary.n_tensors) == (N_SHARDS, N_SHARDS)
    assert not (folder / f"{out.name}.wgquant-parts").exists()


def test_a_lost_node_is_noticed(cluster, model):
    """Without another try the same loss ends the call, so what is caught above is the middle of a task; what was finished
    serves a second call."""
    from wgquant.ray import quantize_checkpoint

    source, folder, expected = model
    out = folder / "noticed"

    def progress(done, total):
        if done == 1:
            lose(cluster, surely=True)

    with pytest.raises(ray.exceptions.RayError):
        quantize_checkpoint(source, out, FORMAT, progress=progress, retries=0, **OPTIONS)
    assert not out.exists()
    assert len(list((folder / "noticed.wgquant-parts").glob("*.json"))) >= 1
    quantize_checkpoint(source, out, FORMAT, **OPTIONS)
    assert contents(out) == expected


def test_errors_come_out(cluster, model, tmp_path):
    from wgquant.ray import quantize_checkpoint

    source, folder, _ = model
    with pytest.raises(wgquant.RefusedError, match="exists already"):
        quantize_checkpoint(source, folder / "one", FORMAT, **OPTIONS)
    with pytest.raises(wgquant.DamagedError, match="has no model.safetensors in it"):
        quantize_checkpoint(tmp_path, folder / "two", FORMAT, **OPTIONS)


@pytest.mark.parametrize("kills", [(3, 11, 17)])
def test_a_store_when_nodes_are_lost(kills, cluster, model, bucket):
    """The same with source and destination in a store: no part under a final name before all are done."""
    from wgquant.ray import quantize_checkpoint

    source, _, expected = model
    bucket.upload(source, "in")

    def progress(done, total):
        assert not bucket.keys("out")
        if done in kills:
            lose(cluster)

    places = bucket.url("in"), bucket.url("out")
    summary = quantize_checkpoint(*places, FORMAT, progress=progress, storage_options=bucket.options, **OPTIONS)
    assert bucket.contents("out") == expected
    assert (summary.n_files, summary.n_tensors) == (N_SHARDS, N_SHARDS)
    assert bucket.keys("out.wgquant-parts") == []


DRIVER = """if True:
    import re, sys
    import ray
    from wgquant.ray import quantize_checkpoint
    local = {"address": "local", "num_cpus": 2, "_node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    ray.init(**local, include_dashboard=False, log_to_driver=False)
    done = quantize_checkpoint(sys.argv[1], sys.argv[2], "sym4", verify="none", shard_size=1 << 20)
    peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
    print(done.n_files, int(peak[1]) * 1024)
"""


def test_the_drivers_memory(tmp_path):
    """Sixty times the model, in files and in bytes, takes less than 16 MiB more, of 512 MiB: Ray's own notes of its tasks."""
    peaks = []
    for n_shards, rows in [(1, 4096), (64, 4096)]:
        source = write_model(tmp_path / f"in{n_shards}", n_shards, rows)
        command = [sys.executable, "-c", DRIVER, str(source), str(tmp_path / f"out{n_shards}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        n_files, peak = map(int, done.stdout.split())
        assert n_files == n_shards
        peaks.append(peak)
    assert peaks[1] < peaks[0] + (16 << 20), peaks


MEASURED = """if True:
    import pickle, re, sys
    from wgquant import _objects, _parts
    _objects.PIECE_BYTES = 5 << 20  # a store takes no smaller ones
    here = pickle.load(open(sys.argv[1], "rb"))
    found, snapshot = _parts.survey(here)
    _parts.work(here, snapshot, (1, found.n_files), "cpu")
    _parts.finish(here, snapshot)
    print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) << 10)
"""


def test_memory_of_a_task(bucket, tmp_path):
    """80 MiB more of a model take no more memory: what is in flight is a few pieces, here of 5 MiB."""
    peaks = []
    for n_rows in (80, 160):
        values = numpy.tile(numpy.random.default_rng(1).standard_normal((1, 1 << 18), "float32"), (n_rows, 1))
        write_safetensors(tmp_path / "in.safetensors", {"a.weight": values})
        bucket.put(f"in{n_rows}.safetensors", tmp_path / "in.safetensors")
        options = {"shard_size": 1 << 40, "verify": "full"}
        places = bucket.url(f"in{n_rows}.safetensors"), bucket.url(f"out{n_rows}")
        here = _parts.Job(*places, "sym8", options, str(tmp_path), bucket.options)
        (tmp_path / "job").write_bytes(pickle.dumps(here))
        command = [sys.executable, "-c", MEASURED, str(tmp_path / "job")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout))
        assert len(bucket.get(f"out{n_rows}/model.safetensors")) > values.nbytes / 4
    assert peaks[1] < peaks[0] + (12 << 20), peaks
