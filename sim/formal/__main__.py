"""``python -m systola.sim.formal``: see `systola.sim.formal.main`."""

import os
import sys

from systola.sim.formal.main import main

try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:  # nobody reads what is printed, nor what the interpreter still would
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 128 + 13
except FileNotFoundError as error:  # there is no Yosys
    print(error, file=sys.stderr)
    code = 2
sys.exit(code)
