"""Rules as tests: who may import whom, names that diffusers would mistake, the README's tree, how fast the
command answers.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).parent.parent
PACKAGES = ("codi", "data", "training")

# What each part may import besides itself. A name covers what is below it, the longest one counts.
LEAVES = {"codi", "codi.version", "codi.types", "codi.libraries", "codi.border", "codi.protocols", "codi.io"}
LEAVES |= {"codi.tensor_files"}
KINDS = {"codi.modalities"}
JOINT = {"codi.modalities", "codi.diffusion", "codi.conditions", "codi.joint", "codi.layers"}
MODELS = {"codi.models"} | JOINT
LOADING = {"codi.pretrained", "codi.convert", "codi.renamed"}
MAY_IMPORT: dict[str, set[str]] = {
    "codi": {"codi.version", "codi.types"},
    "codi.version": set(),
    "codi.types": set(),
    "codi.protocols": {"codi.types"},
    "codi.libraries": {"codi.types"},
    "codi.tensor_files": {"codi.types"},
    "codi.renamed": set(),
    "codi.layers": set(),
    "codi.start_up": {"codi.libraries"},
    "codi.fork_server": {"codi.libraries"},
    "codi.border": {"codi.types", "codi.renamed"},
    "codi.io": {"codi.types", "codi.libraries", "codi.border", "codi.renamed", "codi.fork_server"},
    "codi.modalities": LEAVES | {"codi.media"},
    "codi.diffusion": LEAVES,
    "codi.conditions": LEAVES | KINDS | {"codi.diffusion"},
    "codi.controls": LEAVES | KINDS | {"codi.media", "codi.world"},
    "codi.joint": LEAVES | KINDS | {"codi.diffusion", "codi.conditions", "codi.layers"},
    "codi.settings": LEAVES | KINDS | {"codi.diffusion", "codi.conditions"},
    "codi.world": LEAVES,
    "codi.vocabulary": LEAVES | {"codi.world"},
    "codi.models": LEAVES | JOINT | {"codi.world", "codi.vocabulary"},
    "codi.folder_checks": LEAVES | MODELS,
    "codi.pretrained": LEAVES | MODELS | {"codi.folder_checks", "codi.renamed", "codi.settings"},
    "codi.convert": LEAVES | MODELS | {"codi.pretrained"},
    "codi.wording": LEAVES | KINDS | {"codi.vocabulary", "codi.world", "codi.adapters"},
    "codi.media": LEAVES,
    "codi.rows": LEAVES | KINDS,
    "codi.functions": {"codi.types"},
    "codi.edits": LEAVES | KINDS | {"codi.media"},
    "codi.edited": LEAVES
    | KINDS
    | {"codi.conditions", "codi.diffusion", "codi.edits", "codi.media", "codi.prompts"},
    "codi.prompts": LEAVES | KINDS | {"codi.media", "codi.wording"},
    "codi.callbacks": LEAVES,
    "codi.card": LEAVES | KINDS | {"codi.doctor", "codi.pretrained"},
    "codi.memory": LEAVES | MODELS,
    "codi.records": LEAVES | KINDS | {"codi.prompts", "codi.renamed"},
    "codi.filters": LEAVES | KINDS | {"codi.functions"},
    "codi.sheets": LEAVES | KINDS,
    "codi.job_lines": LEAVES | KINDS | {"codi.edits", "codi.jobs"},
    "codi.grid_command": LEAVES | KINDS | {"codi.job_lines", "codi.jobs", "codi.renamed", "codi.sheets"},
    "codi.compare_command": LEAVES
    | KINDS
    | {
        "codi.bench",
        "codi.failures",
        "codi.job_lines",
        "codi.jobs",
        "codi.renamed",
        "codi.sheets",
        "codi.world",
    },
    "codi.verify_command": LEAVES | {"codi.credentials", "codi.records"},
    "codi.provenance": {"codi.types", "codi.credentials"},
    "codi.credentials": LEAVES,
    "codi.outputs": LEAVES | KINDS | {"codi.records", "codi.filters"},
    "codi.regions": LEAVES
    | KINDS
    | {"codi.conditions", "codi.diffusion", "codi.media", "codi.prompts", "codi.records"},
    "codi.selection": LEAVES | KINDS,
    "codi.calls": LEAVES | KINDS | {"codi.conditions", "codi.diffusion", "codi.settings"},
    "codi.request": LEAVES
    | KINDS
    | MODELS
    | {"codi.controls", "codi.edits", "codi.outputs", "codi.regions", "codi.selection", "codi.settings"},
    "codi.given": LEAVES | KINDS | MODELS | {"codi.prompts", "codi.records"},
    "codi.adapters": LEAVES | MODELS | {"codi.pretrained", "codi.controls"},
    "codi.compose": LEAVES
    | MODELS
    | LOADING
    | {
        "codi.callbacks",
        "codi.calls",
        "codi.card",
        "codi.doctor",
        "codi.edited",
        "codi.edits",
        "codi.folder_checks",
        "codi.memory",
        "codi.outputs",
        "codi.prompts",
        "codi.records",
        "codi.regions",
        "codi.settings",
    },
    "codi.pipeline": LEAVES
    | MODELS
    | LOADING
    | {
        "codi.adapters",
        "codi.compose",
        "codi.callbacks",
        "codi.calls",
        "codi.card",
        "codi.edited",
        "codi.given",
        "codi.memory",
        "codi.regions",
        "codi.request",
        "codi.prompts",
        "codi.outputs",
        "codi.records",
        "codi.selection",
        "codi.settings",
    },
    "codi.metrics": LEAVES | KINDS | {"codi.world"},
    "codi.bench": LEAVES
    | MODELS
    | {
        "codi.functions",
        "codi.records",
        "codi.rows",
        "codi.sheets",
        "codi.compose.folder",
        "codi.world",
        "codi.metrics",
        "codi.pipeline",
        "codi.pretrained",
        "codi.prompts",
        "codi.outputs",
        "codi.settings",
    },
    "codi.continued": LEAVES | KINDS | {"codi.continuing", "codi.prompts", "codi.records", "codi.windows"},
    "codi.jobs": LEAVES
    | KINDS
    | {"codi.continued", "codi.controls", "codi.edits", "codi.failures", "codi.records", "codi.regions"}
    | {"codi.renamed", "codi.settings"},
    "codi.session": LEAVES
    | KINDS
    | {
        "codi.adapters",
        "codi.continued",
        "codi.diffusion",
        "codi.failures",
        "codi.filters",
        "codi.jobs",
        "codi.pipeline",
        "codi.prompts",
        "codi.outputs",
        "codi.records",
        "codi.selection",
        "codi.settings",
    },
    "codi.ray_jobs": LEAVES
    | KINDS
    | LOADING
    | {"codi.failures", "codi.jobs", "codi.provenance", "codi.session", "codi.wording"},
    "codi.serve": LEAVES
    | KINDS
    | LOADING
    | {
        "codi.compose",
        "codi.continued",
        "codi.failures",
        "codi.filters",
        "codi.fork_server",
        "codi.pipeline",
        "codi.provenance",
        "codi.job_files",
        "codi.jobs",
        "codi.session",
        "codi.start_up",
        "codi.wording",
    },
    "codi.job_files": LEAVES | KINDS | {"codi.jobs"},
    "codi.server_client": {"codi.types"},
    "codi.submitting": LEAVES
    | KINDS
    | {"codi.failures", "codi.job_files", "codi.jobs", "codi.server_client"},
    "codi.submit_command": {"codi.failures", "codi.submitting"},
    "codi.options": {"codi.types"},
    "codi.failures": {"codi.types"},
    "codi.again": LEAVES
    | KINDS
    | LOADING
    | {"codi.adapters", "codi.diffusion", "codi.jobs", "codi.pipeline", "codi.records", "codi.settings"},
    "codi.vary": LEAVES | KINDS | {"codi.records", "codi.provenance"},
    "codi.windows": {"codi.types"},
    "codi.continuing": LEAVES | KINDS | {"codi.filters", "codi.records", "codi.windows"},
    "codi.continue_command": LEAVES
    | KINDS
    | LOADING
    | {"codi.continued", "codi.continuing", "codi.filters", "codi.jobs", "codi.pipeline"}
    | {"codi.provenance", "codi.windows"},
    "codi.inspection": LEAVES | KINDS | {"codi.pretrained"},
    "codi.doctor": LEAVES | KINDS | {"codi.pretrained", "codi.wording"},
    "codi.cli": LEAVES
    | KINDS
    | LOADING
    | {
        "codi.again",
        "codi.bench",
        "codi.compose",
        "codi.failures",
        "codi.jobs",
        "codi.options",
        "codi.ray_jobs",
        "codi.session",
        "codi.doctor",
        "codi.inspection",
        "codi.vary",
        "codi.verify_command",
        "codi.grid_command",
        "codi.compare_command",
        "codi.continue_command",
        "codi.serve.command",
        "codi.submit_command",
        "codi.filters",
        "codi.pipeline",
        "codi.provenance",
        "codi.start_up",
    }
    | {"codi.fork_server", "codi.wording"},
    "data": {
        "codi.types",
        "codi.fork_server",
        "codi.modalities",
        "codi.libraries",
        "codi.io",
        "codi.world",
        "codi.models.autoencoders",
        "codi.rows",
    },
    "training": {"codi", "data"}
    | MODELS
    | LOADING
    | LEAVES
    | {
        "codi.world",
        "codi.compose",
        "codi.metrics",
        "codi.pipeline",
        "codi.outputs",
        "codi.bench",
        "codi.adapters",
        "codi.vocabulary",
        "codi.settings",
        "codi.controls",
    },
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours in a file, those inside functions included."""
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package[: len(package) - node.level + 1] if node.level else []) if node.level else ""
            )
            base = ".".join(part for part in (base, node.module) if part)
            found = [
                f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names
            ]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] in PACKAGES)


