"""How well frozen models that others published take prompts of other modalities, in the world.

    python -m benchmarks.composed_prompts --models out/picture --translators out/prompt_translators --guidance 3
    python -m benchmarks.composed_prompts --models models/sd15 --translators out/prompt_translators --prompts 0

For every model two tables, by kind of prompt: the model's own text, and through prompt translators the text
tower's token of the same text, pictures, sounds, clips, a picture and a sound together, and the prompt of
another scene.

- error: how far the frozen network's answers are from those to the model's own text (0) on the way to those to no
  text at all (1), over random latents and all timesteps. A prompt is held against a text of what it shows.
- agreement: the share of facts, of those that prompt and output both show, that the world's evaluators read in
  what is generated; the model's own text prompt names these facts, and is the mark. `--prompts 0` leaves it out.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi import CoDiPipeline
from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.compose.native_prompt import NativePrompt
from codi.compose.prompt_translators import PromptTranslators
from codi.conditions import PROMPT
from codi.diffusion.guidance import Guidance
from codi.io import to_unit
from codi.joint.sampler import JointSampler
from codi.types import Modality
from codi.world import READERS, RENDERERS, VISIBLE, Scene, caption, sample_scenes

CHUNK = 16  # samples at once
ERRORS = 64  # scenes over which the error is measured
Prompted = tuple[tuple[Modality, ...], Tensor]  # of which modalities, and the tokens (N, 1, D)


@torch.no_grad()
def tokens_of(text: CoDiPipeline, scenes: list[Scene], kinds: Sequence[Modality]) -> Tensor:
    """Return the token (N, 1, D) of each scene, prompted by media of these kinds together."""
    found = []
    for start in range(0, len(scenes), CHUNK):
        part = scenes[start : start + CHUNK]
        embedded = [(kind, embed(text, kind, part)) for kind in kinds]
        for k in range(len(part)):
            found.append(text.mix_prompts([(m, x[k : k + 1]) for m, x in embedded], [1.0] * len(kinds)))
    return torch.cat(found)


def embed(text: CoDiPipeline, kind: Modality, scenes: list[Scene]) -> Tensor:
    """Return the token (N, D) of scenes in one modality, by its tower."""
    if kind not in RENDERERS:
        return text.model.towers[kind].embed([caption(scene) for scene in scenes])
    raw = RENDERERS[kind](scenes)
    return text.model.towers[kind].embed(to_unit(raw) if raw.dtype == torch.uint8 else raw)


def native(model: ForeignModel, texts: Sequence[str]) -> NativePrompt:
    """Return what the pipeline gives its denoiser for texts."""
    scale = 1.0 if model.family.guided else None
    generators = [torch.Generator().manual_seed(0) for _ in texts]
    return model.prepare(texts, num_inference_steps=3, guidance_scale=scale, generators=generators).prompt


def error(model: ForeignModel, translators: PromptTranslators, token: Tensor, texts: list[str]) -> float:
    """Return how far the answers to translated tokens are from those to texts; 1 is that of no text."""
    denoiser = ForeignDenoiser(model, model.form(False, model.call_for()))
    draws = torch.Generator().manual_seed(5)
    found = none = 0.0
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        nothing = native(model, [""] * len(part))
        latent = model.prepare(
            [""] * len(part), num_inference_steps=3, guidance_scale=1.0 if model.family.guided else None
        ).start
        x = torch.randn(latent.shape, generator=draws)
        t = torch.randint(0, 1000, (1,), generator=draws).expand(len(part))
        translated = translators.translate(model.modality, token[start : start + CHUNK], nothing)
        with torch.no_grad():
            wanted, empty, answer = (
                denoiser(x, t, prompt) for prompt in (native(model, part), nothing, translated)
            )
        found += float((answer - wanted).square().sum())
        none += float((empty - wanted).square().sum())
    return found / none


def generate(
    model: ForeignModel,
    texts: list[str],
    steps: int,
    guidance: float | None,
    change: Callable[[NativePrompt, slice], NativePrompt],
) -> Tensor:
    """Return media in [-1, 1] for texts, their native prompts changed by `change`."""
    found = []
    modality = model.modality
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        generators = [torch.Generator().manual_seed(start + k) for k in range(len(part))]
        prepared = model.prepare(part, None, steps, guidance, generators)
        prompt = change(prepared.prompt, slice(start, start + CHUNK))
        guided = prepared.null is not None
        scale = model.guidance_scale(guidance) if guided else 1.0
        sampler = JointSampler(
            denoisers={modality: ForeignDenoiser(model, model.form(guided, prepared.call))},
            schedulers={modality: prepared.scheduler},
            contexts={modality: prompt},
            null_contexts={modality: prepared.null} if guided else None,
            guidance={modality: Guidance(scales={PROMPT.name: scale})},
            generators={modality: generators},
            levels={modality: model.levels},
        )
        with torch.no_grad():
            found.append(model.decode(sampler.sample({modality: prepared.start})[modality]))
    return torch.cat(found)


def agreement(modality: Modality, media: Tensor, scenes: list[Scene], names: Sequence[str]) -> float:
    """Return the share of the named facts of scenes that are read in media in [-1, 1]."""
    if media.ndim > 3:
        raw = ((media.clamp(-1, 1) + 1) * 127.5).round().byte()
    else:  # sounds, perhaps of several channels
        raw = media.mean(1) if media.ndim == 3 else media
    hits = [
        reading.facts[name] == getattr(scene, name)
        for reading, scene in zip(READERS[modality](raw), scenes, strict=True)
        for name in names
    ]
    return float(np.mean(hits))


def shown(kinds: Sequence[Modality]) -> list[str]:
    """Return the facts that any of some modalities shows."""
    return [name for name in VISIBLE[Modality.VIDEO] if any(name in VISIBLE[kind] for kind in kinds)]


def measure(asked: argparse.Namespace, model: ForeignModel, text: CoDiPipeline) -> None:
    """Print both tables of one model."""
    modality = model.modality
    translators = PromptTranslators.from_pretrained(asked.translators)
    ways: list[tuple[Modality, ...]] = [(m,) for m in Modality if m in text.model.towers]
    ways.append((Modality.IMAGE, Modality.AUDIO))
    print(f"{modality} {model.name}")
    scenes = sample_scenes(ERRORS, 31)
    for kinds in ways:
        texts = [caption(scene, shown(kinds)) for scene in scenes]
        token = tokens_of(text, scenes, kinds)
        own = error(model, translators, token, texts)
        other = error(model, translators, token.roll(1, 0), texts)
        print(f"  error {'+'.join(kinds):12s} {own:.3f}   another's {other:.3f}", flush=True)
    if not asked.prompts:
        return
    scenes = sample_scenes(asked.prompts, 41)
    for kinds in ways:
        names = [name for name in shown(kinds) if name in VISIBLE[modality]]
        texts = [caption(scene, shown(kinds)) for scene in scenes]
        token = tokens_of(text, scenes, kinds)

        def translated(prompt: NativePrompt, rows: slice, token: Tensor = token) -> NativePrompt:
            return translators.translate(modality, token[rows], prompt)

        scores = []
        began = time.time()
        for change in (lambda prompt, rows: prompt, translated):
            media = generate(model, texts, asked.steps, asked.guidance, change)
            scores.append(agreement(modality, media, scenes, names))
        mark, found = scores
        another = agreement(modality, media, scenes[1:] + scenes[:1], names)
        print(
            f"  agreement {'+'.join(kinds):12s} {found:.3f}   own text {mark:.3f}   ratio {found / mark:.2f}   "
            f"another's {another:.3f}   {', '.join(names)}   {time.time() - began:.0f} s",
            flush=True,
        )


def load(source: str, call: dict[str, Any]) -> ForeignModel:
    """Return the published model of a folder."""
    from diffusers import DiffusionPipeline

    return ForeignModel(pipeline=DiffusionPipeline.from_pretrained(source), call=call, name=source)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="FOLDER", help="folders of pipelines")
    parser.add_argument("--translators", type=Path, required=True, help="the folder of prompt translators")
    parser.add_argument("--call", nargs="*", default=[], metavar="NAME=NUMBER", help="arguments of the calls")
    parser.add_argument("--prompts", type=int, default=32, help="scenes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the pipeline's)")
    asked = parser.parse_args()
    call = {}
    for pair in asked.call:
        name, _, value = pair.partition("=")
        call[name] = float(value) if "." in value else int(value)
    text = CoDiPipeline.from_pretrained()
    for source in asked.models:
        model = load(source, call)
        measure(asked, model, text)


if __name__ == "__main__":
    main()
