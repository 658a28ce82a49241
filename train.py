"""See `python train.py --help`; the same as `segplan train`."""

import sys

from segplan.entry import main

if __name__ == "__main__":
    sys.exit(main("train"))
