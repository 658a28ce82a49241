"""See `python predict.py --help`; the same as `segplan predict`."""

import sys

from segplan.entry import main

if __name__ == "__main__":
    sys.exit(main("predict"))
