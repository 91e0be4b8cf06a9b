"""Measures a composed model of the world: who keeps time with whom, and what outputs agree on.

    python measure.py MY-CODI [--scenes 64] [--steps 20] [--batch 16] [--parts attention|estimates|both]

Onsets are read by the world's own evaluators, and F1 is at 125 ms, one frame of a clip. Beside every figure
stand its ceiling, true media through the models' own autoencoders, and its floors: the same generation with
partners that know nothing of each other (independent), and with another sample's partner (shuffled). By
--parts outputs hear of each other through joint attention alone, through partner estimates alone, or through
both. Every scene is unseen; held-out pairs of shape and colour are left out, as they were in training.
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi import CoDiPipeline, io
from codi.metrics.agreement import mutual_agreement
from codi.metrics.onsets import onset_f1
from codi.types import InputError, Modality
from codi.world import READERS, RENDERERS, VISIBLE, Reading, Scene, caption, sample_scenes

SEED = 9_000  # of the scenes, which no training has seen
TOLERANCE = 0.125  # seconds
IMAGE, AUDIO, VIDEO = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO


def read(modality: Modality, media: Any) -> list[Reading]:
    """Return what the world's evaluators read in media of one modality, a list or a batch."""
    return READERS[modality](media if isinstance(media, Tensor) else torch.stack(list(media)))


def events(readings: Sequence[Reading]) -> list[np.ndarray]:
    """Return the onsets of each sample in seconds."""
    return [reading.events for reading in readings]


def score(found: list[np.ndarray], true: list[np.ndarray]) -> tuple[float, float]:
    """Return the F1 of onsets, and that against another sample's."""
    moved = true[1:] + true[:1]
    return onset_f1(found, true, TOLERANCE).f1, onset_f1(found, moved, TOLERANCE).f1


# The parts of a composed model by which outputs hear of each other, by what --parts calls them.
PARTS = {
    "attention": ("joint_adapters", "environment_encoders"),
    "estimates": ("noisy_latent_encoders",),
}


def check_parts(pipe: Any, parts: str) -> None:
    """Raise `InputError` if a composed model lacks what a choice of --parts needs.

    Args:
        pipe: the composed model.
        parts: "attention", "estimates", or "both".
    """
    for way, names in PARTS.items():
        lacking = [name for name in names if getattr(pipe, name) is None]
        if lacking and parts in (way, "both"):
            raise InputError(f"--parts {parts}: the model has no {lacking[0]}: train it first (README.md)")
    if parts in ("estimates", "both") and not any(m in pipe.models for m in pipe.estimates_from()):
        raise InputError(
            f"--parts {parts}: partner estimates reach no prompt: expected a model with a text model, prompt "
            "translators and a partner_estimate_weight above 0"
        )


