"""Arrays in and out, whatever they come as, against what the command line writes."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy
import pytest
from conftest import read_safetensors, write_safetensors
from dlpack import Tensor

import wgquant

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def as_type(weights, dtype):
    return weights.astype(ml_dtypes.bfloat16 if dtype == "bf16" else TYPES[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("format", wgquant.FORMATS)
def test_every_format_gives_the_command_lines_bytes(format, dtype, weights, tmp_path, binary):
    array = as_type(weights, dtype)
    stored = array.view("uint16") if dtype == "bf16" else array
    write_safetensors(tmp_path / "in", {"w": stored})
    binary("quantize", tmp_path / "in", "-o", tmp_path / "out", "--format", format, "--device", "cpu", "--include", "w")
    packed = wgquant.quantize(array, format, device="cpu")
    parts = read_safetensors(tmp_path / "out")
    assert packed.codes.tobytes() == parts["w"]
    assert packed.scales.tobytes() == parts["w.scales"]
    assert packed.digest == parts["w.blake3"].hex()
    assert (packed.format, packed.shape, packed.dtype) == (format, array.shape, dtype)
    if format.endswith("-dq"):
        assert packed.nested_absmax.tobytes() == parts["w.nested_absmax"]
        assert numpy.float32(packed.nested_offset).tobytes() == parts["w.nested_offset"]
    else:
        assert packed.nested_absmax is None and packed.nested_offset is None

    binary("dequantize", tmp_path / "out", "-o", tmp_path / "back", "--device", "cpu")
    back = wgquant.dequantize(packed, device="cpu")
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == read_safetensors(tmp_path / "back")["w"]

    again = wgquant.Packed.from_parts(
        format, packed.shape, dtype, packed.codes, packed.scales, packed.nested_absmax, packed.nested_offset or 0.0
    )
    assert again == packed and again.digest == packed.digest
    assert packed != wgquant.quantize(-array, format, device="cpu")


@pytest.mark.parametrize("dtype", TYPES)
def test_dlpack_is_read_and_written_where_it_is(dtype, weights):
    array = as_type(weights, dtype)
    expected = wgquant.quantize(array, "nf4", device="cpu")
    tensor = Tensor(array, dtype)
    assert wgquant.quantize(tensor, "nf4", device="cpu") == expected
    # A transposed view is read by its strides.
    turned = wgquant.quantize(Tensor(array.T, dtype), "nf4", device="cpu")
    assert turned == wgquant.quantize(numpy.ascontiguousarray(array.T), "nf4", device="cpu")
    out = Tensor(numpy.zeros_like(array), dtype)
    assert wgquant.dequantize(expected, out=out, device="cpu") is out
    assert out.array.tobytes() == wgquant.dequantize(expected, device="cpu").tobytes()
    gc.collect()
    assert Tensor.n_taken == Tensor.n_given_back > 0, "every structure is given back once"


def test_hostile_dlpack(weights):
    with pytest.raises(wgquant.RefusedError, match="in a GPU's memory: move it to the CPU first"):
        wgquant.quantize(Tensor(weights, "f32", device=2), "nf4")
    with pytest.raises(wgquant.RefusedError, match="weights of type float64 can't be quantized; F32, F16 and BF16 can"):
        wgquant.quantize(Tensor(weights.astype("float64"), "f64"), "nf4")
    assert Tensor.n_taken == Tensor.n_given_back


def test_other_arrays(weights):
    quantize = lambda array, **more: wgquant.quantize(array, "sym8", device="cpu", **more)
    expected = quantize(weights)
    assert quantize(memoryview(weights)) == expected
    assert quantize(numpy.asfortranarray(weights)) == expected
    assert quantize(weights[::-1][::-1]) == expected
    assert quantize(numpy.repeat(weights, 2, axis=1)[:, ::2]) == expected
    halves = (weights.view("uint32") >> 16).astype("uint16")
    assert quantize(halves, dtype="bf16") == quantize(halves.view(ml_dtypes.bfloat16))
    assert quantize(halves.view("int16"), dtype="bf16") == quantize(halves, dtype="bf16")
    read_only = weights.copy()
    read_only.flags.writeable = False
    assert quantize(read_only) == expected
    misaligned = numpy.frombuffer(b"x" + weights.tobytes(), "uint8")[1:].view("float32").reshape(weights.shape)
    assert quantize(misaligned) == expected


def test_nothing_is_copied(weights):
    packed = wgquant.quantize(weights, "sym4", device="cpu")
    assert packed.codes.ctypes.data == packed.codes.ctypes.data and not packed.codes.flags.writeable
    codes = packed.codes
    kept = codes.tobytes()
    del packed
    gc.collect()
    assert codes.tobytes() == kept, "a view keeps its memory"


def test_what_is_refused(weights):
    bad = weights.copy()
    bad[5, 7] = numpy.nan
    with pytest.raises(wgquant.NonFiniteError, match=r"element 967 is NaN \(bits 0x7fc00000\)") as raised:
        wgquant.quantize(bad, "nf4")
    assert raised.value.index == 5 * 192 + 7
    assert isinstance(raised.value, wgquant.Error) and isinstance(raised.value, ValueError)
    for array, sentence in [
        (weights.astype("float64"), "weights of type float64 can't be quantized"),
        (weights.astype(">f4"), "weights of type >f4 can't be quantized"),
        (weights.view("uint32"), "weights of type uint32 can't be quantized"),
        (weights[:0], "there are no weights to quantize"),
    ]:
        with pytest.raises(wgquant.RefusedError, match=sentence):
            wgquant.quantize(array, "nf4")
    with pytest.raises(wgquant.RefusedError, match='there is no format "int3"; there are: sym4'):
        wgquant.quantize(weights, "int3")
    with pytest.raises(wgquant.RefusedError, match="elements are float32, not BF16 or its bits"):
        wgquant.quantize(weights, "nf4", dtype="bf16")
    with pytest.raises(wgquant.RefusedError, match="packs whole blocks of 32 weights"):
        wgquant.quantize(weights.reshape(-1)[:33], "q4_0")
    with pytest.raises(wgquant.DeviceError, match='no GPU adapter matches "nosuch"'):
        wgquant.quantize(weights, "nf4", device="nosuch")
    with pytest.raises(TypeError, match="buffer protocol or DLPack, and list has neither"):
        wgquant.quantize([1.0], "nf4")
    packed = wgquant.quantize(weights, "nf4", device="cpu")
    for out, sentence in [
        (numpy.empty((3, 3), "float32"), r"out has the shape \[3, 3\], and the packed array \[33, 192\]"),
        (numpy.empty((192, 33), "float32").T, "don't lie in a row"),
    ]:
        with pytest.raises(wgquant.RefusedError, match=sentence):
            wgquant.dequantize(packed, out=out, device="cpu")
    out = numpy.empty(weights.shape, "float32")
    out.flags.writeable = False
    with pytest.raises(BufferError, match="can't be written to"):
        wgquant.dequantize(packed, out=out, device="cpu")
    with pytest.raises(wgquant.RefusedError, match="codes should be 3168 bytes long"):
        wgquant.Packed.from_parts("nf4", (33, 192), "f32", packed.codes[1:], packed.scales)


def test_two_threads_at_once():
    """Neither waits for the other to give back the interpreter's lock: a third counts on meanwhile."""
    arrays = [numpy.random.default_rng(seed).standard_normal(1 << 24, "float32") for seed in (1, 2)]
    expected = [wgquant.quantize(array, "nf4", device="cpu").digest for array in arrays]
    found, counted, over = [[], []], [0], threading.Event()

    def quantize(ix):
        for _ in range(4):
            found[ix].append(wgquant.quantize(arrays[ix], "nf4", device="cpu").digest)

    def count():
        while not over.is_set():
            counted[0] += 1

    workers = [threading.Thread(target=quantize, args=(ix,)) for ix in (0, 1)]
    counter = threading.Thread(target=count)
    for thread in [counter, *workers]:
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    counter.join()
    assert found == [[digest] * 4 for digest in expected]
    assert counted[0] > 1000


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_array_without_dimensions(dtype):
    value = numpy.array(-3.5, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    packed = wgquant.quantize(value, "sym8", device="cpu")
    assert packed.shape == ()
    assert packed.digest == wgquant.quantize(value.reshape(1), "sym8", device="cpu").digest
    back = wgquant.dequantize(packed, device="cpu")
    assert back.shape == () and back == value and back.dtype == value.dtype
    with pytest.raises(wgquant.RefusedError, match="q4_0 packs whole blocks of 32 weights, and 1 are no multiple"):
        wgquant.quantize(value, "q4_0", device="cpu")


def test_numbers_without_dimensions():
    assert wgquant.quantize(numpy.float32(2), "nf4", device="cpu").shape == ()
    with pytest.raises(wgquant.RefusedError, match="weights of type float64 can't be quantized"):
        wgquant.quantize(numpy.float64(2), "nf4", device="cpu")
    with pytest.raises(wgquant.NonFiniteError, match="element 0 is NaN"):
        wgquant.quantize(numpy.array(numpy.nan, "float32"), "nf4", device="cpu")
    with pytest.raises(TypeError, match="float has neither"):
        wgquant.quantize(2.0, "nf4", device="cpu")


@pytest.mark.parametrize("work", ["quantize", "dequantize", "gather"])
def test_ctrl_c_in_an_array(work):
    """A call that would take many seconds ends within one. Its arrays are zeros that take no memory before they are used."""
    script = """if True:
        import sys, time, numpy, wgquant
        def call(n):
            zeros = numpy.zeros(1 if sys.argv[1] == "gather" else n, "float16")
            if sys.argv[1] == "dequantize":
                codes, scales = numpy.zeros(n // 2, "uint8"), numpy.zeros(n // 64, "float32")
                packed = wgquant.Packed.from_parts("nf4", (n,), "f16", codes, scales)
                return lambda: wgquant.dequantize(packed, out=zeros, device="cpu")
            array = zeros if sys.argv[1] == "quantize" else numpy.broadcast_to(zeros, (n,))
            return lambda: wgquant.quantize(array, "nf4", device="cpu")
        small = call(1 << 24)
        small()
        before = time.monotonic()
        small()
        seconds = time.monotonic() - before
        n = min(int(8 / seconds), 64 if sys.argv[1] == "dequantize" else 256) << 24
        run = call(n)
        print("begins", flush=True)
        try:
            run()
        except KeyboardInterrupt:
            print("interrupted", seconds * (n >> 24), flush=True)
    """
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, work]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "begins\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    before = time.monotonic()
    answer = process.stdout.readline().split()
    waited = time.monotonic() - before
    _, error = process.communicate(timeout=60)
    assert answer[:1] == ["interrupted"] and error == "" and process.returncode == 0, (answer, error)
    assert waited < max(1, float(answer[1]) / 4), (waited, answer)
