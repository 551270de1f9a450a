"""How the site is built: `sphinx-build -W -n docs build/site`. Nothing is fetched."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
# Both, so that the site describes this checkout and no other that is installed.
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

project = "langmem-isolated"
author = "the langmem-isolated project"
release = version = version_of("langmem-isolated")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "attributes",
    "backticks",
    "plain_pages",
    "reference_pages",
]
exclude_patterns = ["_extensions", "**/.*"]
# Options of commands begin with two hyphens, and must not become a dash.
smartquotes = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
# What is lexed by other names than GitHub knows.
highlight_language = "python"
suppress_warnings = [
    # A section all of whose pages stand in an order; what is added to it comes behind them.
    "toc.empty_glob",
    # Fences of `text` and the like that hold what no lexer of their name reads to its end.
    "misc.highlighting_failure",
]

default_role = "backticks"
add_module_names = False
autosummary_generate = False
autodoc_class_signature = "mixed"
autodoc_default_options = {"member-order": "bysource"}
# What LangChain's and LangGraph's docstrings have is their Markdown, and their documentation.
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 80
# Thousands of entries, copied into each page's navigation, took half of the build; pages of the
# reference have a heading for each name instead.
toc_object_entries = False

html_theme = "furo"
# The theme's own underlines names of modules, as if they were links.
pygments_dark_style = "github-dark"
html_title = f"langmem-isolated {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "top_of_page_buttons": [],
    # Colours that hold 4.5:1 on both backgrounds.
    "light_css_variables": {"color-brand-primary": "#0b5c8a", "color-brand-content": "#0b5c8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}

nitpick_ignore_regex = [
    # What is imported for type checkers alone stands in signatures without its module.
    (r"py:(class|exc)", r"[A-Z]\w*|date|datetime|timedelta"),
    # The sites of others are not fetched, so that this one builds offline: no link leads there.
    (
        r"py:.*",
        r"(langchain\w*|langgraph|sqlalchemy|pydantic\w*|annotated_types|starlette|_?pytest)\..*",
    ),
    # Python's own, whose inventory is not fetched either.
    (r"py:.*", r"(asyncio|collections|contextlib|datetime|decimal|enum|os|pathlib|types|uuid)\..*"),
    # Inner rooms have no page; their names, and aliases of types, stand in signatures.
    (r"py:.*", r"langmem_isolated(\.\w+)*\._.*"),
    (r"py:class", r"langmem_isolated\.(scope|lifecycle|checkpointer|testing|importers)\..*"),
]