class Bench:
    """A composed model and the scenes that it is measured on.

    Args:
        folder: the composed model.
        count: the number of scenes.
        steps: the steps of every output; None for each model's own.
        batch: samples made at once.
        sync: the scale of guidance towards partners.
        offset: noise levels by which a sound starts after its clip, where both are made.
        parts: by what outputs hear of each other: "attention", "estimates" or "both"; None for all there is.
    """

    def __init__(
        self,
        folder: str,
        count: int,
        steps: int | None,
        batch: int,
        sync: float,
        offset: float,
        parts: str | None = None,
    ):
        self.pipe: Any = CoDiPipeline.from_pretrained(folder)
        self.pipe.set_progress_bar_config(disable=True)
        if parts is not None:
            check_parts(self.pipe, parts)
            self._take_off(way for way in PARTS if parts not in (way, "both"))
        self.scenes: list[Scene] = sample_scenes(count, seed=SEED)
        self.truth = {m: RENDERERS[m](self.scenes) for m in (VIDEO, AUDIO)}
        self.settings = dict(num_inference_steps=steps, sync_guidance_scale=sync, output_type="pt")
        self.batch = batch
        self.offset = offset

    def _take_off(self, ways: Iterable[str]) -> dict[str, Any]:
        """Take off the parts of some ways of hearing of each other, and return them by name."""
        taken = {}
        for way in ways:
            for name in PARTS[way]:
                taken[name] = getattr(self.pipe, name)
                setattr(self.pipe, name, None)
        return taken

    def make(
        self,
        texts: Sequence[str],
        outputs: Sequence[Modality],
        given: Modality | None = None,
        joint: bool = True,
        **more: Any,
    ) -> dict[Modality, Any]:
        """Return media of every output for each sentence, beside true media of the modality `given`.

        Args:
            texts: the sentences.
            outputs: what is made of each.
            given: a modality whose true media stand in the loop as clean partners.
            joint: whether outputs hear of each other and of what is given.
            **more: further arguments of the call.

        Returns:
            The media, one for each sentence, by modality.
        """
        made: dict[Modality, list[Any]] = {m: [] for m in outputs}
        taken = {} if joint else self._take_off(PARTS)
        try:
            for first in range(0, len(texts), self.batch):
                rows = range(first, min(first + self.batch, len(texts)))
                partners = {}
                if given is not None and joint:
                    raw = self.truth[given][rows.start : rows.stop]
                    partners = {given: self.pipe.models[given].encode(as_raw(raw))}
                out = self.pipe(
                    prompt_embeds=[self.pipe.encode_prompt(prompts(texts[k])) for k in rows],
                    partner_latents=partners,
                    outputs=list(outputs),
                    num_samples=len(rows),
                    start_offset={AUDIO.value: self.offset} if {VIDEO, AUDIO} <= {*outputs} else None,
                    seed=list(rows),
                    **self.settings,
                    **more,
                )
                for modality in outputs:
                    made[modality] += list(out.of(modality))
        finally:
            for name, part in taken.items():
                setattr(self.pipe, name, part)
        return made

    def through_autoencoder(self, modality: Modality) -> list[Reading]:
        """Return what is read in true media after the autoencoder of their model."""
        model = self.pipe.models[modality]
        parts = []
        for media in self.truth[modality].split(self.batch):
            raw = model.decode(model.encode(as_raw(media)))
            parts += read(modality, io.from_unit(raw) if modality is VIDEO else raw.clamp(-1, 1))
        return parts

    def beside_true_media(self) -> list[str]:
        """Return lines on how well a sound keeps time with a true clip, and a clip with a true sound."""
        captions = [caption(scene) for scene in self.scenes]
        true = {m: events(read(m, self.truth[m])) for m in (VIDEO, AUDIO)}
        decoded = {m: events(self.through_autoencoder(m)) for m in (VIDEO, AUDIO)}
        lines = []
        for made, given in ((AUDIO, VIDEO), (VIDEO, AUDIO)):
            ceiling, _ = score(decoded[made], true[made])
            found, floor = score(events(read(made, self.make(captions, [made], given)[made])), true[given])
            alone, _ = score(events(read(made, self.make(captions, [made], joint=False)[made])), true[given])
            lines.append(line(f"{given} -> {made}", found, ceiling, independent=alone, shuffled=floor))
        return lines

    def together(self) -> list[str]:
        """Return lines on how well a sound and a clip that are made together keep time."""
        captions = [caption(scene) for scene in self.scenes]
        decoded = {m: events(self.through_autoencoder(m)) for m in (VIDEO, AUDIO)}
        lines = []
        ceiling, _ = score(decoded[VIDEO], decoded[AUDIO])
        for joint in (True, False):
            both = self.make(captions, [VIDEO, AUDIO], joint=joint)
            found, floor = score(events(read(VIDEO, both[VIDEO])), events(read(AUDIO, both[AUDIO])))
            name = "text -> video + audio" + ("" if joint else ", independent")
            lines.append(line(name, found, ceiling, shuffled=floor))
            lines += self.followed(both, name)
        return lines

    def followed(self, made: dict[Modality, Any], name: str) -> list[str]:
        """Return lines on how many attributes of their captions outputs show."""
        lines = []
        for modality, media in made.items():
            readings = read(modality, media)
            shares = {}
            for attribute in VISIBLE[modality]:
                right = [r.facts[attribute] == s.facts[attribute] for r, s in zip(readings, self.scenes)]
                shares[attribute] = float(np.mean(right))
            shown = "  ".join(f"{key} {value:.2f}" for key, value in shares.items())
            lines.append(f"    {name}, {modality} as its caption says: {shown}")
        return lines

    def agreeing(self, outputs: Sequence[Modality]) -> list[str]:
        """Return lines on what outputs agree on where the prompt, "a ball", leaves it open."""
        texts = ["a ball"] * len(self.scenes)
        lines = []
        for name, more in (("caption drawn first", {}), ("no caption", {"auxiliary_caption": False})):
            if name == "caption drawn first" and not self.pipe.defaults.get("auxiliary_caption"):
                continue
            made = self.make(texts, outputs, **more)
            facts = [[r.facts for r in read(m, made[m])] for m in outputs]
            attributes = [a for a in ("colour", "place", "motion") if all(a in VISIBLE[m] for m in outputs)]
            shown = []
            for attribute, agree in mutual_agreement(facts, attributes).items():
                moved = [facts[0], *(f[k:] + f[:k] for k, f in enumerate(facts[1:], start=1))]
                floor = mutual_agreement(moved, [attribute])[attribute].mean()
                shown.append(f"{attribute} {agree.mean():.2f} ({floor:.2f})")
            lines.append(f'"a ball" -> {" + ".join(outputs)}, {name}: {"  ".join(shown)} (shuffled)')
        return lines


