"""`python -m anounet …`."""

import os
import sys

# Before PyTorch loads: threads that wait for work sleep instead of spinning, so that a command does not stall
# programs it shares the cores with. On free cores it slows many-threaded work, AnoGAN's search say, a little.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from anounet.cli import main

if __name__ == "__main__":
    sys.exit(main())
