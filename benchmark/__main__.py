"""`python -m benchmark`, and what the launchers start with `--module benchmark`."""

import sys

from benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
