"""The world as a training set: index i is scene i of a seed, rendered in the media that a pair may use.

Letters: B samples, F frames, H height, W width.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from codi.modalities import in_words
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, RENDERERS, VISIBLE, Scene, caption, sample_scene
from data.batch import Batch
from data.source import Source

# The pairs of one scene's media that training may see; a single medium is always allowed.
PAIRS = (
    {Modality.TEXT, Modality.IMAGE},
    {Modality.TEXT, Modality.AUDIO},
    {Modality.TEXT, Modality.VIDEO},
    {Modality.AUDIO, Modality.VIDEO},
)

SHAPE_NAMED = 0.8  # the chance that a prompt which does not name everything names the shape


class SceneSource(Source):
    """An endless source over scenes that are never held out.

    Args:
        render: makes the batch of some scenes, given a generator of each for its own random draws.
        seed: chooses the scenes.
        alike: as in `scene_at`.
    """

    of_world = True

    def __init__(
        self,
        render: Callable[[list[Scene], list[np.random.Generator]], Mapping[str, Any]],
        seed: int,
        alike: int = 1,
    ):
        self.render = render
        self.seed = seed
        self.alike = alike

    def __len__(self) -> int:
        return 2**40

    def fetch(self, indices: list[int]) -> Mapping[str, Any]:
        """Return the batch; every sample is a function of its own index alone, however batches are cut."""
        scenes = [scene_at(self.seed, index, self.alike) for index in indices]
        rngs = [np.random.default_rng((self.seed, index, 1)) for index in indices]
        return self.render(scenes, rngs)


class WorldSource(SceneSource):
    """An endless source over scenes, in one medium or a pair.

    `fetch` gives "index" and "scenes" (lists), and by medium "image" uint8 (B, 3, H, W), "video" uint8 (B, F,
    3, H, W), "audio" float32 (B, samples), "text" list[str]. Every sample is a function of (seed, index)
    alone, whatever its batch.

    Args:
        media: one modality, or a pair of `PAIRS`.
        seed: chooses the scenes and the words.
        facts: what captions may name; None for what all of the media can show.
        full: the share of captions that name all of the facts; in the rest each is named with an even chance.
        transforms: functions by modality that are applied to the batch of that medium, for example
            {"image": codi.io.to_unit}.
        canonical: whether captions are in the first template with the first words, every fact named.

    Raises:
        InputError: if the media are none that training may see together.
    """

    says = ("scenes",)

    def __init__(
        self,
        media: Iterable[str],
        *,
        seed: int,
        facts: Iterable[str] | None = None,
        full: float = 0.5,
        transforms: Mapping[str, Callable[[Any], Any]] | None = None,
        canonical: bool = False,
    ) -> None:
        self.media = tuple(map(Modality.parse, media))
        if len(self.media) != 1 and set(self.media) not in PAIRS:
            named = ", ".join(self.media) or "none"
            raise InputError(
                f"media of one scene: {named}: training sees one alone, text with another, or audio with "
                "video"
            )
        super().__init__(self.media_of, seed)
        self.full = full
        self.canonical = canonical
        self.facts = tuple(facts) if facts is not None else nameable(self.media)
        self.transforms = {Modality.parse(name): transform for name, transform in (transforms or {}).items()}

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this source from others, for a latent cache."""
        return {
            "world": list(self.media),
            "seed": self.seed,
            "facts": list(self.facts),
            "full": self.full,
            "canonical": self.canonical,
        }

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """Return the sentence of a sample, with the sample's own draws."""
        if self.canonical:
            return caption(scene, self.facts)
        return random_caption(scene, self.facts, self.full, rng)

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch of samples `indices`."""
        return dataclasses.replace(super().fetch(indices), index=list(indices))

    def media_of(self, scenes: list[Scene], rngs: list[np.random.Generator]) -> Batch:
        """Return the batch of some scenes: what they look and sound like, and what is said of them."""
        named = {}
        for medium in self.media:
            if in_words(medium):
                raw = [self.caption(scene, rng) for scene, rng in zip(scenes, rngs)]
            else:
                raw = RENDERERS[medium](scenes)
            named[medium.value] = self.transforms.get(medium, _same)(raw)
        return Batch(named=named, scenes=scenes)


def nameable(media: Iterable[Modality]) -> tuple[str, ...]:
    """Return the facts that every one of the media can show."""
    visible = [VISIBLE[m] for m in media]
    return tuple(name for name in ATTRIBUTES if all(name in names for names in visible))


def scene_at(seed: int, index: int, alike: int = 1) -> Scene:
    """Return training scene `index` of a seed, which is never one of the held-out pairs.

    Args:
        seed: chooses the scenes.
        index: the number of the scene.
        alike: the length of a run of scenes. Above 1, in every second run all scenes look like the first
            (shape, colour, place), so that only motion tells them apart.

    Returns:
        The scene.
    """
    scene = sample_scene(np.random.default_rng((seed, index)))
    if alike == 1 or index // alike % 2:
        return scene
    first = sample_scene(np.random.default_rng((seed, index - index % alike)))
    return dataclasses.replace(scene, shape=first.shape, colour=first.colour, place=first.place)


def random_facts(facts: tuple[str, ...], full: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Return all of `facts` with probability `full`; otherwise each with an even chance."""
    if rng.random() < full:
        return facts
    return tuple(name for name in facts if rng.random() < 0.5)


def prompted_facts(facts: tuple[str, ...], full: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Return all of `facts` with probability `full`; otherwise those that people name when they name little.

    That is mostly what the thing is (the shape), and of the rest anything from nothing to all, each with a
    chance that is drawn for this sentence. With even chances "a ball" alone would be one sentence in sixty,
    and what such a prompt leaves open would hardly be learned.
    """
    if rng.random() < full:
        return facts
    chance = rng.random()
    named = []
    for name in facts:
        if rng.random() < (SHAPE_NAMED if name == "shape" else chance):
            named.append(name)
    return tuple(named)


def random_caption(scene: Scene, facts: tuple[str, ...], full: float, rng: np.random.Generator) -> str:
    """Return a random sentence that names all of `facts` with probability `full`, otherwise some of them."""
    return caption(scene, random_facts(facts, full, rng), rng)


def _same(raw: Any) -> Any:
    return raw
