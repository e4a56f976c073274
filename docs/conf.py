"""Sphinx configuration: builds offline, warnings are errors (``make docs``)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "structured-dro"
author = "The structured-dro contributors"
copyright = "2026, " + author

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinxcontrib.bibtex",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "theorem_table",
    "gallery",
]
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "image_scrapers": ("gallery.labelled_scraper",),
    "image_srcset": ["2x"],
    "reset_modules": ("gallery.reset",),
    "within_subsection_order": "FileNameSortKey",
    "run_stale_examples": True,  # the library may have changed where an example has not
    "abort_on_example_error": True,
    "write_computation_times": False,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
}
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"  # numbers: two of the sources have no authors in their text
exclude_patterns = ["_build", "examples", "gallery/*.ipynb", "gallery/*.py", "gallery/*.zip"]
nitpicky = False
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, shapes and units
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "structured-dro"
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 4,  # one row at 1280 pixels
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"**": ["globaltoc"]}
html_static_path: list[str] = []
