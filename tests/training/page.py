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

from data.prepare import __main__ as prepare
from tests.training.media import make_pairs
from tests.training.shared import built_once
from training import cache
from training.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = {"training.main": main, "training.cache": cache.main}
PREPARE = "data.prepare"
SHARE = "0.26"  # of the samples are held out: of every kind of row some, and the others train
# What makes a stage of the page a matter of seconds.
SMALL = {
    "autoencoder": ("options.statistics_samples=8", "batch_size=4"),
    "vocoder": ("batch_size=4",),
    "align": ("options.validation_scenes=2", "batch_size=4"),
    "denoise_text": ("batch_size=4",),  # prompted as a user's run is, by captions of the data
    "denoise": ("options.preview_captions=[a red ball]", "batch_size=4"),
    "noisy": ("batch_size=4",),
    "temporal": ("options.preview_captions=[a red ball]", "batch_size=4"),
    "joint": ("options.preview_captions=[a red ball]", "batch_size=4"),
}


def commands() -> list[tuple[str, list[str]]]:
    """(module, arguments) of every command in the page's block of shell but the first, which makes the
    manifests.
    """
    return [(words[2], words[3:]) for words in block() if words[2] != PREPARE]


def block() -> list[list[str]]:
    """The words of every command in the page's block of shell."""
    lines = re.search(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)[1].splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python -m ")]


def stage_of(arguments: list[str]) -> str:
    return Path(arguments[arguments.index("--config") + 1]).stem


def small(arguments: list[str], *overrides: str) -> list[str]:
    """The command in miniature, in the folders that its configuration names."""
    stage = stage_of(arguments)
    quick = SMALL.get(stage) or SMALL[stage.partition("_")[0]]
    folders = ["model=my/model", f"output=my/runs/{stage}"]
    settings = [*folders, "samples=4", "data.workers=0", *quick, *overrides]
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
    make_pairs(folder / "media", 8)
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [words] = [words[3:] for words in block() if words[2] == PREPARE]
        assert prepare.main([*words, "--share", SHARE]) == 0
        for module, arguments in commands():
            assert COMMANDS[module](small(arguments)) == 0, arguments


def in_what_the_page_leaves(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of it for one test file, in which its tests then are."""
    folder = factory.mktemp("files") / "copy"
    shutil.copytree(built_once(factory, "page", follow_the_page), folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