def part_of(name: str) -> str:
    """The longest key of the table that covers a module."""
    found = [part for part in MAY_IMPORT if name == part or name.startswith(part + ".")]
    assert found, f"{name} has no place in the table of {__file__}"
    part = max(found, key=len)
    assert part != "codi" or name == "codi", (
        f"{name} has no place in the table of {__file__}: say what it may import"
    )
    return part


def may(part: str, name: str) -> bool:
    return any(
        name == allowed or (allowed != "codi" and name.startswith(allowed + "."))
        for allowed in MAY_IMPORT[part] | {part}
    )


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = part_of(module_name(path))
    wrong = [f"line {line}: {name}" for line, name in imports(path) if not may(part, name)]
    assert not wrong, f"{part} may not import {wrong}; an upward need is met by passing a callable"


def test_the_table_itself_has_no_circle():
    seen: dict[str, int] = {}

    def depth(part: str, above: tuple[str, ...] = ()) -> int:
        assert part not in above, f"circle: {' -> '.join((*above, part))}"
        if part in seen:  # from another part: the same again
            return seen[part]
        below = {part_of(name) for name in MAY_IMPORT[part]} - {part}
        seen.setdefault(part, 1 + max((depth(p, (*above, part)) for p in below), default=0))
        return seen[part]

    assert max(depth(part) for part in MAY_IMPORT) < len(MAY_IMPORT)


