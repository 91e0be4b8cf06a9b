"""The batch that every source of scenes or files gives.

What of a padded medium is content stands under "<medium>_content": (B, axes, 2) float32, of each axis of its
raw shape from where to where, as shares in [0, 1]. It is there only where a sample of the batch is padded.

Letters: B samples, D width of a prompt token.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.modalities import Content
from codi.types import Modality
from codi.world import Scene, caption
from data.captions import parts_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Mapping[str, Any]):
    """B samples, and what is known of them; as a mapping, whatever it has, by name.

    Attributes:
        index: the places of the samples in the order of their source.
        named: media or latents by their modality ("audio": (B, ...)), prompt tokens ("audio_token": (B, D)),
            which samples have a medium ("audio_mask": (B,) boolean), and one caption of each ("text").
        scenes: the scenes that the samples show; None for samples from files.
        rows: for samples from files {"id", "captions"} of each, with "parts" where the row lists those of its
            caption, and "said", the parts that "text" says, where captions are changed; None for scenes, and
            where both are mixed.
    """

    index: list[int] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    scenes: list[Scene] | None = None
    rows: list[dict[str, Any]] | None = None

    @property
    def ids(self) -> list[str] | None:
        """The names of the samples, where they come from files; else None."""
        return None if self.rows is None else [row["id"] for row in self.rows]

    def captions(self, rng: np.random.Generator | None = None) -> list[str]:
        """Return a sentence for each sample that says all there is to say of it.

        Args:
            rng: draws the words; without it the first template is used, with the first words.

        Returns:
            For a scene a sentence that names every fact, for a row of files its caption.
        """
        if self.scenes is not None:
            return [caption(scene, rng=rng) for scene in self.scenes]
        return self.named["text"]

    def paraphrases(self) -> list[str]:
        """Return another caption of the same row for each caption, or the same where there is no other."""
        if self.rows is None:
            return self.named["text"]
        return [_other(text, row) for text, row in zip(self.named["text"], self.rows)]

    def equal_captions(self) -> Tensor:
        """Return (B, B) boolean: whether samples i and j are the same, or what is said of one fits the other.

        That is so where they have the same words, or rows have a caption in common, or where of a caption
        only parts are said that the other's has as well.
        """
        names = self.ids or self.index
        rows = self.rows or [{"captions": []}] * len(names)
        groups: dict[tuple[str, Any], list[int]] = {}
        for place, (name, text, row) in enumerate(zip(names, self.named["text"], rows)):
            keys = [("name", name), ("text", text), *(("caption", said) for said in row["captions"])]
            for key in dict.fromkeys(keys):
                groups.setdefault(key, []).append(place)
        found = torch.eye(len(names), dtype=torch.bool)
        for group in groups.values():
            places = torch.tensor(group)
            found[places[:, None], places] = True
        told = [(i, set(row["said"])) for i, row in enumerate(rows) if row.get("said")]
        known = [[_parts(caption, row) for caption in row["captions"]] for row in rows] if told else []
        for i, said in told:
            for j, parts in enumerate(known):
                if any(map(said.issubset, parts)):
                    found[i, j] = found[j, i] = True
        return found

    def content_of(self, modality: Modality) -> Tensor | None:
        """Return what of a medium is content, (B, axes, 2); None where no sample is padded."""
        found: Tensor | None = self.named.get(f"{modality}_content")
        return found

    def facts(self) -> list[dict[str, Any]]:
        """Return what a latent cache keeps of each sample beside its latents.

        Returns:
            Plain JSON for each sample: its scene, or the id and the captions of its row, with the content of
            its padded media.
        """
        if self.scenes is not None:
            return [dataclasses.asdict(scene) for scene in self.scenes]
        assert self.rows is not None, "a batch is of scenes or of rows"
        facts = [{key: value for key, value in row.items() if key != "said"} for row in self.rows]
        for name, content in self.named.items():
            if not name.endswith("_content"):
                continue
            for fact, own in zip(facts, content.tolist()):
                fact.setdefault("content", {})[name.removesuffix("_content")] = own
        return facts

    def first(self, count: int) -> "Batch":
        """Return the first `count` samples as a batch."""
        return Batch(
            index=self.index[:count],
            named={name: value[:count] for name, value in self.named.items()},
            scenes=None if self.scenes is None else self.scenes[:count],
            rows=None if self.rows is None else self.rows[:count],
        )

    def with_named(self, **named: Any) -> "Batch":
        """Return the batch with these media, latents or tokens added, or in place of those that it has."""
        return dataclasses.replace(self, named={**self.named, **named})

    def __or__(self, other: "Batch") -> "Batch":
        """Return a batch with all that either has of the same samples; `other` wins where both have it."""
        return Batch(
            index=other.index or self.index,
            named={**self.named, **other.named},
            scenes=self.scenes if other.scenes is None else other.scenes,
            rows=self.rows if other.rows is None else other.rows,
        )

    def _all(self) -> dict[str, Any]:
        about = {"index": self.index, "scenes": self.scenes, "ids": self.ids, "rows": self.rows}
        return {name: value for name, value in about.items() if value is not None} | self.named

    def __getitem__(self, name: str) -> Any:
        return self.named[name] if name in self.named else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _other(text: str, row: Mapping[str, Any]) -> str:
    """Return the caption that follows `text` in a row's captions, or `text` where it is none of them.

    Of words that were made of a caption, that caption is followed.
    """
    captions = row["captions"]
    if "said" in row:
        said = set(row["said"])
        text = next((caption for caption in captions if said <= _parts(caption, row)), text)
    return captions[(captions.index(text) + 1) % len(captions)] if text in captions else text


def _parts(caption: str, row: Mapping[str, Any]) -> set[str]:
    return set(row.get("parts") or parts_of(caption))


def content_of(padded: Sequence[Content | None], shape: tuple[int, ...]) -> Tensor:
    """Return what of several samples is content, as a batch has it.

    Args:
        padded: of each sample from where to where each axis is content; None for a whole one.
        shape: the raw shape of a sample.

    Returns:
        float32 (B, axes, 2), shares in [0, 1].
    """
    whole = tuple((0, length) for length in shape)
    lengths = torch.tensor(shape, dtype=torch.float64)[:, None]
    return (torch.tensor([own or whole for own in padded], dtype=torch.float64) / lengths).float()
