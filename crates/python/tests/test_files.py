"""Checkpoints: the jobs, their progress, how they stop, and the command line."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest
from conftest import contents, write_model, write_safetensors

import wgquant

N_ELEMS = 1 << 22


@pytest.fixture
def checkpoint(tmp_path):
    random = numpy.random.default_rng(5)
    tensors = {f"layer{n}.weight": random.standard_normal((64, N_ELEMS // 64), "float32") for n in range(3)}
    write_safetensors(tmp_path / "in", tensors | {"ids": numpy.arange(5)})
    return tmp_path / "in"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_and_back(checkpoint, tmp_path, binary):
    calls = []
    options = {"verify": "full", "overrides": {"layer1*": "sym8", "layer2*": None}}
    report = wgquant.quantize_file(
        checkpoint, tmp_path / "out", "nf4-dq", device="cpu", progress=lambda *call: calls.append(call), **options
    )
    both = ["--override", "layer1*=sym8", "--override", "layer2*=keep"]
    binary("quantize", checkpoint, "-o", tmp_path / "cli", "--format", "nf4-dq", "--device", "cpu", *both)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "cli").read_bytes()
    assert [tensor.format for tensor in report.tensors] == ["nf4-dq", "sym8", None, None]
    assert report.bytes_out == (tmp_path / "out").stat().st_size and report.adapter == "CPU"
    assert report.tensors[0].figures.sqnr_db > 15 and report.tensors[0].verified == "full"
    assert calls[-1][1:] == (calls[-1][2], calls[-1][2]) and all(a[1] <= b[1] for a, b in zip(calls, calls[1:]))

    planned = wgquant.plan(checkpoint, tmp_path / "other", "nf4-dq", **options)
    assert (planned.bytes_out, planned.n_files) == (report.bytes_out, 1)
    verified = wgquant.verify(checkpoint, tmp_path / "out")
    assert [tensor.figures and tensor.figures.mse for tensor in verified.tensors] == [
        tensor.figures and tensor.figures.mse for tensor in report.tensors
    ]
    inspected = wgquant.inspect(tmp_path / "out")
    assert inspected.container == "native"
    digests = {tensor.name: tensor.digest for tensor in report.tensors}
    assert {tensor.name: tensor.digest for tensor in inspected.tensors} == digests
    totals, of_tensors = wgquant.compare(checkpoint, ["nf4-dq", "sym8"], include=["layer*"])
    assert [total.format for total in totals] == ["nf4-dq", "sym8"] and all(total.on_frontier for total in totals)
    assert of_tensors[0].figures.mse == report.tensors[0].figures.mse and len(of_tensors) == 6
    wgquant.dequantize_file(tmp_path / "out", tmp_path / "back", device="cpu")
    binary("dequantize", tmp_path / "cli", "-o", tmp_path / "cli-back", "--device", "cpu")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "cli-back").read_bytes()


def test_errors_are_the_librarys(checkpoint, tmp_path):
    out = tmp_path / "out"
    wgquant.quantize_file(checkpoint, out, "sym4", device="cpu")
    with pytest.raises(wgquant.RefusedError, match="out: exists already: give another name, or --force") as raised:
        wgquant.quantize_file(checkpoint, out, "sym4")
    assert raised.value.path == out
    wgquant.quantize_file(checkpoint, out, "sym4", device="cpu", force=True)
    data = bytearray(out.read_bytes())
    data[-40_000] ^= 1
    out.write_bytes(data)
    with pytest.raises(wgquant.MismatchError, match='tensor "layer') as raised:
        wgquant.verify(checkpoint, out)
    assert sum(tensor.mismatch is not None for tensor in raised.value.report.tensors) == 1
    with pytest.raises(wgquant.DamagedError):
        wgquant.inspect(__file__)
    with pytest.raises(wgquant.IoError, match="nosuch: can't be opened: No such file") as raised:
        wgquant.inspect(tmp_path / "nosuch")
    assert isinstance(raised.value, OSError)
    with pytest.raises(TypeError, match="there is no option colour"):
        wgquant.quantize_file(checkpoint, out, "sym4", colour="red")
    with pytest.raises(TypeError, match="include is a list of globs"):
        wgquant.quantize_file(checkpoint, out, "sym4", include="*")
    bad = numpy.ones((64, 128), "float32")
    bad[1, 2] = numpy.inf
    write_safetensors(tmp_path / "bad", {"x.weight": bad})
    with pytest.raises(wgquant.NonFiniteError, match=r"bad: tensor \"x.weight\": element 130 is \+Inf") as raised:
        wgquant.quantize_file(tmp_path / "bad", tmp_path / "bad-out", "sym4", device="cpu")
    assert (raised.value.tensor, raised.value.index) == ("x.weight", 130)
    assert names(tmp_path) == ["bad", "in", "out"]


def test_what_progress_raises_stops_it(checkpoint, tmp_path):
    def fail(tensor, done, total):
        raise LookupError("enough")

    jobs = [
        lambda: wgquant.quantize_file(checkpoint, tmp_path / "out", "sym4", device="cpu", progress=fail, verify="full"),
        lambda: wgquant.compare(checkpoint, progress=fail),
    ]
    for job in jobs:
        with pytest.raises(LookupError, match="enough"):
            job()
        assert names(tmp_path) == ["in"]


@pytest.mark.parametrize("moment", range(5))
def test_ctrl_c_leaves_nothing(moment, checkpoint, tmp_path):
    """The signal comes when the job is between a fifth and all of the way."""
    script = """if True:
        import sys, time, wgquant
        def show(tensor, done, total):
            print(done, total, flush=True)
            time.sleep(0.02)
        try:
            wgquant.quantize_file(sys.argv[1], sys.argv[2], "nf4-dq", device="cpu", verify="full", progress=show)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(7)
    """
    command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        done, total = map(int, line.split())
        if done >= total * moment // 6:
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 7 and out.endswith("interrupted\n"), (out, error)
    assert error == ""
    assert names(tmp_path) == ["in"], "no output, nothing unfinished, no journal"


def test_two_threads_quantize_files_at_once(checkpoint, tmp_path):
    seen = {name: [] for name in "ab"}
    met = threading.Barrier(2, timeout=60)

    def run(name):
        def show(*_):
            if not seen[name]:
                met.wait()  # both are in the middle of their work
            seen[name].append(time.monotonic())

        wgquant.quantize_file(checkpoint, tmp_path / name, "sym8", device="cpu", progress=show)

    threads = [threading.Thread(target=run, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen.values())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tasks(tmp_path):
    model = write_model(tmp_path / "in", 6, 64)
    options = {"device": "cpu", "shard_size": 40_000, "container": "bnb"}
    wgquant.quantize_file(model, tmp_path / "one", "nf4", **options)
    files = []
    for number in (3, 1, 2):
        files += wgquant.quantize_task(model, tmp_path / "out", "nf4", (number, 3), **options).files
    shared = {key: options[key] for key in ("shard_size", "container")}
    part = tmp_path / "out.wgquant-parts" / "files" / files[2]
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(wgquant.RefusedError, match=f"its part {files[2]} .*is missing"):
        wgquant.finish_tasks(model, tmp_path / "out", "nf4", **shared)
    part.write_bytes(whole[:-1] + b"\xff")
    with pytest.raises(wgquant.DamagedError, match=f"its part {files[2]} .*is not what its task wrote"):
        wgquant.finish_tasks(model, tmp_path / "out", "nf4", **shared)
    part.write_bytes(whole)
    wgquant.finish_tasks(model, tmp_path / "out", "nf4", **shared)
    assert contents(tmp_path / "out") == contents(tmp_path / "one") and len(files) == 6


def test_tasks_on_copies(tmp_path):
    """Each node may have its own copy of the source, if it keeps the times: else it could be another version."""
    model = write_model(tmp_path / "in", 2, 64)
    shutil.copytree(model, tmp_path / "node" / "in", copy_function=shutil.copy2)
    shutil.copytree(model, tmp_path / "later" / "in", copy_function=shutil.copyfile)
    options = {"device": "cpu", "shard_size": 40_000}
    wgquant.quantize_file(model, tmp_path / "one", "nf4", **options)
    wgquant.quantize_task(model, tmp_path / "out", "nf4", (1, 2), **options)
    with pytest.raises(wgquant.RefusedError, match="was made with another input"):
        wgquant.quantize_task(tmp_path / "later" / "in", tmp_path / "out", "nf4", (1, 2), **options)
    wgquant.quantize_task(tmp_path / "node" / "in", tmp_path / "out", "nf4", (2, 2), **options)
    wgquant.finish_tasks(model, tmp_path / "out", "nf4", shard_size=40_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "wgquant"], [os.path.dirname(sys.executable) + "/wgquant"]])
def test_the_command_line_is_the_same(command, checkpoint, tmp_path, binary):
    def run(*arguments):
        return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)

    assert run("formats").stdout == binary("formats")
    assert run("--version").stdout == binary("--version")
    assert run("quantize", "--help").stdout == binary("quantize", "--help")
    job = ["quantize", checkpoint, "--format", "mxfp4", "--device", "cpu", "--quiet", "-o"]
    assert run(*job, tmp_path / "python").returncode == 0
    binary(*job, tmp_path / "binary")
    assert (tmp_path / "python").read_bytes() == (tmp_path / "binary").read_bytes()
    failed = run(*job, tmp_path / "python")
    assert (failed.returncode, failed.stdout) == (1, "") and "exists already" in failed.stderr
    assert run("nosuch").returncode == 2


def test_adapters():
    for adapter in wgquant.adapters():
        assert adapter.name and adapter.limits["max_buffer_size"] > 0
