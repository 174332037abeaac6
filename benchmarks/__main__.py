"""``python -m benchmarks [SECTION…]``: measure, print, write results and plots."""

from __future__ import annotations

import sys

from benchmarks.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
