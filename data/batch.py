"""The batch that every source of scenes or files gives.

Letters: B samples, D width of a prompt token.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.world import Scene, caption


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Mapping[str, Any]):
    """B samples, and what is known of them; as a mapping, whatever it has, by name.

    Attributes:
        index: the places of the samples in the order of their source.
        named: media or latents by their modality ("audio": (B, ...)), prompt tokens ("audio_token": (B, D)),
            which samples have a medium ("audio_mask": (B,) boolean), and one caption of each ("text").
        scenes: the scenes that the samples show; None for samples from files.
        rows: for samples from files {"id", "captions"} of each; None for scenes, and where both are mixed.
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
        return [_other(text, row["captions"]) for text, row in zip(self.named["text"], self.rows)]

    def equal_captions(self) -> Tensor:
        """Return (B, B) float: 1 where samples i and j are the same or have the same caption, else 0."""
        captions = list(zip(self.ids or self.index, self.named["text"]))
        table = []
        for row, text in captions:
            table.append([float(row == other_row or text == other) for other_row, other in captions])
        return torch.tensor(table)

    def facts(self) -> list[dict[str, Any]]:
        """Return what a latent cache keeps of each sample beside its latents.

        Returns:
            Plain JSON for each sample: its scene, or the id and the captions of its row.
        """
        if self.scenes is not None:
            return [dataclasses.asdict(scene) for scene in self.scenes]
        assert self.rows is not None, "a batch is of scenes or of rows"
        return self.rows

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


def _other(text: str, captions: list[str]) -> str:
    """Return the caption that follows `text` in a row's captions, or `text` where it is none of them."""
    return captions[(captions.index(text) + 1) % len(captions)] if text in captions else text
