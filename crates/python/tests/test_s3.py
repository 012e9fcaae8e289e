"""Checkpoints in a store that speaks S3: the same bytes, and nothing torn, whatever happens on the way."""

import numpy
import pytest
from conftest import contents, write_safetensors
from store import FORMAT, N_SHARDS, OPTIONS, job, refused, run

import wgquant
from wgquant import _objects, _parts, _staging


@pytest.mark.parametrize("places", ["store to store", "store to folder", "folder to store"])
def test_the_bytes_of_one_process(places, bucket, stored_model, tmp_path):
    source, expected = stored_model
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


def test_what_a_task_brings_here(bucket, stored_model, tmp_path, monkeypatch):
    """Its own tensors and all headers: the rest of the files is holes. Nothing has its final name before the end."""
    source, expected = stored_model
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


def test_what_makes_it_a_model_comes_last(bucket, stored_model, tmp_path, monkeypatch):
    """The index, or where all is in one file that file."""
    source, expected = stored_model
    seen = []

    def look(original):
        def call(self, of, *rest):
            seen.append({key.rpartition("/")[2] for key in bucket.keys("out")})
            return original(self, of, *rest)

        return call

    for name in ("copy", "put"):
        monkeypatch.setattr(_objects.Bucket, name, look(getattr(_objects.Bucket, name)))
    bucket.upload(source, "in")
    run(job(bucket, bucket.url("in"), bucket.url("out")))
    assert [set(expected) - names for names in seen if len(names) == len(expected) - 1] == [
        {"model.safetensors.index.json"}
    ]
    seen.clear()
    run(job(bucket, bucket.url("in"), bucket.url("out"), shard_size=1 << 30, force=True))
    assert [names for names in seen if "config.json" not in names] == []
    assert seen[-2] == {"config.json", "tokenizer.json"} and seen[-1] == {*seen[-2], "model.safetensors"}


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


def test_what_is_there_already(bucket, stored_model, tmp_path):
    """A second call makes only what is missing; `force` replaces a model and nothing else, and not before the end."""
    source, expected = stored_model
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


def test_on_a_local_ray(bucket, stored_model, monkeypatch, tmp_path):
    """One call, on the Ray that runs on this machine."""
    import ray

    from wgquant.ray import quantize_checkpoint

    source, expected = stored_model
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
