"""Whole commands on one checkpoint file: `quantize` with each kind of verification, beside `cp`.

    cargo build --release && cargo xtask setup
    python3 benches/commands.py target/release/wgquant .fixtures/all-minilm-l6-v2/model.safetensors [--format NAME]…

All commands run in turn, so that whatever else the machine does meets all of them. The file is in the page cache, and nothing
is flushed to the disk. A ratio is the median of those of one turn each.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("checkpoint")
    parser.add_argument("--format", action="append")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--ratios", help="a file that ratios are appended to, as lines of measurement, format and ratio")
    arguments = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}; {arguments.runs} turns")
    print("| format | cp, ms | none, ms | sample, ms | full, ms | none / cp | sample / none | full / none |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for format in arguments.format or ["sym4", "sym8", "nf4", "q4_0", "q8_0", "mxfp4"]:
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.safetensors")
            quantize = [arguments.binary, "quantize", arguments.checkpoint, "-o", out, "--format", format]
            quantize += ["--device", arguments.device, "--quiet", "--verify"]
            commands = {"cp": ["cp", arguments.checkpoint, out]}
            commands |= {verify: [*quantize, verify] for verify in ("none", "sample", "full")}
            times = {name: [] for name in commands}
            for turn in range(arguments.runs + 1):
                for name, command in commands.items():
                    start = time.perf_counter()
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    if turn > 0:  # the first fills the page cache
                        times[name].append((time.perf_counter() - start) * 1e3)
                    os.remove(out)
        medians = " | ".join(f"{statistics.median(of):.1f}" for of in times.values())
        pairs = [("none", "cp"), ("sample", "none"), ("full", "none")]
        ratios = [statistics.median(a / b for a, b in zip(times[over], times[under])) for over, under in pairs]
        if arguments.ratios:
            with open(arguments.ratios, "a") as file:
                for (over, under), ratio in zip(pairs, ratios):
                    under = "cp" if under == "cp" else f"--verify {under}"
                    file.write(f"quantize --device {arguments.device} --verify {over}: times {under}\t{format}\t{ratio:.3f}\n")
        print(f"| {format} | {medians} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
    print(f"load after: {os.getloadavg()[0]:.1f}")


main()
