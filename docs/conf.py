"""How Sphinx builds this folder into a site that needs no network: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

import convexcnn  # noqa: E402  (found through the line above)

project = "convexcnn"
author = "The convexcnn maintainers"
copyright = author
release = version = convexcnn.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "notebooks",
]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_title = f"convexcnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_fence_as_directive = ["math"]  # GitHub shows ```math too
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what arguments are; [source] is one click away
autodoc_class_signature = "mixed"
INTERNAL = (
    *("get_metadata_routing", "set_fit_request", "set_score_request"),  # of scikit-learn
    *("check_parameters", "check_trained", "require_average", "saved", "restore"),
    *("tensor_shapes", "fitted_device", "scaled_blocks", "training_stream", "column_names"),
)
autodoc_default_options = {"exclude-members": ", ".join(INTERNAL)}
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
maximum_signature_line_length = 80
