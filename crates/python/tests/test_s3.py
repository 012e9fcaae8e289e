"""Checkpoints in a store that speaks S3: the same bytes, and nothing torn, whatever happens on the way."""

import os
import pickle
import subprocess
import sys

# Ray looks for another address than the loopback's wherever it takes a cluster for real; this is its word for "don't".
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import numpy
import pytest
from conftest import contents, write_model, write_safetensors
from store import Server

import wgquant
from wgquant import _objects, _parts, _staging
from wgquant._scratch import scratch_folder

FORMAT = "nf4-dq"
OPTIONS = {"container": "bnb", "verify": "full", "shard_size": 60_000}
N_SHARDS = 5


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(server):
    return server.bucket()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("s3")
    source = write_model(folder / "in", N_SHARDS, 100)
    (source / "tokenizer.json").write_text('{"model": "ünï"}')
    wgquant.quantize_file(source, folder / "one", FORMAT, device="cpu", **OPTIONS)
    return source, contents(folder / "one")


def job(bucket, source, destination, scratch=None, **options):
    return _parts.Job(str(source), str(destination), FORMAT, {**OPTIONS, **options}, scratch, bucket.options)


def run(job, order=None):
    """What `wgquant.ray` does, without Ray. What goes from node to node is pickled there."""
    found, snapshot = pickle.loads(pickle.dumps(_parts.survey(job)))
    for number in order or range(1, found.n_files + 1):
        _parts.work(job, snapshot, (number, found.n_files), "cpu")
    _parts.finish(job, snapshot)
    return found


def refused(kind, sentence, job):
    with pytest.raises(kind, match=sentence) as raised:
        run(job)
    assert "\n" not in str(raised.value) and "scratch-" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("places", ["store to store", "store to folder", "folder to store"])
def test_the_bytes_of_one_process(places, bucket, model, tmp_path):
    source, expected = model
    from_store, to_store = places.startswith("store"), places.endswith("store")
    here = job(
        bucket,
        bucket.upload(source, "models/in") if from_store else source,
        bucket.url("models/out") if to_store else tmp_path / "out",
        str(tmp_path / "scratch"),
    )
    found = run(here, order=[3, 1, 5, 2, 4, 3])
    made = bucket.contents("models/out") if to_store else contents(tmp_path / "out")
    assert made == expected
    assert (found.n_files, found.n_tensors) == (N_SHARDS, N_SHARDS)
    assert found.bytes_in == sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert found.bytes_out == sum(len(data) for name, data in expected.items() if name.endswith(".safetensors"))
    assert not [key for key in bucket.keys() if "wgquant-parts" in key]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == (["scratch"] if to_store else ["out", "scratch"])
    wgquant.verify(source, tmp_path / "out") if not to_store else None
    refused(wgquant.RefusedError, "out: exists already: give another name", here)


def test_what_a_task_brings_here(bucket, model, tmp_path, monkeypatch):
    """Its own tensors and all headers: the rest of the files is holes. Nothing has its final name before the end."""
    source, expected = model
    here = job(bucket, bucket.upload(source, "in"), bucket.url("out"), str(tmp_path))
    n_bytes = {path.name: path.stat().st_size for path in source.glob("*.safetensors")}
    seen = []

    def look(path, *rest, original=_parts._wgquant.quantize_task):
        files = [file.stat() for file in path.glob("*.safetensors")]
        assert sorted(file.st_size for file in files) == sorted(n_bytes.values())
        seen.append(sum(file.st_blocks * 512 for file in files))
        original(path, *rest)
        assert not bucket.keys("out")

    monkeypatch.setattr(_parts._wgquant, "quantize_task", look)
    run(here)
    page = 4096
    of_one, headers = max(n_bytes.values()), N_SHARDS * 2 * page
    assert len(seen) == N_SHARDS and all(of_one <= used <= of_one + headers for used in seen), (seen, of_one)
    assert max(seen) < sum(n_bytes.values()) / 3, "the bound is one that all of it would break"
    assert bucket.contents("out") == expected