def test_the_check_sees_a_wrong_edge(tmp_path):
    file = ROOT / "codi" / "types.py"
    assert part_of(module_name(file)) == "codi.types"
    assert (
        not may("codi.types", "codi.io.read")
        and not may("codi.models", "codi.pipeline")
        and not may("data", "codi.models.denoisers")
    )
    assert may("codi.pipeline", "codi.models.codi") and may("data", "codi.models.autoencoders.image")


def test_no_module_is_named_like_a_part_of_diffusers():
    """A class in codi/ddim/x.py would be saved as one of diffusers.pipelines.ddim and could not be loaded."""
    import diffusers.pipelines

    names = {
        part
        for path in (ROOT / "codi").rglob("*.py")
        for part in path.relative_to(ROOT).with_suffix("").parts
    }
    assert not [name for name in names if name != "__init__" and name in dir(diffusers.pipelines)]


def test_nothing_imports_heavy_libraries_early():
    heavy = "torch|diffusers|transformers|numpy|PIL|av"
    code = (
        "import sys, codi, codi.cli; codi.cli.build_parser(); print([m for m in sys.modules if m in "
        f"'{heavy}'.split('|')])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments, limit", [(["-c", "import codi"], 0.3), (["-m", "codi.cli", "--help"], 0.5)]
)
def test_startup_is_quick(arguments, limit):
    """The best of several, because the machine has other things to do."""

    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < limit


# codi/io knows files, codi/convert four released checkpoints.
MAY_COMPARE = ("codi/modalities/", "codi/io/", "codi/convert/")
# The world draws and reads back four media of its own, and the bench measures and shows these: tables by
# modality hold what is known of the four there, with a way in for a further one (`codi.world.add_view`).
MAY_LIST = (*MAY_COMPARE, "codi/models/released/", "codi/world/", "codi/bench/")


def known_by_name(count: Callable[[structure.Source], int], may: tuple[str, ...]) -> dict[str, int]:
    """What is counted in every file that should ask the registry."""
    found = {}
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(may):
            found[name] = count(structure.Source(name, path.read_text(encoding="utf-8")))
    return {name: number for name, number in found.items() if number}


def test_only_the_registry_knows_modalities_by_name():
    advice = "ask codi.modalities.kind_of what you want to know"
    compared = known_by_name(structure.comparisons, MAY_COMPARE)
    assert not compared, f"{compared} compare with the name of a modality: {advice}"
    listed = known_by_name(structure.tables, MAY_LIST)
    assert not listed, f"{listed} have tables by modality: {advice}"


