"""Find unpacked packages in a folder, with their versions and their licences.

What is trained on goes into weights that are given away, so every licence is written down here as it was
read; a package that states another one is refused until somebody has read it again.
"""

import gzip
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from codi.rows import parse_json
from codi.types import InputError

LEVELS = 4  # of folders below the one that is named, in which a package is looked for


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package, as it was found.

    Attributes:
        name: its name in its registry.
        version: its version.
        licence: the SPDX name of its licence.
        folder: where its files lie; for a package of Debian, what stands for the root of the system.
    """

    name: str
    version: str
    licence: str
    folder: Path

    def fact(self) -> dict[str, str]:
        """Return what a row records of its source."""
        return {"package": self.name, "version": self.version, "licence": self.licence}


LICENCES = {
    "@iconify-json/noto": "Apache-2.0",
    "@iconify-json/twemoji": "CC-BY-4.0",
    "@iconify-json/fluent-emoji": "MIT",
    "@iconify-json/fluent-emoji-flat": "MIT",
    "@lobehub/fluent-emoji-3d": "MIT",
    "@lobehub/fluent-emoji-anim-1": "MIT",
    "@lobehub/fluent-emoji-anim-2": "MIT",
    "@lobehub/fluent-emoji-anim-3": "MIT",
    "@lobehub/fluent-emoji-anim-4": "MIT",
    "emojibase-data": "MIT",
    "supersonic-scsynth-samples": "CC0-1.0",
}
# Debian's packages state their licences in prose, in usr/share/doc/NAME/copyright: as it was read, and a
# sentence that must stand there.
DEBIAN = {
    "openclipart-png": ("CC-PDDC", "creative commons Public Domain Dedication"),
    "fluid-soundfont-gm": ("MIT", "I hereby release Fluid under the MIT license"),
}


class Packages:
    """The packages below a folder, by name.

    Args:
        folder: where packages were unpacked, each in a folder of its own or in node_modules.

    Raises:
        InputError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(
                f"no such folder of packages: {folder}. Download and unpack them first; docs/emoji.md has "
                "the commands."
            )
        self.folder = folder
        self._npm: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        for path in _at_most(folder, "package.json", LEVELS):
            stated = _package_json(path)
            self._npm.setdefault(str(stated.get("name")), []).append((path.parent, stated))

    def find(self, name: str) -> Package:
        """Return a package.

        Args:
            name: its name in its registry.

        Returns:
            The package.

        Raises:
            InputError: if it is not there, is there twice, or states a licence that nobody has read.
        """
        return self._debian(name) if name in DEBIAN else self._of_npm(name)

    def _of_npm(self, name: str) -> Package:
        found = self._npm.get(name, [])
        if not found:
            raise InputError(
                f"no package {name} below {self.folder}: run `npm pack {name}` there and unpack the tgz into "
                "a folder of its own"
            )
        if len(found) > 1:
            raise InputError(
                f"package {name} is there {len(found)} times: {found[0][0]} and {found[1][0]}; expected one"
            )
        folder, stated = found[0]
        licence = str(stated.get("license"))
        if licence != LICENCES[name]:
            raise InputError(
                f"{folder} states the licence {licence!r}: expected {LICENCES[name]!r}, which was read; read "
                "it, and take another version or change the table in data/prepare/emoji/packages.py"
            )
        return Package(name=name, version=str(stated.get("version")), licence=licence, folder=folder)

    def _debian(self, name: str) -> Package:
        licence, sentence = DEBIAN[name]
        documents = Path("usr/share/doc") / name
        places = [self.folder, self.folder / name, Path("/")]
        root = next((place for place in places if (place / documents / "copyright").is_file()), None)
        if root is None:
            raise InputError(
                f"no package {name} below {self.folder}: run `apt-get download {name}` there and "
                f"`dpkg-deb -x {name}_*.deb {self.folder / name}`, or install it"
            )
        said = (root / documents / "copyright").read_text(encoding="utf-8", errors="replace")
        if sentence not in " ".join(said.split()):
            raise InputError(
                f"{root / documents / 'copyright'} does not say {sentence!r}: expected the licence that was "
                "read; read it, and change the table in data/prepare/emoji/packages.py"
            )
        return Package(name=name, version=_debian_version(root / documents), licence=licence, folder=root)


def _at_most(folder: Path, name: str, levels: int) -> Iterator[Path]:
    """Yield the files of a name in a folder and in folders below it, by path."""
    for level in range(levels + 1):
        yield from sorted(folder.glob("*/" * level + name))


def _package_json(path: Path) -> dict[str, Any]:
    """Return what a package.json states; nothing for one that is none."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _debian_version(documents: Path) -> str:
    """Return the version on the first line of a changelog, `NAME (VERSION) ...`."""
    for path in (documents / "changelog.Debian.gz", documents / "changelog.gz"):
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as stream:
                if match := re.match(r"\S+ \(([^)]+)\)", stream.readline()):
                    return match[1]
    raise InputError(f"{documents} holds no changelog.Debian.gz that begins with a version: unpack it again")


def library(name: str, purpose: str, install: str = "'codi[emoji]'") -> ModuleType:
    """Import a library.

    Args:
        name: the name of its module.
        purpose: what needs it, for the message.
        install: what pip is to install.

    Returns:
        The module.

    Raises:
        InputError: if it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{purpose} needs the library {name} ({said}): pip install {install}") from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file of a package; one that cannot be read is an `InputError`."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): unpack the package again") from None
