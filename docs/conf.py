"""The documentation site: ``make docs``."""

from importlib.metadata import version as installed_version

project = "onnxplan"
author = "the authors of onnxplan"
version = release = installed_version("onnxplan")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_title = f"onnxplan {release}"

# Links to headings, as forges make them.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# What is behind an annotation is often another library's: names alone are readable.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
default_role = "any"

# Every name of onnxplan in a docstring or an annotation leads to its description.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(collections|contextlib|numpy|onnx|os|types)\..*"),
    ("py:class", "CollectorRegistry|TracerProvider"),
    ("py:class", r"Shapes|ObservedSession|Variant|(onnxplan\.compiler\.expression\.)?Expression"),
]