def readme() -> str:
    if not (ROOT / "README.md").is_file():
        pytest.skip("no README yet")
    return (ROOT / "README.md").read_text(encoding="utf-8")


def tree(text: str) -> list[str]:
    """Paths in the block under `## Layout`: one per line, indented by level, followed by a remark."""
    section = re.search(r"^## Layout\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, "the README has no section '## Layout'"
    block = re.search(r"^```\w*\n(.*?)^```", section[1], re.M | re.S)
    assert block, "the section '## Layout' has no block of code"
    paths, above = [], []
    for line in filter(str.strip, block[1].splitlines()):
        indent, names = len(line) - len(line.lstrip()), names_in(line)
        above = [(depth, name) for depth, name in above if depth < indent]
        parent = "".join(name for _, name in above)
        paths += [parent + name for name in names]
        above.append((indent, names[0] if names[0].endswith("/") else ""))
    return paths


def names_in(line: str) -> list[str]:
    """The names at the start of a line: everything before the first gap of two spaces that is followed by
    words without dot or slash.
    """
    names = []
    for chunk in re.split(r"\s{2,}|\s#", line.strip()):
        words = re.split(r",? ", chunk)
        if names and not all("." in word.rstrip(".") or word.endswith("/") for word in words):
            break
        names += words
    return names


def test_the_tree_is_understood():
    text = (
        "## Layout\n```\na.md  b.md\nlib/   the library\n  x.py, y.py  two\n  sub/\n    z.py   "
        "deep\ntests/\n```\n## Next\n"
    )
    assert tree(text) == [
        "a.md",
        "b.md",
        "lib/",
        "lib/x.py",
        "lib/y.py",
        "lib/sub/",
        "lib/sub/z.py",
        "tests/",
    ]


def test_the_readme_shows_what_exists():
    missing = [path for path in tree(readme()) if not (ROOT / path).exists()]
    assert not missing, f"the README's tree names {missing}"


def test_the_readme_shows_every_module_at_the_top_of_codi():
    shown = {Path(path) for path in tree(readme())}
    here = [
        path.relative_to(ROOT)
        for path in (ROOT / "codi").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    missing = [
        str(path) for path in here if path not in shown and path.name not in ("__init__.py", "version.py")
    ]
    assert not missing, f"the README's tree lacks {missing}"


def test_continuous_integration_runs_the_readmes_test_command():
    command = "make test"
    assert command in readme()
    assert "make --silent test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_stage_of_make_tiny_has_a_config_and_every_config_a_stage():
    makefile = (ROOT / "Makefile").read_text()
    lists = [
        re.search(rf"^{name} := ((?:.*\\\n)*.*)$", makefile, re.M)[1]
        for name in ("STAGES", "OPTIONAL_STAGES")
    ]
    stages = " ".join(lists).replace("\\", " ").split()
    configs = {path.stem for path in (ROOT / "configs" / "world").glob("*.yaml")}
    if not configs:
        pytest.skip("no configs yet")
    assert set(stages) == configs and len(set(stages)) == len(stages)


def test_the_package_holds_what_it_needs():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["codi"] == [
        "assets/**",
        "py.typed",
        "serve/page/assets/**",
    ]
    packages = [path.parent for path in (ROOT / "codi").rglob("*.py")]
    without = sorted(
        {str(path.relative_to(ROOT)) for path in packages if not (path / "__init__.py").is_file()}
    )
    assert not without, f"not installed, because they lack an __init__.py: {without}"
    assert importlib.util.find_spec("codi.cli") is not None


def pins() -> dict[str, set[str]]:
    """Versions by name in constraints.txt; a library may have one for older Pythons and one for newer."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition(";")[0].strip().partition("==")
            found.setdefault(name, set()).add(version)
    return found


def test_the_constraints_are_those_of_the_lock():
    import tomllib

    locked: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    locked.pop("codi")
    assert pins() == locked, "run `make lock`"


def test_the_lock_holds_what_the_project_asks_for_and_within_its_bounds():
    import tomllib

    from packaging.requirements import Requirement

    project, locked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], pins()
    for line in [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]:
        need = Requirement(line)
        versions = locked[need.name.lower().replace("_", "-")]
        assert all(need.specifier.contains(version) for version in versions), (
            f"{line}: locked at {versions}, run `make lock`"
        )


def test_every_library_that_is_required_is_imported_somewhere():
    """By the package or by what is beside it; what nothing imports goes."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    for line in project["dependencies"]:
        name = {"pillow": "PIL", "pyyaml": "yaml"}.get(Requirement(line).name, Requirement(line).name)
        assert re.search(rf"\b(import {name}\b|from {name}\b|load\(\"{name}\b)", text), (
            f"nothing imports {name}"
        )
