"""Small checkpoints, and the command line's binary."""

import json
import os
import pathlib
import signal
import subprocess

import numpy
import pytest

import wgquant

# Ray looks for another address than the loopback's wherever it takes a cluster for real; this is its word for "don't".
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

# A shell starts what runs in the background with Ctrl-C ignored, which Python and its children then keep to.
signal.signal(signal.SIGINT, signal.default_int_handler)

BLOCK = 64


def write_safetensors(path, tensors):
    """A safetensors file of arrays, where uint16 stands for bf16."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}
    header, at = {}, 0
    for name, array in tensors.items():
        end = at + array.nbytes
        header[name] = {"dtype": names[array.dtype.name], "shape": array.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(array.tobytes())


def read_safetensors(path):
    """The tensors of a file as bytes."""
    data = pathlib.Path(path).read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    return {name: data[8 + n + of["data_offsets"][0] : 8 + n + of["data_offsets"][1]] for name, of in header.items()}


def write_model(folder, n_shards, rows, columns=1024):
    """A model of bf16 weights in shards, each of one weight."""
    folder.mkdir()
    random = numpy.random.default_rng(7)
    weight_map = {}
    for number in range(1, n_shards + 1):
        file, name = f"model-{number:05}-of-{n_shards:05}.safetensors", f"layers.{number}.q_proj.weight"
        values = random.standard_normal((rows, columns), "float32")
        write_safetensors(folder / file, {name: (values.view("uint32") >> 16).astype("uint16")})
        weight_map[name] = file
    (folder / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def contents(folder):
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture(scope="session")
def binary():
    """The command line's own program."""
    path = os.environ["WGQUANT_TEST_BINARY"]

    def run(*arguments):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def weights():
    """Weights with an odd number of blocks, and every exponent of half precision."""
    random = numpy.random.default_rng(3)
    return random.standard_normal((33, 192), "float32") * numpy.exp2(random.integers(-10, 10, (33, 1)), dtype="float32")


@pytest.fixture(scope="session")
def server():
    """A store that speaks S3."""
    from store import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(server):
    return server.bucket()


@pytest.fixture(scope="session")
def stored_model(tmp_path_factory):
    """A model, and what one process makes of it."""
    from store import FORMAT, N_SHARDS, OPTIONS

    folder = tmp_path_factory.mktemp("s3")
    source = write_model(folder / "in", N_SHARDS, 100)
    (source / "tokenizer.json").write_text('{"model": "ünï"}')
    wgquant.quantize_file(source, folder / "one", FORMAT, device="cpu", **OPTIONS)
    return source, contents(folder / "one")
