"""`python -m anounet …`."""

import os
import sys

# Before PyTorch loads: threads that wait for work sleep instead of spinning. On free cores it costs nothing;
# where another program shares them it is a factor of ten.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from anounet.cli import main

if __name__ == "__main__":
    sys.exit(main())
