"""Drawings of every style, and clip art, as square pictures.

Letters: H height, W width.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codi.io import from_unit, image_to_tensor, save_image, to_unit
from data.prepare.emoji.items import Item, LeftOut
from data.prepare.emoji.names import Emoji, key_of
from data.prepare.emoji.packages import Package, Packages, library, read_json
from data.prepare.emoji.split import side_of

if TYPE_CHECKING:
    from PIL import Image

BLANK = 3.0  # of 255: the standard deviation of its pixels below which a picture shows nothing
TAGS = 4  # of an emoji, that a caption lists


@dataclass(frozen=True, kw_only=True)
class Style:
    """One way in which emoji are drawn.

    Attributes:
        id: the beginning of the names of its pictures.
        package: the package that holds its drawings.
        words: what captions call it.
        family: styles of one family are one drawing in several finishes, and are held out together.
        named_by: the package that says which drawing is whose, where its own does not.
    """

    id: str
    package: str
    words: str
    family: str
    named_by: str | None = None


FLAT = "@iconify-json/fluent-emoji-flat"
STYLES = (
    Style(id="noto", package="@iconify-json/noto", words="noto", family="noto"),
    Style(id="twemoji", package="@iconify-json/twemoji", words="twemoji", family="twemoji"),
    Style(
        id="glossy",
        package="@iconify-json/fluent-emoji",
        words="glossy",
        family="fluent",
        named_by=FLAT,
    ),
    Style(id="flat", package=FLAT, words="flat", family="fluent"),
    Style(id="3d", package="@lobehub/fluent-emoji-3d", words="3d", family="fluent"),
)
CLIP_ART = "openclipart-png"
# Folders of clip art that are left out: flags as among emoji, and what the package itself calls doubled.
NO_ART = ("flags", "duplicates", "special")
# What file names of clip art say beside what they show: authors, and how files were made.
NO_WORDS = re.compile(
    r"\b(\w|\w{1,3}architett\w*|remix|clipart|ganson|benji|park|jarno|vasama|nemo|svg|png)\b"
)


class Drawings:
    """The drawings of one style, by the keys of emoji.

    Args:
        style: the style.
        packages: where its package is found.
    """

    def __init__(self, style: Style, packages: Packages) -> None:
        self.style = style
        self.package = packages.find(style.package)
        self._named_by = packages.find(style.named_by) if style.named_by else self.package

    def __contains__(self, key: str) -> bool:
        return key in (self._files if self._is_files else self._names)

    def draw(self, key: str, pixels: int) -> "Image.Image":
        """Return a drawing with its transparency.

        Args:
            key: whose drawing; one of those that the style has.
            pixels: its longer side. A drawing that is no vector graphic comes in its own size.

        Returns:
            An image of Pillow, RGBA.

        Raises:
            LeftOut: if it cannot be drawn.
        """
        from PIL import Image

        if self._is_files:
            with Image.open(self._files[key]) as image:
                return image.convert("RGBA")
        return render_svg(self._svg(self._names[key]), pixels)

    @cached_property
    def _is_files(self) -> bool:
        """Whether the package holds a file for each drawing, instead of one file with all of them."""
        return (self.package.folder / "assets").is_dir()

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        return {key_of(path.stem): path for path in sorted((self.package.folder / "assets").glob("*.webp"))}

    @cached_property
    def _icons(self) -> Mapping[str, Any]:
        return read_json(self.package.folder / "icons.json")

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """Return the names of icons by the keys of emoji."""
        named = read_json(self._named_by.folder / "chars.json")
        found: dict[str, str] = {}
        for code_points, name in named.items():
            if name in self._icons["icons"]:
                found.setdefault(key_of(code_points), name)
        return found

    def _svg(self, name: str) -> str:
        """Return the SVG of an icon, as Iconify's format describes it."""
        icon = self._icons["icons"][name]
        sides = [icon.get(side, self._icons.get(side, 16)) for side in ("width", "height")]
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {sides[0]} {sides[1]}">{icon["body"]}</svg>'
        )


