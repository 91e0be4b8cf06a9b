"""What the benchmark generates. A `Run` is one choice of inputs, outputs and seeds over scenes; what the
probes read is kept on disk.

Everything the report says is computed from readings, so a finished run is never generated twice. Scenes and
seeds of a run do not depend on how many there are: the first scenes of a long run are those of a short one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codi import world
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, Reading, Scene, sample_scene

Media = dict[Modality, Any]  # image (B, 3, H, W), video (B, F, 3, H, W) uint8; audio (B, S); text list
Readings = dict[Modality, list[Reading]]
Batches = Iterator[tuple[Readings, Media]]
Sampler = Callable[["Run", list[Scene], list[int]], Media]  # (run, scenes, one seed per scene) -> its outputs

MODEL, TRUTH, AUTOENCODER = "model", "truth", "autoencoder"  # where the outputs of a run come from
SHOWN = 3  # samples of a run kept as media, for the contact sheet
SAMPLING_RATE = 16000  # of the world's sounds, Hz
# What one sample costs the embedded model, in about hundredths of a second of one core: for the progress bar,
# no number depends on it.
COST = {Modality.TEXT: 6, Modality.IMAGE: 12, Modality.AUDIO: 36, Modality.VIDEO: 110}
_RENDER = {Modality.TEXT: lambda scenes: [world.caption(scene) for scene in scenes], **world.RENDERERS}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One thing to make for every scene.

    inputs         prompts; one modality twice is two prompts, the second in other words
    facts          what a text prompt names; None is everything that a caption can say
    held_out       scenes are shape-colour pairs that training never showed
    draw           which of several independent sets of seeds
    source         MODEL generates; TRUTH gives the scenes themselves; AUTOENCODER the scenes through the
                   autoencoders
    delay          seconds by which the sound of the scenes themselves comes late
    weights        one per input; None: all equal
    rival          the last prompt describes another scene, with which no attribute agrees
    turned         prompts are mixed in the opposite order
    sync           inputs with a clock stand in the loop as clean partners where an output has one
    sync_guidance  instead of the benchmark's own
    candidates     drawn for each sample, of which selection keeps one
    deaf           an output that hears nobody, though the others hear it
    in_step        all outputs at one noise level, whatever delays the model has
    led            a caption that nobody asked for may lead several outputs, as it does unasked
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
        """Different for different runs."""
        facts = "" if self.facts is None else f"[{','.join(self.facts)}]"
        tail = (
            ("!" if self.held_out else "")
            + "".join(f"@{tag}" for tag in self._tags())
            + (f"~{self.draw}" if self.draw else "")
        )
        return f"{join(self.inputs) or self.source}{facts}->{join(self.outputs)}{tail}"

    def _tags(self) -> list[str]:
        """What sets it apart from an ordinary call, for its name."""
        said = {
            f"delay {self.delay:g}": self.delay,
            "rival": self.rival,
            "turned": self.turned,
            "no sync": not self.sync,
            f"candidates {self.candidates}": self.candidates > 1,
            f"deaf {self.deaf}": self.deaf is not None,
            "in step": self.in_step,
            "no lead": not self.led,
        }
        weights = [] if self.weights is None else [f"weights {','.join(f'{w:g}' for w in self.weights)}"]
        guidance = [] if self.sync_guidance is None else [f"sync guidance {self.sync_guidance:g}"]
        return [tag for tag, there in said.items() if there] + weights + guidance

    @property
    def cost(self) -> int:
        """What one of its samples costs, in the unit of `COST`."""
        weight = self.candidates if self.source == MODEL else 0.2
        return max(1, round(weight * sum(COST[m] for m in self.outputs)))

    @property
    def plain(self) -> bool:
        """A call as a user makes it, without anything that only a control has."""
        return (
            self.source == MODEL
            and self.facts is None
            and self.draw == 0
            and not self.held_out
            and not self._tags()
        )

    def redrawn(self, draw: int) -> "Run":
        return replace(self, draw=draw)


def join(modalities: tuple[Modality, ...]) -> str:
    return "+".join(m.value for m in modalities)


def parse_cell(text: str) -> Run:
    """`text+audio->video` as a run. Raises `InputError`."""
    parts = text.split("->")
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise InputError(f"cell {text!r} is not of the form inputs->outputs, such as text+audio->video")
    inputs, outputs = ([Modality.parse(name) for name in part.split("+")] for part in parts)
    return Run(inputs=_ordered(inputs, text), outputs=_ordered(outputs, text))


def _ordered(modalities: list[Modality], text: str) -> tuple[Modality, ...]:
    if len(set(modalities)) < len(modalities):
        raise InputError(f"cell {text!r} names a modality twice on one side: name each once")
    return tuple(m for m in Modality if m in modalities)


def seeds_of(run: Run, count: int, seed: int) -> list[int]:
    """One seed per scene, different for every draw."""
    return [seed * 1_000_003 + run.draw * 65_537 + i for i in range(count)]


def render(modality: Modality, scenes: list[Scene]) -> Any:
    """Ground truth of one modality."""
    return _RENDER[modality](scenes)


def read(modality: Modality, media: Any) -> list[Reading]:
    """What the probe of that modality sees."""
    return world.READERS[modality](media)


def rival_of(scene: Scene) -> Scene:
    """A scene of training with another value of every attribute: whoever follows it does not
    follow `scene`.
    """
    rng = np.random.default_rng(scene.seed)
    while True:
        other = sample_scene(rng)
        if all(getattr(other, a) != getattr(scene, a) for a in ATTRIBUTES):
            return other


def prompts_of(run: Run, scenes: list[Scene]) -> list[tuple[Modality, Any]]:
    """One column of prompts per input: captions, pictures, sounds or clips of every scene."""
    columns = []
    for k, modality in enumerate(run.inputs):
        described = (
            [rival_of(scene) for scene in scenes] if run.rival and k == len(run.inputs) - 1 else scenes
        )
        again = modality in run.inputs[:k]
        columns.append(
            (
                modality,
                _captions(described, run.facts, again)
                if modality is Modality.TEXT
                else render(modality, described),
            )
        )
    return columns


def _captions(scenes: list[Scene], facts: tuple[str, ...] | None, again: bool) -> list[str]:
    """Canonical sentences; `again` in other words, since nobody gives one prompt twice."""
    names = tuple(ATTRIBUTES) if facts is None else facts
    return [
        world.caption(scene, facts=names, rng=np.random.default_rng(scene.seed) if again else None)
        for scene in scenes
    ]


def truth_sampler(run: Run, scenes: list[Scene], seeds: list[int]) -> Media:
    """Outputs that are the scenes themselves: what a perfect generator would give; sounds late by the run's
    delay.
    """
    media = {m: render(m, scenes) for m in run.outputs}
    if run.delay:
        media[Modality.AUDIO] = delayed(media[Modality.AUDIO], run.delay)
    return media


def delayed(sounds: Any, seconds: float) -> Any:
    """Sounds (B, samples) that begin with `seconds` of silence and lose as much at the end."""
    late = round(seconds * SAMPLING_RATE)
    moved = sounds.clone().zero_()
    moved[:, late:] = sounds[:, : sounds.shape[1] - late]
    return moved


def batches(
    run: Run, scenes: list[Scene], seed: int, sampler: Sampler, batch_size: int, first: int = 0
) -> Batches:
    """Readings and media of scenes `first` and on, batch after batch."""
    seeds = seeds_of(run, len(scenes), seed)
    for start in range(first, len(scenes), batch_size):
        part = slice(start, start + batch_size)
        media = sampler(run, scenes[part], seeds[part])
        yield {m: read(m, media[m]) for m in run.outputs}, media


def generate(
    run: Run, scenes: list[Scene], seed: int, sampler: Sampler, batch_size: int
) -> tuple[Readings, Media]:
    """Readings of all outputs for all scenes, and the media of the first few."""
    parts = list(batches(run, scenes, seed, sampler, batch_size))
    readings = {m: [reading for made, _ in parts for reading in made[m]] for m in run.outputs}
    return readings, {m: media[:SHOWN] for m, media in parts[0][1].items()}
