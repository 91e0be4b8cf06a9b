"""Ask the user's own filter of every sample before a file of it is written.

A filter is a function of one sample:

    def check(sample):
        if "ball" in " ".join(sample.prompts.get("text", [])):
            return "no balls here"  # refused, for this reason; False refuses without one
        picture = sample.media["image"]
        return {"image": picture.resize((8, 8)).resize(picture.size)}  # written instead

With None or True a sample is written as it is. A filter is named as `module:function` or `file.py:function`.
What it refuses is not written, nor is anything where it fails: a filter that does not work lets nothing pass.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from codi.functions import EXAMPLE, file_digest, load_function, module_digest
from codi.types import InputError, Modality


class Refused(InputError):
    """Raised for a sample that a filter does not let pass, or on which the filter failed."""

    refused = True  # as the list of failed jobs says


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a filter is shown: one sample, of which nothing is written yet.

    Attributes:
        media: what was made, by modality: sentences, PIL images (or uint8 tensors (3, H, W)), sounds as float
            tensors (samples,) in [-1, 1], clips as uint8 tensors (F, 3, H, W); arrays where the pipeline was
            asked for arrays.
        prompts: sentences, and paths of files, by modality; `negative_text` and so on for what was to be
            avoided. A prompt from memory is what the record says of it.
        record: how it was made, as its files will carry it (`codi.records`).
        seed: the seed of the sample.
        sampling_rate: that of the sounds in Hz, or None.
        fps: frames per second of the clips, or None.
    """

    media: Mapping[str, Any]
    prompts: Mapping[str, list[str]]
    record: Mapping[str, Any]
    seed: int
    sampling_rate: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Filter:
    """A filter with the name that records and messages give it.

    Attributes:
        function: takes a `Sample`; returns None or True, False or a reason, or a dict of changed media.
        name: how it was named.
        sha256: of the file that it stands in, if that is known.
    """

    function: Callable[[Sample], Any]
    name: str
    sha256: str | None = field(default=None)

    @classmethod
    def parse(cls, value: "str | Filter | Callable[[Sample], Any] | None") -> "Filter | None":
        """Return a filter that is given by its name, as a function, or as a `Filter`; None for None.

        Raises `InputError` for a name behind which there is no function.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(load_function(value, "--filter", "one sample"), value, file_digest(value))
        if not callable(value):
            raise InputError(
                f"filter is {value!r:.80}: expected a function of one sample, or its name, {EXAMPLE}"
            )
        module = getattr(value, "__module__", None) or type(value).__module__
        name = getattr(value, "__qualname__", None) or type(value).__qualname__
        return cls(value, f"{module}:{name}", module_digest(sys.modules.get(str(module))))

    def described(self) -> dict[str, Any]:
        """Return the name and the digest of its file, which tell filters apart."""
        return {"name": self.name, **({"sha256": self.sha256} if self.sha256 else {})}

    def changed(self, sample: Sample) -> dict[str, Any]:
        """Return the media that are written in place of what was made, by modality; empty for none.

        Args:
            sample: what was made.

        Returns:
            Changed media of the same types.

        Raises:
            Refused: if the filter refuses the sample, fails, or answers with what nobody can use.
        """
        try:
            answer = self.function(sample)
        except Exception as error:  # anything may go wrong in it, and nothing passes then
            said = " ".join(str(error).split())[:200]
            raise Refused(
                f"the filter {self.name} failed on the sample of seed {sample.seed} "
                f"({type(error).__name__}{': ' if said else ''}{said}): nothing of it is written"
            ) from error
        if answer is None or answer is True:
            return {}
        if answer is False or isinstance(answer, str):
            reason = " ".join(answer.split())[:300] if isinstance(answer, str) else ""
            raise Refused(
                f"the filter {self.name} refused the sample of seed {sample.seed}"
                f"{': ' if reason else ''}{reason}"
            )
        if not isinstance(answer, Mapping):
            raise Refused(
                f"the filter {self.name} answered with a {type(answer).__name__}: expected None or True, "
                "False or a reason, or a dict of changed media; nothing is written"
            )
        return {self._known(name, sample): self._usable(name, new, sample) for name, new in answer.items()}

    def _known(self, name: Any, sample: Sample) -> str:
        """Return the name of a medium that was made."""
        if name not in sample.media:
            raise Refused(
                f"the filter {self.name} changed {name!r:.60}, which was not made: expected some of "
                f"{', '.join(sample.media)}; nothing is written"
            )
        return str(name)

    def _usable(self, name: Any, new: Any, sample: Sample) -> Any:
        """Return a changed medium, which must be of the kind that was made."""
        old = sample.media[self._known(name, sample)]
        expected, found = _form(old), _form(new)
        if expected != found:
            raise Refused(
                f"the filter {self.name} returned the {name} as {found}: expected {expected}; nothing is "
                "written"
            )
        return new


def show(media: Mapping[Modality, Any], record: Mapping[str, Any], **more: Any) -> Sample:
    """Return the sample that a filter is shown.

    Args:
        media: what was made, by modality.
        record: how it was made; may be empty.
        **more: the other attributes of a `Sample`.

    Returns:
        The sample.
    """
    prompts: dict[str, list[str]] = {}
    for sign, rows in (("", record.get("inputs", ())), ("negative_", record.get("negatives", ()))):
        for row in rows:
            said = row.get("text") or row.get("path") or row.get("from") or ""
            prompts.setdefault(f"{sign}{row['as']}", []).append(str(said))
    shown = {m.value: _copied(made) for m, made in media.items()}
    return Sample(media=shown, prompts=prompts, record=copy.deepcopy(dict(record)), **more)


def _copied(value: Any) -> Any:
    """Return a medium that may be written into without changing what was made."""
    if hasattr(value, "clone"):
        return value.clone()
    return value.copy() if hasattr(value, "copy") else value


def _form(value: Any) -> str:
    """Return what a medium is, in words by which two of the same form are equal."""
    if isinstance(value, str):
        return "a sentence"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        channels = f" of {shape[-3]} channels" if len(shape) > 2 else ""
        return f"{type(value).__name__} of {dtype}, {len(shape)} dimensions{channels}"
    if hasattr(value, "mode") and hasattr(value, "size"):
        return f"a PIL image of mode {value.mode}"
    return type(value).__name__
