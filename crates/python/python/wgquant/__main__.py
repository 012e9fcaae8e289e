"""The command line: ``python -m wgquant`` is ``wgquant``."""

import os
import signal
import sys

from ._wgquant import main as run


def main() -> None:
    """Runs the command line of this process, and ends the process with its exit code."""
    # Ctrl-C ends it as it ends the program; Python would wait for the end of the work.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        # Where it is unset, libwayland complains on the terminal that there is no display.
        os.environ.setdefault("XDG_RUNTIME_DIR", "/nonexistent")
    sys.exit(run(["wgquant", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
