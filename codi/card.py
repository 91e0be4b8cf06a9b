"""Write what stands beside the weights in a saved folder: a model card and a loader.

The card is README.md. The loader is pipeline.py, through which diffusers' own loader finds the classes of
codi. A card that somebody else wrote or changed is left alone: cards of ours end with a digest of their own
text, by which they are recognised.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi import doctor, io, pretrained
from codi.types import EMBEDDED, InputError, Modality, ModalitySpec, listed
from codi.version import __version__

CARD = "README.md"
LOADER = "pipeline.py"
MARK = re.compile(
    r"\n<!-- written by codi [^ ]+, digest ([0-9a-f]{16}); a changed card is left alone -->\n\Z"
)
# A sentence of the card that diffusers writes over ours on an upload.
PLACEHOLDER = "This model card has been automatically generated"
LOADER_HEAD = '''"""Lets diffusers' own loader find the classes of this model, which come with codi.

    DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
"""
'''
USE = """```python
from codi import CoDiPipeline

pipe = CoDiPipeline.from_pretrained("{place}")
out = pipe("{prompt}", outputs=[{outputs}], seed=0)
out.save("out/")
```

Or, from a folder here, by diffusers' own loader, which does not check the weights against `checksums.json`:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{place}", custom_pipeline="pipeline", trust_remote_code=True)
```

Both need `codi`. The second runs `pipeline.py`, which does no more than to import classes from there.
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a pipeline that its card states and its folder does not hold.

    Attributes:
        source: the folder or hub id that the model was loaded from; None where it was put together by hand.
        takes: the modalities of its prompts.
        makes: the modalities of its outputs.
        specs: their sizes and rates.
        defaults: the model's own values for what a call leaves out.
    """

    source: str | None
    takes: Sequence[Modality]
    makes: Sequence[Modality]
    specs: Mapping[Modality, ModalitySpec]
    defaults: Mapping[str, Any]


def foreign(folder: Path) -> str | None:
    """Return the card in a folder that somebody else wrote or changed; None where there is none but ours.

    A card that cannot be read raises `InputError`.
    """
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder / CARD} cannot be read ({error}): move it away before the model is saved there"
        ) from None
    return None if _is_ours(text) else text


def write(folder: Path, facts: Facts, name: str | None = None, kept: str | None = None) -> None:
    """Write the card and the loader into a saved folder.

    A card of somebody else stays, also one that diffusers fetched from the hub; the placeholder that
    diffusers writes on an upload is replaced. A pipeline.py of somebody else stays, too.

    Args:
        folder: the saved folder.
        facts: what the card says and the folder does not.
        name: the name of the model on the card; None for that of the folder.
        kept: the card of somebody else that was there before the model was saved. It is put back where
            diffusers has written over it.
    """
    there = foreign(folder) if kept is None else kept
    if there is None or PLACEHOLDER in there:
        there = signed(render(folder, facts, name or folder.resolve().name))
    io.save_text(folder / CARD, there)
    loader = folder / LOADER
    if not loader.exists() or loader.read_text(encoding="utf-8", errors="replace").startswith(LOADER_HEAD):
        io.save_text(loader, LOADER_HEAD + _imports(folder))


def _imports(folder: Path) -> str:
    """Return the lines of the loader that import the pipeline's class and the modules of all its parts.

    diffusers' loader finds a class only where its module has been imported.
    """
    modules = {module for module, _ in pretrained.read_index(folder).values()}
    lines = ["\n"]
    for module in sorted(modules):
        if module.startswith("codi."):
            lines.append(f"import {module}  # noqa: F401\n")
    return "".join(lines) + "from codi.pipeline import CoDiPipeline  # noqa: F401\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def signed(text: str) -> str:
    """Return the text of a card with the mark at its end by which it is known as one of ours."""
    return (
        f"{text}\n<!-- written by codi {__version__}, digest {_digest(text)}; a changed card is left alone "
        "-->\n"
    )


def _is_ours(text: str) -> bool:
    mark = MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def render(folder: Path, facts: Facts, name: str) -> str:
    """Return the text of the card of the model in `folder`, called `name`."""
    provenance = _provenance(facts.source)
    sections = [
        _front_matter(provenance.get("license"), facts),
        f"# {name}\n\n{_what(facts)}",
        "## Use\n\n" + _use(name, facts),
        "## Parts\n\n" + _parts(folder),
        "## Sizes and rates\n\n" + _sizes(facts.specs),
        "## Defaults\n\n" + _defaults(facts.defaults),
        "## Provenance\n\n" + _origin(facts.source, provenance),
    ]
    return "\n".join(sections)


def _front_matter(licence: str | None, facts: Facts) -> str:
    """Return the head of the card, from which the hub reads licence, library and tags."""
    tags = ["codi", "composable-diffusion"]
    tags += [f"{m}-generation" for m in facts.makes]
    tags.append("diffusers:CoDiPipeline")
    listing = "".join(f"- {tag}\n" for tag in tags)
    licence = (licence or "unknown").lower()
    return (
        f"---\nlicense: {licence}\nlibrary_name: diffusers\npipeline_tag: any-to-any\ntags:\n{listing}---\n"
    )


def _what(facts: Facts) -> str:
    return (
        f"Makes {listed(facts.makes)} from {listed(facts.takes)}, any of them together: a model of "
        "Composable Diffusion (CoDi, arXiv "
        "2305.11846), one latent diffusion model for each modality, with prompts of every modality in one "
        "space.\n"
    )


def _use(place: str, facts: Facts) -> str:
    outputs = ", ".join(f'"{m}"' for m in facts.makes)
    return USE.format(place=place, prompt="a red ball bounces slowly at night", outputs=outputs)


def _parts(folder: Path) -> str:
    rows = ["| part | class | parameters | stored as |", "|---|---|---|---|"]
    for part in doctor.describe(folder)["parts"]:
        count = f"{part['parameters']:,}" if part["parameters"] else ""
        rows.append(f"| {part['name']} | {part['class']} | {count} | {', '.join(part['dtypes'])} |")
    return "\n".join(rows) + "\n"


def _sizes(specs: Mapping[Modality, ModalitySpec]) -> str:
    """Return a table of the modalities with the size, rate and latent shape of one sample."""
    rows = ["| modality | one sample | rate | latent |", "|---|---|---|---|"]
    for modality, spec in specs.items():
        shape = " x ".join(map(str, spec.raw_shape)) or "a sentence"
        rate = "" if spec.rate is None else f"{spec.rate:g} per second"
        rows.append(f"| {modality} | {shape} | {rate} | {' x '.join(map(str, spec.latent_shape))} |")
    return "\n".join(rows) + "\n"


def _defaults(defaults: Mapping[str, Any]) -> str:
    if not defaults:
        return "Those of codi.\n"
    return "".join(f"- `{name}`: `{defaults[name]}`\n" for name in sorted(defaults))


def _provenance(source: str | None) -> dict[str, Any]:
    """Return what the folder that a model was loaded from says of itself; empty if it is not here."""
    folder = pretrained.resolve() if source == EMBEDDED else Path(source or "")
    return doctor.provenance(folder) if source is not None and folder.is_dir() else {}


def _origin(source: str | None, provenance: Mapping[str, Any]) -> str:
    """Return the list of what is known about where the weights come from."""
    lines = [f"- saved by codi {__version__}", f"- loaded from: {_name(source)}"]
    for name in ("license", "data", "commit"):
        if name in provenance:
            value = provenance[name]
            lines.append(
                f"- {name}, as stated there: {', '.join(value) if isinstance(value, list) else value}"
            )
    lines.append(
        "- whatever was done to the weights between loading and saving (fusing, training) is not recorded "
        "here"
    )
    return "\n".join(lines) + "\n"


def _name(source: str | None) -> str:
    """Return a hub id as it is, and of a path to a folder the last name alone."""
    if source is None:
        return "parts put together by hand"
    return Path(source).resolve().name if Path(source).is_dir() else source
