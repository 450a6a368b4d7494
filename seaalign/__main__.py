"""`python -m seaalign`."""

import sys

from seaalign.cli import main

if __name__ == "__main__":  # workers that are spawned import this file again
    sys.exit(main())
