"""`python -m anounet …`."""

import sys

from anounet.cli import main

if __name__ == "__main__":
    sys.exit(main())
