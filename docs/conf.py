"""The docs site: `sphinx-build -W --keep-going -b html docs _build`.

The pages are the Markdown files of this folder, which also read as they are. What would only repeat the code is written
into docs/_generated/ by every build: the API from docstrings, the commands from their `--help`, and the example files.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the checkout, whatever is installed

import seaalign  # noqa: E402

project, author = "seaalign", "the seaalign authors"
version = release = seaalign.__version__
html_title = f"seaalign {version}"
html_short_title = "seaalign"
project_copyright = "Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "_ext.generate",
]
exclude_patterns = ["_ext"]
default_role = "code"  # what docstrings put in backticks is code
nitpicky = False  # types of torch and lightning have no page here

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block"]

autosummary_generate = False  # the pages are ours, autosummary only makes their tables
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_inherit_docstrings = False  # a hook of Lightning is explained by Lightning
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]
viewcode_line_numbers = True

html_theme = "furo"
html_theme_options = {"footer_icons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
highlight_language = "none"  # a block says what it is
pygments_style = "friendly"
pygments_dark_style = "native"
