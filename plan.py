"""See `python plan.py --help`; the same as `segplan plan`."""

import sys

from segplan.entry import main

if __name__ == "__main__":
    sys.exit(main("plan"))
