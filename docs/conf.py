"""The site: the README, docs/ and the notebooks as they are committed. `make docs` builds it in site/html."""

project = "DC3"
author = "The DC3 authors"
root_doc = "README"
extensions = ["myst_nb", "sphinx_external_toc"]
include_patterns = [
    "*.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "figures/demo/README.md",
    "sets/README.md",
    "teachers/README.md",
    "dc3/tiny-instruct-pix2pix/README.md",
]
exclude_patterns = [".*", "runs", "data", "site"]  # folders that may hold very many files
external_toc_path = "docs/_toc.yml"
myst_heading_anchors = 3  # for links to headings, as GitHub has them
nb_execution_mode = "off"
html_theme = "sphinx_book_theme"
html_title = "DC3: dataset condensation with colour compensation"
