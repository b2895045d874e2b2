"""Progress bars that vanish when done. DC3_PROGRESS=0 turns them off, for outputs that are compared.

Text, not tqdm's widget, which becomes an error message in a notebook that is saved and opened again.
"""

import os
from functools import partial

from tqdm import std

SHOWN = os.environ.get("DC3_PROGRESS", "1") != "0"

tqdm = partial(std.tqdm, leave=False, disable=not SHOWN)
trange = partial(std.trange, leave=False, disable=not SHOWN)
