"""`python -m aiwm.daemon`."""

import sys

from aiwm.daemon.main import run_module

if __name__ == "__main__":
    sys.exit(run_module(sys.argv[1:]))
