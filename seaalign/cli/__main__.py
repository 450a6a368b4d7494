"""`python -m seaalign.cli`."""

import sys

from seaalign.cli import main

sys.exit(main())
