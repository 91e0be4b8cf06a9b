"""The commands of docs/training.md in miniature, on real media files: what the tests of stages on files
share.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.training.media import make_media
from tests.training.shared import built_once
from training import cache
from training.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = {"training.main": main, "training.cache": cache.main}
# What makes a stage of the page a matter of seconds.
SMALL = {
    "autoencoder": ("options.statistics_samples=8", "batch_size=4"),
    "vocoder": ("batch_size=4",),
    "align": ("options.validation_scenes=2", "batch_size=4"),
    "denoise": ("options.preview_captions=[a red ball]", "batch_size=4"),
    "noisy": ("batch_size=4",),
    "temporal": ("batch_size=4",),
    "joint": ("batch_size=4",),
}


def commands() -> list[tuple[str, list[str]]]:
    """(module, arguments) of every command in the page's block of shell."""
    block = re.search(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)[1]
    values = dict(re.findall(r'^(\w+)="(.*)"$', block, re.M))
    lines = [
        re.sub(r"\$(\w+)", lambda name: values[name[1]], line)
        for line in block.splitlines()
        if line.startswith("python -m ")
    ]
    return [(words[2], words[3:]) for words in map(shlex.split, lines)]


def stage_of(arguments: list[str]) -> str:
    return Path(arguments[arguments.index("--config") + 1]).stem


def small(arguments: list[str], *overrides: str) -> list[str]:
    """The command in miniature."""
    settings = ["samples=4", "data.workers=0", *SMALL[stage_of(arguments).partition("_")[0]], *overrides]
    return [*arguments, "--small", *(word for setting in settings for word in ("--set", setting))]


def command(stage: str, *overrides: str, run: str) -> list[str]:
    """One command of the page in miniature, into another run's folder."""
    arguments = next(
        arguments
        for name, arguments in commands()
        if name == "training.main" and stage_of(arguments) == stage
    )
    return small(arguments, f"output=my/runs/{run}", *overrides)


def of(name: str) -> SimpleNamespace:
    """A run as the helpers of `test_loop` want it."""
    return SimpleNamespace(run=Path("my/runs") / name)


def follow_the_page(folder: Path) -> None:
    """From top to bottom."""
    make_media(folder / "media", 6)
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)[1], {})
        for module, arguments in commands():
            assert COMMANDS[module](small(arguments)) == 0, arguments


def in_what_the_page_leaves(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of it for one test file, in which its tests then are."""
    folder = factory.mktemp("files") / "copy"
    shutil.copytree(built_once(factory, "page", follow_the_page), folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