def prompts(text: str) -> dict[Modality, Any]:
    """Return a sentence as the prompts of a call."""
    from codi.prompts import collect

    return collect({Modality.TEXT: text})


def as_raw(media: Tensor) -> Tensor:
    """Return rendered media in [-1, 1]."""
    return io.to_unit(media) if media.dtype == torch.uint8 else media


def line(name: str, found: float, ceiling: float, **floors: float) -> str:
    """Return one figure beside its ceiling and floors."""
    shown = "  ".join(f"{key} {value:.3f}" for key, value in floors.items())
    return f"{name}: F1 {found:.3f}, {found / ceiling:.3f} of the ceiling {ceiling:.3f}; {shown}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a composed model and print the figures."""
    parser = argparse.ArgumentParser(description="Measures a composed model of the world.")
    parser.add_argument("folder", metavar="MY-CODI", help="a composed model")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, help="of every output (default: each model's own)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sync-guidance", type=float, default=1.0)
    parser.add_argument("--only", choices=("time", "together", "agreement"), help="only a part of it")
    parser.add_argument("--start-offset", type=float, default=0.0, help="of a sound after its clip")
    parser.add_argument(
        "--parts",
        choices=(*PARTS, "both"),
        help="by what outputs hear of each other (default: all that the model has)",
    )
    args = parser.parse_args(argv)
    try:
        bench = Bench(
            args.folder,
            args.scenes,
            args.steps,
            args.batch,
            args.sync_guidance,
            args.start_offset,
            args.parts,
        )
    except InputError as error:
        parser.error(str(error))
    if args.only == "together":
        print("\n".join(bench.together()), flush=True)
    if args.only in (None, "time"):
        print("\n".join([*bench.beside_true_media(), *bench.together()]), flush=True)
    if args.only in (None, "agreement"):
        pairs = [[VIDEO, AUDIO]]
        if IMAGE in bench.pipe.models:
            pairs = [[IMAGE, VIDEO], [IMAGE, AUDIO], [VIDEO, AUDIO], [IMAGE, VIDEO, AUDIO]]
        for outputs in pairs:
            print("\n".join(bench.agreeing(outputs)), flush=True)


if __name__ == "__main__":
    main()
