"""``python -m systola``: the command."""

import sys

from systola.cli.main import main

sys.exit(main())
