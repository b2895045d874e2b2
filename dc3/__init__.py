"""DC3: dataset condensation with colour compensation (arXiv 2508.01139). One module an idea: see CONTRIBUTING.md."""

import os

# torch asks Linux for pages of 2 MB: a student's step on a processor takes a fifth less time. Before torch allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
