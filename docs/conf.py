"""Sphinx configuration. From the repository root:

sphinx-build -W --keep-going -b html docs docs/_build/html
"""

import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import skdict  # noqa: E402

project = "skdict"
author = "The skdict developers"
copyright = f"2026, {author}"
version = release = skdict.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # its copy of MathJax goes into the pages' _static
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
# Every name of skdict that a page or a docstring links to must exist.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!skdict\.).*")]

# A page for every name in the __all__ of each public module, written anew at each build, so
# that no page outlives its name.
shutil.rmtree(DOCS / "api" / "generated", ignore_errors=True)
autosummary_ignore_module_all = False
default_role = "py:obj"  # `name` is a link where there is such a name
autodoc_typehints = "none"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "auto_examples/backreferences",
    "doc_module": ("skdict",),
    "filename_pattern": r"/plot_",  # other examples are shown, but not run
    "ignore_pattern": r"__init__\.py",
    "min_reported_time": 1,
    "show_memory": False,
    "write_computation_times": False,  # these pages load scripts from the network
}

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 2,
}

# Where other projects' documentation keeps the page of a name. An inventory would say it too,
# but would have to be downloaded at each build.
API_PAGES = {
    "sklearn": "https://scikit-learn.org/stable/modules/generated/{}.html",
    "torch.nn": "https://docs.pytorch.org/docs/stable/generated/{}.html",
}
# Labels in the docstrings of methods that estimators inherit from scikit-learn.
SKLEARN_LABELS = {
    "metadata_routing": "metadata_routing.html",
    "df_output_transform": "modules/df_output_transform.html",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": (
        "auto_examples/miscellaneous/plot_set_output.html"
    ),
}


def link_to_other_projects(app, env, node, contnode):
    """Turn a reference that is none of ours into a link, if we know where to."""
    target, uri = node["reftarget"], None
    if node["refdomain"] == "py" and target.replace(".", "").isidentifier():
        for prefix, page in API_PAGES.items():
            if target.startswith(f"{prefix}."):
                is_method = node["reftype"] == "meth"  # it is on the page of its class
                uri = page.format(target.rpartition(".")[0] if is_method else target)
                uri += f"#{target}"
    elif node["reftype"] == "term":
        uri = f"https://scikit-learn.org/stable/glossary.html#term-{target}"
    elif target in SKLEARN_LABELS:
        uri = f"https://scikit-learn.org/stable/{SKLEARN_LABELS[target]}"
    return uri and nodes.reference("", "", contnode, internal=False, refuri=uri)


REMOTE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["'](?:https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|icon))[^>]*\bhref=["'](?:https?:)?//[^>]*>"""
    r"""|@import\s+(?:url\()?["'](?:https?:)?//[^;]*|url\(["']?(?:https?:)?//[^)]*\)""",
    re.IGNORECASE,
)


def refuse_remote_files(app, exception):
    """Pages that load a script, style, font or picture from the network fail the build."""
    if exception or app.builder.format != "html":
        return
    pages = [path for kind in ("html", "css") for path in Path(app.outdir).rglob(f"*.{kind}")]
    found = [
        f"{path}: {match[0]}" for path in pages for match in REMOTE.finditer(path.read_text())
    ]
    if found:
        raise ExtensionError("These need a network to be shown:\n" + "\n".join(sorted(found)))


def setup(app):
    app.connect("missing-reference", link_to_other_projects)
    app.connect("build-finished", refuse_remote_files)