def render_svg(text: str, pixels: int) -> "Image.Image":
    """Return a vector graphic as an image of Pillow, RGBA, with `pixels` on its longer side."""
    from PIL import Image

    resvg = library("resvg_py", "drawing SVG")
    try:
        # fonts of the machine would make the set differ from one to another
        content = resvg.svg_to_bytes(svg_string=text, width=pixels, height=pixels, skip_system_fonts=True)
    except (ValueError, RuntimeError) as error:
        raise LeftOut(f"cannot be drawn ({' '.join(str(error).split())[:120]})") from None
    return Image.open(io.BytesIO(bytes(content))).convert("RGBA")


def square(image: "Image.Image", size: int) -> Tensor:
    """Return an image on a white square, as uint8 (3, size, size); nothing of it is cut off."""
    picture = image_to_tensor(image)
    height, width = picture.shape[1:]
    side = max(height, width)
    white = torch.full((3, side, side), 255, dtype=torch.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    white[:, top : top + height, left : left + width] = picture
    if side == size:
        return white
    resized = torch.nn.functional.interpolate(
        to_unit(white)[None], (size, size), mode="bicubic", antialias=True
    )
    return from_unit(resized[0])


def picture_items(names: Mapping[str, Emoji], drawings: list[Drawings], size: int) -> Iterator[Item]:
    """Yield every emoji in every style that draws it."""
    for style in drawings:
        for emoji in names.values():
            if emoji.key in style:
                yield _picture(emoji, style, size)


def _picture(emoji: Emoji, drawings: Drawings, size: int) -> Item:
    style = drawings.style
    return Item(
        id=f"{style.id}-{emoji.key}",
        file=f"pictures/{style.id}-{emoji.key}.png",
        make=lambda path: _save(path, square(drawings.draw(emoji.key, 2 * size), size)),
        captions=captions_of(emoji, style.words),
        name=emoji.name,
        side=side_of(emoji.name, style.family),
        sources=(drawings.package,),
        facts={**facts_of(emoji), "style": style.words, "family": style.family},
    )


def captions_of(emoji: Emoji, style: str) -> tuple[str, ...]:
    """Return several captions of a drawing: its name with the style, its name, its tags with the style."""
    captions = [f"{emoji.name}, {style}", emoji.name]
    if emoji.tags:
        captions.append(f"{', '.join(emoji.tags[:TAGS])}, {style}")
    return tuple(captions)


def facts_of(emoji: Emoji) -> dict[str, Any]:
    """Return what a row records of an emoji."""
    return {
        "key": emoji.key,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "tags": list(emoji.tags),
    }


def clip_art_items(package: Package, size: int) -> Iterator[Item]:
    """Yield the pictures of openclipart whose file names say what they show."""
    root = package.folder / "usr" / "share" / "openclipart" / "png"
    for path in sorted(root.rglob("*.png")):
        place = path.relative_to(root)
        words = words_of(path.stem)
        if path.is_symlink() or len(words) < 3 or not set(NO_ART).isdisjoint(place.parts):
            continue
        identity = re.sub(r"[^A-Za-z0-9_-]", "_", str(place.with_suffix("")))
        group = place.parts[-2].replace("_", " ").lower() if len(place.parts) > 1 else "clip art"
        yield Item(
            id=f"clipart-{identity}",
            file=f"pictures/clipart-{identity}.png",
            make=_clip_art(path, size),
            captions=(f"{words}, {group} clip art", words),
            name=words,
            side=side_of(words, None),
            sources=(package,),
            facts={"style": "clip art", "family": "clip art", "group": place.parts[0], "path": str(place)},
        )


def _clip_art(drawn: Path, size: int) -> Callable[[Path], object]:
    """Return a function that writes a picture in the size of the set."""
    return lambda path: _save(path, _read(drawn, size))


def words_of(stem: str) -> str:
    """Return the words of a file name, without those that say who made it, and how."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    words = re.sub(r"[^a-z]+", " ", apart.lower())
    return " ".join(NO_WORDS.sub(" ", words).split())


def _read(path: Path, size: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return square(image, size)
    except (OSError, ValueError, SyntaxError) as error:
        raise LeftOut(f"cannot be read ({' '.join(str(error).split())[:120]})") from None


def _save(path: Path, picture: Tensor) -> Path:
    if picture.float().std() < BLANK:
        raise LeftOut("shows nothing")
    return save_image(path, picture)
