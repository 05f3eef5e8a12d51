"""`python -m svgdx` and `torchrun -m svgdx`: the console script."""

import sys

from svgdx.cli import main

sys.exit(main())