def test_large_files_go_in_pieces(bucket, tmp_path, monkeypatch):
    """One file of two pieces, without an index; a copy that the store does not make by itself."""
    monkeypatch.setattr(_objects, "PIECE_BYTES", 5 << 20)
    monkeypatch.setattr(_objects, "MAX_COPY_BYTES", 1 << 20)
    values = numpy.random.default_rng(1).standard_normal((11, 1 << 19), "float32").astype("float16")
    write_safetensors(tmp_path / "in.safetensors", {"a.weight": values, "ids": numpy.arange(3)})
    bucket.put("in.safetensors", (tmp_path / "in.safetensors").read_bytes())
    options = {"shard_size": 1 << 30}
    wgquant.quantize_file(tmp_path / "in.safetensors", tmp_path / "one", "sym8", device="cpu", **options)
    run(_parts.Job(bucket.url("in.safetensors"), bucket.url("out"), "sym8", options, None, bucket.options))
    assert bucket.contents("out") == contents(tmp_path / "one")
    assert [len(data) > 5 << 20 for data in bucket.contents("out").values()] == [True]


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


def test_gguf(bucket, tmp_path, binary, monkeypatch):
    """Of a GGUF file, only reading its header says how long that is."""
    monkeypatch.setattr(_staging, "_HEAD_BYTES", 512)
    random = numpy.random.default_rng(1)
    tensors = {f"blk.{n}.attn_q.weight": random.standard_normal((64, 64), "float32") for n in range(40)}
    write_safetensors(tmp_path / "plain.safetensors", tensors)
    binary(
        *["quantize", tmp_path / "plain.safetensors", "-o", tmp_path / "in.gguf", "--container", "gguf"],
        *["--format", "q8_0", "--exclude", "*", "--device", "cpu"],
    )
    bucket.put("in.gguf", (tmp_path / "in.gguf").read_bytes())
    options = {"container": "native", "shard_size": 20_000}
    wgquant.quantize_file(tmp_path / "in.gguf", tmp_path / "one", FORMAT, device="cpu", **{**OPTIONS, **options})
    run(job(bucket, bucket.url("in.gguf"), bucket.url("out"), **options))
    assert bucket.contents("out") == contents(tmp_path / "one")


def test_what_is_there_already(bucket, model, tmp_path):
    """A second call makes only what is missing; `force` replaces a model and nothing else, and not before the end."""
    source, expected = model
    here = job(bucket, bucket.upload(source, "in"), bucket.url("out"))
    found, snapshot = _parts.survey(here)
    _parts.work(here, snapshot, (2, found.n_files), "cpu")
    first = [key for key in bucket.keys("out.wgquant-parts/files")]
    run(here)
    assert bucket.contents("out") == expected and len(first) == 1

    for name in ["model-00009-of-00009.safetensors", "notes.txt"]:
        bucket.put(f"out/{name}", b"old")
    bucket.put("out/below/kept", b"not of this model")
    forced = job(bucket, bucket.url("in"), bucket.url("out"), force=True)
    bad = numpy.full((100, 1024), 0x7FC0, "uint16")
    whole = {name: bucket.get(f"in/{name}") for name in ["model-00003-of-00005.safetensors"]}
    write_safetensors(tmp_path / "bad", {"layers.3.q_proj.weight": bad})
    bucket.put("in/model-00003-of-00005.safetensors", (tmp_path / "bad").read_bytes())
    before = {key: bucket.get(key) for key in bucket.keys("out")}
    error = refused(wgquant.NonFiniteError, f"^s3://{bucket.name}/in/model-00003-of-00005.safetensors: tensor", forced)
    assert (error.index, error.tensor) == (0, "layers.3.q_proj.weight") and error.path == bucket.url(
        "in/model-00003-of-00005.safetensors"
    )
    assert {key: bucket.get(key) for key in bucket.keys("out")} == before, "nothing is lost to bad input"
    bucket.put("in/model-00003-of-00005.safetensors", whole["model-00003-of-00005.safetensors"])
    run(forced)
    assert {key.removeprefix("out/"): bucket.get(key) for key in bucket.keys("out")} == {
        **expected,
        "below/kept": b"not of this model",
    }

    # Of a call that was killed while it gave parts their names, and that another job is to replace.
    bucket.put("killed/model-00001-of-00009.safetensors", b"a part")
    bucket.put("killed.wgquant-parts/state.json", b'{"job": "another", "state": "placing"}')
    refused(wgquant.RefusedError, "killed: exists already", job(bucket, bucket.url("in"), bucket.url("killed")))
    run(job(bucket, bucket.url("in"), bucket.url("killed"), force=True))
    assert bucket.contents("killed") == expected

    bucket.put("other/notes.txt", b"mine")
    refused(wgquant.RefusedError, "other: exists already", job(bucket, bucket.url("in"), bucket.url("other")))
    sentence = "other: holds objects, and no model, so it is not replaced"
    refused(wgquant.RefusedError, sentence, job(bucket, bucket.url("in"), bucket.url("other"), force=True))
    refused(wgquant.RefusedError, "in: the output is the input", job(bucket, bucket.url("in"), bucket.url("in/")))


