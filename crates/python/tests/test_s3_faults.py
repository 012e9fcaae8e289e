"""Checkpoints in a store, where something is missing, altered, refused or killed."""

import json
import os
import pickle
import subprocess
import sys

import numpy
import pytest
from conftest import contents, write_safetensors
from store import FORMAT, OPTIONS, job, refused, run

import wgquant
from wgquant import _objects, _parts, _staging
from wgquant._scratch import scratch_folder


def test_parts_that_are_not_as_they_should_be(bucket, stored_model):
    """A part that is missing, altered or another job's is named, nothing gets a final name, and another call mends it."""
    source, expected = stored_model
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
    fields = json.loads(text)
    odd = [
        {key: of for key, of in fields.items() if key != "etag"},
        {**fields, "n_bytes": "many"},
        {**fields, "object": ["a"]},
        {**fields, "source": {}},
        [fields],
    ]
    for bytes_ in (text[: len(text) // 2], b"[" * 100_000, b"\xff", *(json.dumps(of).encode() for of in odd)):
        bucket.put(record, bytes_)
        refuses(wgquant.RefusedError, f"its part {name} is missing")
    bucket.put(record, json.dumps({**fields, "record": "\ud800" + fields["record"]}).encode())
    with pytest.raises(wgquant.Error):
        _parts.finish(here, snapshot)
    bucket.put("out.wgquant-parts/state.json", b"[" * 100_000)
    bucket.delete(record)
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


def test_an_upload_that_is_not_what_was_made(bucket, stored_model, monkeypatch):
    """It is read back before there is a record of it."""
    source, _ = stored_model

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


def test_a_source_that_changes(bucket, stored_model):
    """An object that is altered, replaced or gone in mid-run ends it, wherever that is noticed."""
    source, _ = stored_model
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
    assert bucket.keys("out") == []
    # Another call sees that what is done is of another input.
    refused(wgquant.RefusedError, "was made with another input", here)
    run(job(bucket, bucket.url("in"), bucket.url("out"), force=True))


def test_a_missing_shard(bucket, stored_model):
    source, _ = stored_model
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


def test_no_such_place(bucket, stored_model, server, monkeypatch):
    source, _ = stored_model
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


def test_keys(server, stored_model, monkeypatch):
    """From the environment, from `storage_options`, and wrong ones."""
    source, expected = stored_model
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


def test_no_room(bucket, stored_model, tmp_path, monkeypatch):
    source, _ = stored_model
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
def test_killed_anywhere(call, count, bucket, stored_model, tmp_path):
    """Of a process that ends between two requests no final name is torn, no index is early, and another makes all of it."""
    source, expected = stored_model
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


def test_scratch_that_can_t_be(bucket, stored_model, tmp_path):
    bucket.upload(stored_model[0], "in")
    (tmp_path / "file").write_text("no folder")
    for scratch in (tmp_path / "file", tmp_path / "file" / "under"):
        here = job(bucket, bucket.url("in"), bucket.url("out"), str(scratch))
        refused(wgquant.IoError, f"{scratch}: can't be written to", here)
    with pytest.raises(wgquant.IoError, match="can't be written to .*: give another folder as scratch"):
        with scratch_folder("/proc/self"):
            pass


@pytest.mark.parametrize("name", ["out", "in", "out.wgquant-parts"])
def test_a_source_of_any_name(name, bucket, tmp_path):
    """What stands in for it on a node is in nobody's way."""
    write_safetensors(tmp_path / name, {"a.weight": numpy.ones((64, 64), "float32")})
    bucket.put(f"models/{name}", (tmp_path / name).read_bytes())
    run(_parts.Job(bucket.url(f"models/{name}"), bucket.url("made"), "sym4", {"shard_size": 1 << 30}, str(tmp_path), bucket.options))
    wgquant.quantize_file(tmp_path / name, tmp_path / "one", "sym4", device="cpu", shard_size=1 << 30)
    assert bucket.contents("made") == contents(tmp_path / "one")
