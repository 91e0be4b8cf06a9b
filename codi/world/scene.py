"""A scene is a handful of named facts; from it follow the image, the video, the sound and the caption.

The facts, their order and the pairs held out from training are the contract of the world: datasets, benchmark
and embedded weights all depend on them.

Letters: B scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codi.types import InputError, Modality

SHAPES = ("ball", "box", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
PLACES = ("night", "snow", "grass", "sand")
MOTIONS = ("bounce", "swing", "pulse", "blink")
TEMPOS = ("slow", "fast")

ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "place": PLACES, "motion": MOTIONS, "tempo": TEMPOS}

# What each modality can show of a scene.
VISIBLE: dict[Modality, tuple[str, ...]] = {
    Modality.TEXT: tuple(ATTRIBUTES),
    Modality.IMAGE: ("shape", "colour", "place"),
    Modality.AUDIO: tuple(ATTRIBUTES),
    Modality.VIDEO: tuple(ATTRIBUTES),
}

START_RANGE = (0.15, 0.50)  # seconds
X_RANGE = (0.3, 0.7)  # of the width


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene; a value outside the tables raises `InputError`.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        place: one of `PLACES`.
        motion: one of `MOTIONS`.
        tempo: one of `TEMPOS`.
        start: seconds of the first event, in `START_RANGE`; a swing turns at even intervals before it, too.
            Never named in a caption.
        x: the column of a bouncing object in parts of the width, in `X_RANGE`. Never named in a caption.
        seed: the seed of the noise that its place makes. Never named in a caption.
    """

    shape: str
    colour: str
    place: str
    motion: str
    tempo: str
    start: float
    x: float
    seed: int

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"unknown {name} {getattr(self, name)!r}: expected one of {', '.join(values)}"
                )

    @property
    def facts(self) -> dict[str, str]:
        """The five facts that a caption may name."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def indices(scenes: Sequence[Scene], attribute: str) -> np.ndarray:
    """Return the position of every scene's value in the table of `attribute`, (B,) integers."""
    values = ATTRIBUTES[attribute]
    return np.array([values.index(getattr(s, attribute)) for s in scenes], dtype=np.int64)


def column(scenes: Sequence[Scene], name: str) -> np.ndarray:
    """Return the number `name` ("start" or "x") of every scene, (B,) float64."""
    return np.array([getattr(s, name) for s in scenes], dtype=np.float64)


def is_held_out(scene: Scene) -> bool:
    """Return whether the scene's pair of shape and colour is kept from training, in every modality."""
    return (3 * SHAPES.index(scene.shape) + COLOURS.index(scene.colour)) % len(COLOURS) == 0


def sample_scene(rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """Draw a scene uniformly.

    Args:
        rng: the generator.
        held_out: False draws from the scenes of training, True from those held out, None from all.

    Returns:
        the scene.
    """
    while True:
        facts = {name: values[rng.integers(len(values))] for name, values in ATTRIBUTES.items()}
        scene = Scene(
            **facts,
            start=rng.uniform(*START_RANGE),
            x=rng.uniform(*X_RANGE),
            seed=int(rng.integers(2**31 - 1)),
        )
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def sample_scenes(n: int, seed: int, held_out: bool | None = False) -> list[Scene]:
    """Draw scenes uniformly; they are a pure function of the arguments.

    Args:
        n: how many.
        seed: the seed of the generator.
        held_out: False draws from the scenes of training, True from those held out, None from all.

    Returns:
        n scenes.
    """
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out) for _ in range(n)]