def test_parts_that_are_not_as_they_should_be(bucket, model):
    """A part that is missing, altered or another job's is named, nothing gets a final name, and another call mends it."""
    source, expected = model
    here = job(bucket, bucket.upload(source, "in"), bucket.url("out"))
    found, snapshot = _parts.survey(here)

    def work():
        for number in range(1, found.n_files + 1):
            _parts.work(here, snapshot, (number, found.n_files), "cpu")
        return {key.rpartition("/")[2][:16]: key for key in bucket.keys("out.wgquant-parts/files")}

    def refuses(kind, sentence):
        with pytest.raises(kind, match=f"^s3://{bucket.name}/out: {sentence}"):
            _parts.finish(here, snapshot)
        assert bucket.keys("out") == []

    parts = work()
    assert sorted(parts) == [f"model-{number:05}-of-" + "0" for number in range(1, 6)]
    name = "model-00002-of-00005.safetensors"
    key = parts[name[:16]]
    whole = bucket.get(key)
    bucket.delete(key)
    refuses(wgquant.RefusedError, f"its part {name} is missing: run it again")
    for bytes_ in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"x", b""):
        bucket.put(key, bytes_)
        refuses(wgquant.DamagedError, f"its part {name} is not what its task wrote")
    record = f"out.wgquant-parts/{name}.json"
    text = bucket.get(record)
    bucket.put(record, text[: len(text) // 2])
    refuses(wgquant.RefusedError, f"its part {name} is missing")
    work()
    other = job(bucket, bucket.url("in"), bucket.url("out"), exclude=["layers.3.*"])
    refused(wgquant.RefusedError, "out: its part model-0000.* was made with another selection", other)
    _parts.finish(here, snapshot)
    assert bucket.contents("out") == expected
    assert bucket.keys("out.wgquant-parts") == []
    # As if the node was lost before it could say that it was done.
    _parts.finish(here, snapshot)
    bucket.delete(f"out/{name}")
    with pytest.raises(wgquant.RefusedError, match="its parts model-00001.* are missing"):
        _parts.finish(here, snapshot)


def test_an_upload_that_is_not_what_was_made(bucket, model, monkeypatch):
    """It is read back before there is a record of it."""
    source, _ = model

    def put(self, key, data, *rest, original=_objects.Bucket.put):
        if "/files/" in key:
            data = data.read_bytes()
            data = data[:-1] + bytes([data[-1] ^ 1])
        return original(self, key, data, *rest)

    monkeypatch.setattr(_objects.Bucket, "put", put)
    refused(
        wgquant.DamagedError,
        "out: its part .* reads back from the store with another digest",
        job(bucket, source, bucket.url("out")),
    )
    assert [key for key in bucket.keys() if key.endswith(".json")] == []


def test_a_source_that_changes(bucket, model):
    """An object that is altered, replaced or gone in mid-run ends it, wherever that is noticed."""
    source, _ = model
    name = "model-00004-of-00005.safetensors"
    whole = (source / name).read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    changes = lambda: bucket.put(f"in/{name}", altered), lambda: bucket.delete(f"in/{name}")
    for number, change in enumerate(changes):
        here = job(bucket, bucket.upload(source, "in"), bucket.url(f"out{number}"))
        found, snapshot = _parts.survey(here)
        change()
        with pytest.raises(
            wgquant.DamagedError, match=f"^s3://{bucket.name}/in/{name}: (was changed|has gone) while it was read"
        ):
            for number in range(1, found.n_files + 1):
                _parts.work(here, snapshot, (number, found.n_files), "cpu")
    here = job(bucket, bucket.upload(source, "in"), bucket.url("out"))
    found, snapshot = _parts.survey(here)
    for number in range(1, found.n_files + 1):
        _parts.work(here, snapshot, (number, found.n_files), "cpu")
    bucket.put(f"in/{name}", altered)
    with pytest.raises(wgquant.DamagedError, match=f"in/{name}: was changed while it was read"):
        _parts.finish(here, snapshot)
    assert "out/model.safetensors.index.json" not in bucket.keys("out")
    # Another call sees that what is done is of another input.
    refused(wgquant.RefusedError, "was made with another input", here)
    run(job(bucket, bucket.url("in"), bucket.url("out"), force=True))


def test_a_missing_shard(bucket, model):
    source, _ = model
    bucket.upload(source, "in")
    bucket.delete("in/model-00002-of-00005.safetensors")
    sentence = f"^s3://{bucket.name}/in/model-00002-of-00005.safetensors: can't be opened"
    refused(wgquant.IoError, sentence, job(bucket, bucket.url("in"), bucket.url("out")))
    bucket.put("in/model-00002-of-00005.safetensors", b"\xff" * 100)
    sentence = f"^s3://{bucket.name}/in/model-00002-of-00005.safetensors: is no safetensors file"
    refused(wgquant.DamagedError, sentence, job(bucket, bucket.url("in"), bucket.url("out")))
    bucket.put("in/config.json", b" " * (17 << 20))
    sentence = f"^s3://{bucket.name}/in/config.json: is no file of at most 16777216 bytes"
    refused(wgquant.DamagedError, sentence, job(bucket, bucket.url("in"), bucket.url("out")))


def test_no_such_place(bucket, model, server, monkeypatch):
    source, _ = model
    out = bucket.url("out")
    absent = f"s3://nosuch-{bucket.name}/in"
    for places in ((absent, out), (source, absent)):
        refused(wgquant.RefusedError, f"^{absent}: there is no bucket 'nosuch-{bucket.name}'", job(bucket, *places))
    refused(
        wgquant.RefusedError,
        "in: there is no such object, nor any with that prefix",
        job(bucket, bucket.url("in"), out),
    )
    bucket.put("in/config.json", b"{}")
    refused(
        wgquant.DamagedError, "in: is a folder, and has no model.safetensors in it", job(bucket, bucket.url("in"), out)
    )
    refused(
        wgquant.RefusedError,
        "is no place in a bucket: give it as s3://bucket/prefix",
        job(bucket, source, f"s3://{bucket.name}"),
    )
    refused(wgquant.RefusedError, "no way to stores of gs://", job(bucket, source, "gs://bucket/out"))
    options = {**bucket.options, "colour": "red"}
    refused(
        wgquant.RefusedError,
        "storage_options: .*'colour'",
        _parts.Job(str(source), out, FORMAT, OPTIONS, None, options),
    )
    options = {**bucket.options, "endpoint": "http://127.0.0.1:1"}
    sentence = "out: the store at http://127.0.0.1:1 can't be reached: check AWS_ENDPOINT_URL"
    refused(wgquant.IoError, sentence, _parts.Job(str(source), out, FORMAT, OPTIONS, None, options))
    monkeypatch.setitem(sys.modules, "obstore", None)
    refused(
        wgquant.RefusedError, r"out: needs the package obstore: pip install 'wgquant\[s3\]'", job(bucket, source, out)
    )


def test_keys(server, model, monkeypatch):
    """From the environment, from `storage_options`, and wrong ones."""
    source, expected = model
    bucket = server.bucket()
    bucket.upload(source, "in")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    good = server.ask_for_keys()
    try:
        environment = {"ENDPOINT_URL": server.url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        for key, value in good.items():
            monkeypatch.setenv(f"AWS_{key.upper()}", value)
        places = bucket.url("in"), bucket.url("out")
        run(_parts.Job(*places, FORMAT, OPTIONS))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            with monkeypatch.context() as without:
                without.delenv(name)
                refused(
                    wgquant.IoError,
                    "in: there are no keys for the store: set AWS_ACCESS",
                    _parts.Job(*places, FORMAT, OPTIONS),
                )
        with monkeypatch.context() as without:
            without.delenv("AWS_ALLOW_HTTP")
            refused(
                wgquant.IoError, "in: the store is at an http:// address: allow", _parts.Job(*places, FORMAT, OPTIONS)
            )
        for options, code in [
            ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
            ({"aws_access_key_id": "AKIAWRONG"}, "InvalidAccessKeyId"),
        ]:
            error = refused(
                wgquant.IoError,
                rf"in: the store gave no access \({code}\): check AWS_ACCESS_KEY_ID",
                _parts.Job(*places, FORMAT, OPTIONS, None, options),
            )
            assert "wrong" not in str(error).lower().replace("akiawrong", "")
    finally:
        server.ask_for_none()
    assert bucket.contents("out") == expected
    assert "secret" not in repr(_parts.Job(*places, FORMAT, OPTIONS, None, {"secret_access_key": "secret"}))


def test_no_room(bucket, model, tmp_path, monkeypatch):
    source, _ = model
    bucket.upload(source, "in")
    monkeypatch.setattr(_staging.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 20}))
    here = job(bucket, bucket.url("in"), bucket.url("out"), str(tmp_path))
    with pytest.raises(
        wgquant.RefusedError, match=f"{tmp_path}: has 1048576 bytes free, and a task takes [0-9]+: give another"
    ):
        run(here)
    assert list(tmp_path.iterdir()) == []


WORKER = """if True:
    import pickle, sys
    from wgquant import _objects, _parts, _staging
    here = pickle.load(open(sys.argv[1], "rb"))
    def stop(self, *rest, original=getattr(_objects.Bucket, sys.argv[2]), count=[0]):
        count[0] += 1
        if count[0] == int(sys.argv[3]):
            print("here", flush=True)
            sys.stdin.read()
        return original(self, *rest)
    setattr(_objects.Bucket, sys.argv[2], stop)
    found, snapshot = _parts.survey(here)
    for number in range(1, found.n_files + 1):
        _parts.work(here, snapshot, (number, found.n_files), "cpu")
    _parts.finish(here, snapshot)
"""


@pytest.mark.parametrize(
    ("call", "count"),
    [("put", 2), ("digest", 1), ("put", 4), ("copy", 3), ("delete", 2), ("put", 14), ("put", 15), ("delete", 3)],
)
def test_killed_anywhere(call, count, bucket, model, tmp_path):
    """Of a process that ends between two requests no final name is torn, no index is early, and another makes all of it."""
    source, expected = model
    scratch = tmp_path / "scratch"
    here = job(bucket, bucket.upload(source, "in"), bucket.url("out"), str(scratch))
    (tmp_path / "job").write_bytes(pickle.dumps(here))
    command = [sys.executable, "-c", WORKER, str(tmp_path / "job"), call, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.communicate(timeout=60)
    left = list(scratch.iterdir())
    assert left, "what a killed process leaves on its disk"
    made = bucket.contents("out")
    assert all(expected[name] == data for name, data in made.items())
    if "model.safetensors.index.json" in made:
        assert made == expected
    if (call, count) == ("delete", 3):  # all is done but tidying up
        refused(wgquant.RefusedError, "exists already", here)
        with scratch_folder(str(scratch)):
            pass
    else:
        run(here)
    assert bucket.contents("out") == expected
    assert bucket.keys("out.wgquant-parts") == []
    assert list(scratch.iterdir()) == [], "the next one has swept it away"


def test_scratch_of_others_stays(tmp_path):
    with scratch_folder(str(tmp_path)) as one:
        (one / "file").write_text("mine")
        with scratch_folder(str(tmp_path)) as other:
            assert one != other and (one / "file").read_text() == "mine"
        assert (one / "file").exists() and not other.exists()
    assert list(tmp_path.iterdir()) == []


def test_on_a_local_ray(bucket, model, monkeypatch, tmp_path):
    """One call, on the Ray that runs on this machine."""
    import ray

    from wgquant.ray import quantize_checkpoint

    source, expected = model
    bucket.upload(source, "in")
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
        _node_ip_address="127.0.0.1",
    )
    try:
        with pytest.raises(wgquant.RefusedError, match="nosuch: there is no such object"):
            quantize_checkpoint(
                bucket.url("nosuch"), bucket.url("out"), FORMAT, storage_options=bucket.options, **OPTIONS
            )
        done = quantize_checkpoint(
            bucket.url("in"), bucket.url("out"), FORMAT, storage_options=bucket.options, scratch=tmp_path, **OPTIONS
        )
    finally:
        ray.shutdown()
    assert bucket.contents("out") == expected
    assert (done.n_files, done.n_tensors) == (N_SHARDS, N_SHARDS)
