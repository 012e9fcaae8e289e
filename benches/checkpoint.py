"""Peak memory and time of whole checkpoints, beside reading the same files and writing as many bytes.

    cargo build --release && cargo xtask make-checkpoint --size 2GiB && cargo xtask make-checkpoint --size 8GiB
    python3 benches/checkpoint.py target/release/wgquant .fixtures/synthetic-2GiB .fixtures/synthetic-8GiB [--device NAME]…

Each run is a process of its own; its peak resident memory is what the system says of it (VmHWM). Nothing is flushed to the
disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MEMORY = "512MiB"
CAP = (512 + 150) << 20
FORMAT = "sym4"


def run(arguments):
    """Wall time in seconds and peak resident bytes."""
    start = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed: {done.stderr}")
    return time.perf_counter() - start, json.loads(done.stdout)["peak_memory"]


def read_and_write(files, n_bytes, output):
    """Seconds to read files to nowhere and to write so many bytes, one after the other, with large pieces."""
    buffer = bytearray(4 << 20)
    start = time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
    with open(output, "wb", buffering=0) as target:
        while n_bytes > 0:
            n_bytes -= target.write(memoryview(buffer)[: min(n_bytes, len(buffer))])
    return time.perf_counter() - start


def size(folder):
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wgquant")
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--device", action="append", help="beside the CPU")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    failed = False
    for device in ["cpu", *(arguments.device or [])]:
        peaks = []
        for checkpoint in arguments.checkpoints:
            with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(checkpoint))) as folder:
                output = os.path.join(folder, "out")
                command = [arguments.wgquant, "quantize", checkpoint, "-o", output, "--format", FORMAT, "--quiet", "--json"]
                command += ["--memory", MEMORY, "--device", device, "--verify", "none"]
                files = [os.path.join(checkpoint, name) for name in os.listdir(checkpoint)]
                times, baselines, peak = [], [], 0
                for _ in range(arguments.runs):
                    seconds, resident = run(command)
                    times.append(seconds)
                    peak = max(peak, resident)
                    n_bytes = size(output)
                    shutil.rmtree(output)
                    baselines.append(read_and_write(files, n_bytes, output))
                    os.remove(output)
            peaks.append(peak)
            seconds, baseline = statistics.median(times), statistics.median(baselines)
            ratios = [a / b for a, b in zip(times, baselines)]
            print(
                f"{device}: {os.path.basename(os.path.normpath(checkpoint))}: median {seconds:.2f} s beside {baseline:.2f} s of "
                f"reading and writing alone; of runs next to each other, median {statistics.median(ratios):.2f} x, "
                f"{min(ratios):.2f} to {max(ratios):.2f}; peak {peak / 2**20:.0f} MiB; load {os.getloadavg()[0]:.1f}"
            )
            failed |= peak > CAP
        print(f"{device}: largest peak over smallest {max(peaks) / min(peaks):.3f}")
        failed |= max(peaks) > 1.1 * min(peaks)
    if failed:
        sys.exit("memory is not bounded as it should be")


main()
