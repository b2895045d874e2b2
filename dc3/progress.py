"""Progress bars that go when they are done. DC3_PROGRESS=0 turns them off, for outputs that are compared."""

import os
from functools import partial

from tqdm import auto

SHOWN = os.environ.get("DC3_PROGRESS", "1") != "0"

tqdm = partial(auto.tqdm, leave=False, disable=not SHOWN)
trange = partial(auto.trange, leave=False, disable=not SHOWN)
