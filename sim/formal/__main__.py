"""``python -m systola.sim.formal``: see `systola.sim.formal.main`."""

import sys

from systola.sim.formal.main import main

sys.exit(main())
