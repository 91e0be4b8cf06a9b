"""The pages: every link leads somewhere, every page is in a table of contents, none gives a warning."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOLDERS = ("benchmarks", "codi", "comfyui", "configs", "data", "docs", "examples", "tests", "training")


def pages() -> list[Path]:
    """Lists every Markdown file of the repository, without what is generated."""
    found = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    return [path for path in sorted(found) if "_generated" not in path.parts]


def prose(text: str) -> str:
    """The text without its blocks of code and its `code`: brackets there are no links."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: "`" + "x" * (len(code[0]) - 2) + "`", text)


def links(text: str) -> list[str]:
    """Finds what the links and pictures of a page lead to."""
    return re.findall(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose(text))


def anchors(text: str) -> set[str]:
    """Makes the names of headings in addresses as GitHub and MyST do: lower case, joined by dashes."""
    found: set[str] = set()
    plain = re.sub(r"^( *)(```+|~~~+).*?^\1\2\s*$", "", text, flags=re.M | re.S)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", plain, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        repeated = sum(
            name == slug or name.startswith(f"{slug}-") and name[len(slug) + 1 :].isdigit() for name in found
        )
        found.add(f"{slug}-{repeated}" if slug in found else slug)
    return found


def broken(page: Path) -> list[str]:
    """Links of a page whose file or heading is not there. Addresses on the network are not asked."""
    text = page.read_text(encoding="utf-8")
    wrong = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            wrong.append(link)
        elif (
            heading and target.suffix == ".md" and heading not in anchors(target.read_text(encoding="utf-8"))
        ):
            wrong.append(link)
    return wrong


def test_links_and_headings_are_understood(tmp_path):
    (tmp_path / "b.md").write_text("# A *B*, c: `d_e`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# Here\n[a](b.md) ![b](b.md#a-b-c-d_e) [c](#here) [d](b.md#twice-1)\n"
        "[e](https://x.y/z) `[f](no.md)`\n"
        "```\n[g](no.md)\n```\n[h [i]](no.md) [j](b.md#no) [k](#no) [l](b.md#no-heading) [m](no/)\n"
    )
    assert broken(page) == ["no.md", "b.md#no", "#no", "b.md#no-heading", "no/"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert not broken(page)


def test_pages_that_the_code_names_exist():
    """Messages and comments send people to pages of docs/."""
    named = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                named |= set(re.findall(r"\bdocs/[\w-]+\.md", path.read_text(encoding="utf-8")))
    assert "docs/training.md" in named
    assert not [name for name in named if not (ROOT / name).exists()]


def contents(page: Path) -> list[str]:
    """Entries of all tables of contents on a page."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def test_every_page_is_in_a_table_of_contents():
    listed = contents(DOCS / "index.md")
    written = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert written == {name for name in listed if not name.startswith("_generated/")}
    assert len(listed) == len(set(listed))


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_has_its_place_in_the_reference(conf):
    rooms = conf.rooms()
    listed = [module for modules in rooms.values() for module in modules]
    assert {"codi", "codi.io", "codi.models", "data", "training"} <= rooms.keys()
    assert "codi.pipeline" in rooms["codi"] and "codi.models.denoisers.unet" in rooms["codi.models"]
    assert len(listed) == len(set(listed)) and all(map(importlib.util.find_spec, listed[:3]))
    assert "codi.world.scene" in conf.api_page("codi.world", rooms["codi.world"])


def test_project_files_have_their_pages(conf):
    pages = {conf.page_of(name).removesuffix(".md") for name in conf.PROJECT_FILES}
    assert all((ROOT / name).is_file() for name in conf.PROJECT_FILES)
    assert {name.removeprefix("_generated/") for name in contents(DOCS / "index.md") if "_" in name} - {
        "api/*"
    } == pages


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("joint", "[a](log.md#b)", "[a](log.md#b)"),
        ("joint", "[a](../CONTRIBUTING.md#b)", "[a](_generated/contributing.md#b)"),
        ("joint", "[a](../LICENSE)", "a"),
        (
            "joint",
            "![a](images/a.png) [b](#c) [d](https://e.f/g)",
            "![a](images/a.png) [b](#c) [d](https://e.f/g)",
        ),
        ("_generated/contributing", "[a](docs/log.md#b)", "[a](../log.md#b)"),
        ("_generated/contributing", "[a](CHANGELOG.md)", "[a](../_generated/changelog.md)"),
        ("_generated/contributing", "[a](LICENSE)", "a"),
    ],
)
def test_links_stay_inside_the_site(conf, page, text, expected):
    source = [text]
    conf.keep_links_inside(page, source)
    assert source == [expected]


def test_docstrings_keep_their_layout(conf):
    lines = ["Reads *all* of `a_b`, x_t.", "", "x  (B, C) latent", "yy (B,)", "", ":returns: it"]
    conf.tidy(lines)
    assert lines == [
        r"Reads \*all\* of `a_b`, x\_t.",
        "",
        "::",
        "",
        "    x  (B, C) latent",
        "    yy (B,)",
        "",
        ":returns: it",
    ]


def test_the_written_pages_build_without_a_warning(tmp_path):
    """All but the API reference, which takes a minute and is built by `make docs`."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    quiet = ["-q", "-E", "-b", "dummy", "-D", "exclude_patterns=_generated/api/*", "-d", tmp_path / "trees"]
    command = [sys.executable, "-m", "sphinx", *quiet, DOCS, tmp_path / "out"]
    made = subprocess.run(command, capture_output=True, text=True)
    warnings = [line for line in made.stderr.splitlines() if line.strip() and "_generated/api/" not in line]
    assert made.returncode == 0 and not warnings, warnings


def test_hooks_and_citation_are_read_by_their_tools():
    import yaml

    [hooks] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert hooks["repo"] == "local"  # nothing is fetched
    assert [hook["entry"].split()[0] for hook in hooks["hooks"]] == ["ruff", "ruff", "pydoclint", "mypy"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r'"(.+)"', (ROOT / "codi" / "version.py").read_text().split("__version__")[1])[1]
    assert (
        str(citation["version"]) == version and json.dumps(citation["references"]).count("family-names") == 5
    )
    assert f"## {version} - " in (ROOT / "CHANGELOG.md").read_text()
