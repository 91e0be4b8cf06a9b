"""Say what the benchmark generates.

A `Run` is one choice of inputs, outputs and seeds over scenes. What the probes read from its outputs is kept
on disk, and everything that the report says is computed from these readings, so that a finished run is never
generated twice. Scenes and seeds of a run do not depend on how many there are: the first scenes of a long run
are those of a short one.

Letters: B batch, F frames, H W height and width in pixels, S samples of a sound.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codi import world
from codi.modalities import in_words
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, Reading, Scene, sample_scene

Media = dict[Modality, Any]  # image (B, 3, H, W), video (B, F, 3, H, W) uint8; audio (B, S); text list
Readings = dict[Modality, list[Reading]]
Batches = Iterator[tuple[Readings, Media]]
Sampler = Callable[["Run", list[Scene], list[int]], Media]  # (run, scenes, one seed per scene) -> its outputs

# Sources of the outputs of a run.
MODEL = "model"
TRUTH = "truth"
AUTOENCODER = "autoencoder"
SHOWN = 3  # samples of a run kept as media, for the contact sheet
SAMPLING_RATE = 16000  # of the world's sounds, Hz
# What one sample costs the embedded model, in about hundredths of a second of one core. Only the progress bar
# uses it; no number of a report depends on it.
COST = {Modality.TEXT: 6, Modality.IMAGE: 12, Modality.AUDIO: 36, Modality.VIDEO: 110}
OTHER_COST = 36  # of a modality that codi does not bring


@dataclass(frozen=True, kw_only=True)
class Run:
    """Describe one thing to make for every scene.

    Attributes:
        inputs: the modalities of the prompts. One modality twice is two prompts, the second in other words.
        outputs: the modalities to generate.
        facts: the attributes that a text prompt names; None is everything that a caption can say.
        held_out: whether the scenes are shape-colour pairs that training never showed.
        draw: which of several independent sets of seeds is used.
        source: where the outputs come from. MODEL generates them, TRUTH takes the scenes themselves,
            AUTOENCODER the scenes through the autoencoders.
        delay: the seconds by which the sound of the scenes themselves comes late.
        weights: one weight for each input; None is equal weights.
        rival: whether the last prompt describes another scene, with which no attribute agrees.
        turned: whether prompts are mixed in the opposite order.
        sync: whether inputs with a time axis stand in the loop as clean partners where an output has one.
        sync_guidance: the sync guidance scale; None is that of the benchmark.
        candidates: how many are drawn for each sample, of which selection keeps one.
        deaf: an output that attends to no partner, though the others attend to it.
        in_step: whether all outputs are at one timestep, whatever start offsets the model has.
        led: whether an auxiliary caption may be generated beside several outputs, as the model does by
            default.
    """

    inputs: tuple[Modality, ...]
    outputs: tuple[Modality, ...]
    facts: tuple[str, ...] | None = None
    held_out: bool = False
    draw: int = 0
    source: str = MODEL
    delay: float = 0.0
    weights: tuple[float, ...] | None = None
    rival: bool = False
    turned: bool = False
    sync: bool = True
    sync_guidance: float | None = None
    candidates: int = 1
    deaf: Modality | None = None
    in_step: bool = False
    led: bool = True

    @property
    def name(self) -> str:
        """A name that is different for different runs."""
        facts = "" if self.facts is None else f"[{','.join(self.facts)}]"
        name = f"{join(self.inputs) or self.source}{facts}->{join(self.outputs)}"
        if self.held_out:
            name += "!"
        for tag in self._tags():
            name += f"@{tag}"
        if self.draw:
            name += f"~{self.draw}"
        return name

    def _tags(self) -> list[str]:
        """Return what sets the run apart from an ordinary call, for its name."""
        special = {
            f"delay {self.delay:g}": self.delay,
            "rival": self.rival,
            "turned": self.turned,
            "no sync": not self.sync,
            f"candidates {self.candidates}": self.candidates > 1,
            f"deaf {self.deaf}": self.deaf is not None,
            "in step": self.in_step,
            "no lead": not self.led,
        }
        tags = [tag for tag, there in special.items() if there]
        if self.weights is not None:
            tags.append("weights " + ",".join(f"{weight:g}" for weight in self.weights))
        if self.sync_guidance is not None:
            tags.append(f"sync guidance {self.sync_guidance:g}")
        return tags

    @property
    def cost(self) -> int:
        """The cost of one of its samples, in the unit of `COST`."""
        weight = self.candidates if self.source == MODEL else 0.2
        return max(1, round(weight * sum(COST.get(m, OTHER_COST) for m in self.outputs)))

    @property
    def plain(self) -> bool:
        """Return whether this is a call as a user makes it, without anything that only controls have."""
        return (
            self.source == MODEL
            and self.facts is None
            and self.draw == 0
            and not self.held_out
            and not self._tags()
        )

    def redrawn(self, draw: int) -> "Run":
        """Return the same run with another set of seeds."""
        return replace(self, draw=draw)


def join(modalities: tuple[Modality, ...]) -> str:
    """Return the names of modalities, joined as in the name of a cell."""
    return "+".join(m.value for m in modalities)


def parse_cell(text: str) -> Run:
    """Parse the name of a cell into a run.

    Args:
        text: inputs and outputs, such as `text+audio->video`.

    Returns:
        The run, its modalities in the order of `Modality`.

    Raises:
        InputError: a text of another form, an unknown modality, or one that is named twice on a side.
    """
    parts = text.split("->")
    if len(parts) != 2 or not parts[0].strip() or not parts[1].strip():
        raise InputError(f"cell {text!r} is not of the form inputs->outputs, such as text+audio->video")
    inputs = _named(parts[0])
    outputs = _named(parts[1])
    return Run(inputs=_ordered(inputs, text), outputs=_ordered(outputs, text))


def _named(side: str) -> list[Modality]:
    """Return the modalities that one side of a cell names."""
    return [Modality.parse(name) for name in side.split("+")]


def _ordered(modalities: list[Modality], text: str) -> tuple[Modality, ...]:
    """Return one side of a cell in the order of `Modality`, after a check that it names each once."""
    if len(set(modalities)) < len(modalities):
        raise InputError(f"cell {text!r} names a modality twice on one side: name each once")
    return tuple(m for m in Modality if m in modalities)


def seeds_of(run: Run, count: int, seed: int) -> list[int]:
    """Return one seed for each scene, different in every set of seeds."""
    return [seed * 1_000_003 + run.draw * 65_537 + i for i in range(count)]


def render(modality: Modality, scenes: list[Scene]) -> Any:
    """Return ground truth of one modality for a batch of scenes."""
    if in_words(modality):
        return list(map(world.caption, scenes))
    return world.RENDERERS[modality](scenes)


def read(modality: Modality, media: Any) -> list[Reading]:
    """Return what the probe of a modality reads from a batch of its media."""
    return world.READERS[modality](media)


def facts_read(rows: list[Reading]) -> list[dict[str, str | None]]:
    """Return the facts alone of several readings."""
    return [reading.facts for reading in rows]


def rival_of(scene: Scene) -> Scene:
    """Draw a scene of training that differs from `scene` in every attribute.

    A result that follows one of the two therefore does not follow the other. The same scene always gets the
    same rival.
    """
    rng = np.random.default_rng(scene.seed)
    # A random scene differs in every attribute often enough that drawing again is simplest.
    while True:
        other = sample_scene(rng)
        if all(getattr(other, a) != getattr(scene, a) for a in ATTRIBUTES):
            return other


def prompts_of(run: Run, scenes: list[Scene]) -> list[tuple[Modality, Any]]:
    """Return the prompts of a run, one column for each input.

    Args:
        run: the run.
        scenes: the scenes of a batch.

    Returns:
        Pairs of a modality and its captions, pictures, sounds or clips, one for each scene.
    """
    columns: list[tuple[Modality, Any]] = []
    for k, modality in enumerate(run.inputs):
        described = scenes
        if run.rival and k == len(run.inputs) - 1:
            described = [rival_of(scene) for scene in scenes]
        if in_words(modality):
            again = modality in run.inputs[:k]
            columns.append((modality, _captions(described, run.facts, again)))
        else:
            columns.append((modality, render(modality, described)))
    return columns


def _captions(scenes: list[Scene], facts: tuple[str, ...] | None, again: bool) -> list[str]:
    """Return the canonical sentences of scenes, or with `again` the same in other words.

    A second sentence is worded differently because nobody gives one prompt twice.
    """
    names = tuple(ATTRIBUTES) if facts is None else facts
    sentences = []
    for scene in scenes:
        rng = np.random.default_rng(scene.seed) if again else None
        sentences.append(world.caption(scene, facts=names, rng=rng))
    return sentences


def truth_sampler(run: Run, scenes: list[Scene], seeds: list[int]) -> Media:
    """Return the scenes themselves as outputs, which is what a perfect generator would give.

    Args:
        run: the run; its sounds come late by its `delay`.
        scenes: the scenes of a batch.
        seeds: one seed for each scene. They are not used, and make this a sampler as `batches` takes it.

    Returns:
        The media of every output.
    """
    media = {m: render(m, scenes) for m in run.outputs}
    if run.delay:
        media[Modality.AUDIO] = delayed(media[Modality.AUDIO], run.delay)
    return media


def delayed(sounds: Any, seconds: float) -> Any:
    """Return sounds that come late.

    Args:
        sounds: (B, S) at 16 kHz.
        seconds: the length of the silence at the beginning; as much is lost at the end.

    Returns:
        Sounds (B, S).
    """
    late = round(seconds * SAMPLING_RATE)
    moved = sounds.clone().zero_()
    moved[:, late:] = sounds[:, : sounds.shape[1] - late]
    return moved


def batches(
    run: Run, scenes: list[Scene], seed: int, sampler: Sampler, batch_size: int, first: int = 0
) -> Batches:
    """Yield the readings and the media of a run, batch after batch.

    The sampler makes the outputs of `batch_size` scenes at a time, and the probes read them. Scenes before
    `first` are left out, because they were made earlier; the seeds of the others stay the same. `seed` is
    that of the benchmark.
    """
    seeds = seeds_of(run, len(scenes), seed)
    for start in range(first, len(scenes), batch_size):
        part = slice(start, start + batch_size)
        media = sampler(run, scenes[part], seeds[part])
        yield {m: read(m, media[m]) for m in run.outputs}, media


def generate(
    run: Run, scenes: list[Scene], seed: int, sampler: Sampler, batch_size: int
) -> tuple[Readings, Media]:
    """Generate and read a run at once, without a store.

    Args:
        run: the run.
        scenes: all its scenes.
        seed: the seed of the benchmark.
        sampler: a function that makes the outputs of a batch.
        batch_size: the number of scenes in a batch.

    Returns:
        The readings of all outputs for all scenes, and the media of the first few.
    """
    readings: Readings = {m: [] for m in run.outputs}
    shown: Media = {}
    for made, media in batches(run, scenes, seed, sampler, batch_size):
        for m in run.outputs:
            readings[m] += made[m]
        if not shown:
            shown = {m: items[:SHOWN] for m, items in media.items()}
    return readings, shown
