"""How Sphinx makes a site of these pages; `make docs` builds it."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

from otkernels import __version__

project = "otkernels"
author = "the otkernels developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]
highlight_language = "none"  # indented blocks are formulas; code names its language
nitpicky = True
toc_object_entries_show_parents = "hide"
# Their inventories would be read over the network, at every build.
nitpick_ignore_regex = [("py:.*", r"(torch|torchmetrics|numpy)\..*")]

# --- pages: the same links work on GitHub and here ----------------------------------------------

myst_heading_anchors = 4
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold a class

# --- API: signatures as written, types and shapes in the docstrings -----------------------------

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# --- gallery: one page for each script in docs/gallery ------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "abort_on_example_error": True,
    "write_computation_times": False,
    "download_all_examples": False,
    "reset_modules": ("matplotlib",),
}

# --- looks --------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"otkernels {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"


def as_restructured(app, what, name, obj, options, lines):
    """Docstrings are written to be read in a terminal; two of their habits mean something here.

    |x - y| is a distance, where reStructuredText looks for a substitution, and a paragraph
    such as "Gradients: ..." with its later lines indented would be a list of definitions.
    """
    hanging = False
    for i, line in enumerate(lines):
        hanging = bool(line) and (hanging or re.match(r"[A-Z]\w+: \S", line) is not None)
        if not line.lstrip().startswith(">>>"):
            parts = re.split(r"(``.*?``)", line.lstrip() if hanging else line)
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[i] = "".join(parts)


def mathml(node, as_block):
    """Browsers read MathML: no script, and nothing fetched from elsewhere."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", node.astext(), error, location=node)
        return ""


def inline_math(translator, node):
    """A formula within a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block_math(translator, node):
    """A formula on a line of its own."""
    translator.body.append(mathml(node, as_block=True))
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", as_restructured)
