"""Builds the site: `make docs`. Pages are the Markdown files beside this one, the reference is of docstrings.

Nothing is fetched: no inventories of other projects, no fonts, no scripts from elsewhere. What is not written
by hand is generated into docs/_generated, which git ignores: one page per room of the packages, and the
project's files (CONTRIBUTING.md and others) with links that hold inside the site.
"""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = DOCS / "_generated"
sys.path.insert(0, str(ROOT))

from codi.version import __version__  # noqa: E402

project = "codi"
author = "codi contributors"
copyright = "2026, codi contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = f"codi {release}"
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 4  # so that `joint.md#words` finds its heading
default_role = "code"  # docstrings write `name` with single backticks
highlight_language = "none"  # what names no language is no Python

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are fields of their class, beside what autodoc finds
python_maximum_signature_line_length = 90

PROJECT_FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "codi/assets/tiny/README.md")
PACKAGES = ("codi", "data", "training")
FIELD = re.compile(r"(\s*(?::(?:[^:\\]|\\.)+:)?)(.*)")  # a field's name, and its text
LEGEND = re.compile(r"^\S(.*?\S)? {2,}\S")  # `name    what it is`: columns, which RST would run together


def setup(app: Any) -> None:
    app.connect("config-inited", lambda app, config: generate())
    app.connect("source-read", lambda app, docname, source: keep_links_inside(docname, source))
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: tidy(lines))


# Pages that are generated ----------------------------------------------


def generate() -> None:
    """Writes the pages of the reference and of the project's files, unless they are there already."""
    pages = {f"api/{room}.md": api_page(room, modules) for room, modules in rooms().items()}
    pages |= {
        page_of(name): (ROOT / name).read_text(encoding="utf-8")
        for name in PROJECT_FILES
        if (ROOT / name).exists()
    }
    for name, text in pages.items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in GENERATED.rglob("*.md"):
        if path.relative_to(GENERATED).as_posix() not in pages:
            path.unlink()


def rooms() -> dict[str, list[str]]:
    """Finds the modules of every room: of `codi.io` those below it, of `codi` those at its top."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            inside = len(parts) > 2 or (len(parts) == 2 and path.name == "__init__.py")
            room = ".".join(parts[:2]) if inside and package == "codi" else package
            if not any(part.startswith("__") for part in parts):
                found.setdefault(room, []).append(".".join(parts))
    return found


def api_page(room: str, modules: list[str]) -> str:
    """Makes the page of one room: a section for each module, filled from its docstrings."""
    sections = [f"# {room}"]
    for module in modules:
        sections.append(f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```")
    return "\n\n".join(sections) + "\n"


def page_of(name: str) -> str:
    """Names the page for a file at the top of the repository: changelog.md, model-card.md."""
    return "model-card.md" if name.endswith("/README.md") else name.lower()


def keep_links_inside(docname: str, source: list[str]) -> None:
    """Turns links to files of the repository into links to their pages, or into text where there is none."""
    page = DOCS / f"{docname}.md"
    generated = {page_of(name): name for name in PROJECT_FILES}
    home = page.parent
    if GENERATED in page.parents and page.name in generated:
        home = (ROOT / generated[page.name]).parent
    if GENERATED / "api" == page.parent:
        return
    source[0] = re.sub(
        r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)",
        lambda link: _link(link, home, page.parent),
        source[0],
    )


def _link(link: re.Match[str], home: Path, here: Path) -> str:
    target = (home / link[2]).resolve()
    name = target.relative_to(ROOT).as_posix()
    if name in PROJECT_FILES:
        target = GENERATED / page_of(name)
    elif DOCS not in target.parents:
        return link[1]
    path = Path(*[".."] * len(here.relative_to(DOCS).parts)) / target.relative_to(DOCS)
    return f"[{link[1]}]({path.as_posix()}{link[3] or ''})"


# Docstrings ------------------------------------------------------------


def tidy(lines: list[str]) -> None:
    """Makes RST of a docstring that was written to be read in the source.

    Stars and bars are no markup there, and a legend in columns, or whatever else is indented, keeps its
    layout.
    """
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    lines[:] = "\n\n".join(map(_as_rst, blocks)).split("\n")


def _as_rst(block: str) -> str:
    lines = block.split("\n")
    if re.match(r"\s*:\w+", lines[0]):  # fields, `:param x: text`, whose names are left as they are
        return "\n".join(FIELD.match(line)[1] + _escaped(FIELD.match(line)[2]) for line in lines)
    if re.match(r"\s*(\.\. |[-*] |\d+\. |>>>)", lines[0]):  # directives, lists, examples
        return block
    if any(map(LEGEND.match, lines)) or any(line.startswith(" ") for line in lines):
        return "::\n\n" + "\n".join(f"    {line}" for line in lines)
    return _escaped(block)


def _escaped(text: str) -> str:
    return re.sub(r"`[^`]*`|\\.|([*|_])", lambda found: f"\\{found[1]}" if found[1] else found[0], text)
