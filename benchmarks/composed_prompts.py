"""How well frozen models that others published take prompts of other modalities, in the world.

    python -m benchmarks.composed_prompts --models out/picture --translators out/prompt_translators
    python -m benchmarks.composed_prompts --models models/sd15 --translators out/translators --prompts 0
    python -m benchmarks.composed_prompts --clips out/clip --translators out/prompt_translators

For every model two tables, by kind of prompt. Prompts go through the prompt translators: the text tower's
token of a sentence, pictures, sounds, clips, a picture and a sound together; beside them stands what the
prompt of another scene gives.

- error: how far the frozen network's answers are from those to the model's own text (0) on the way to those
  to no text at all (1), over random latents and all timesteps. The text names what the prompt shows.
- agreement: the share of facts that the world's evaluators read in what is generated, of those that prompt
  and output both show, and that of each fact; the mark is the model's own text prompt of these facts.
  `--prompts 0` leaves it out.

A clip costs as much as all of its frames. Clip models are therefore measured where `--clips` names them, over
few scenes, and with arguments of their own. The readers take clips of 8 frames per second.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured of a model.

    Attributes:
        errors: scenes over which the error is measured.
        prompts: scenes from which media are made and read; 0 for none.
        steps: denoising steps of these.
        guidance: their guidance scale; None for the pipeline's own.
    """

    errors: int
    prompts: int
    steps: int
    guidance: float | None


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


def agreement(
    modality: Modality, media: Tensor, scenes: list[Scene], names: Sequence[str]
) -> dict[str, float]:
    """Return for each of the named facts in how many of the media in [-1, 1] it is read as in their scene."""
    if media.ndim > 3:
        raw = ((media.clamp(-1, 1) + 1) * 127.5).round().byte()
    else:  # sounds, perhaps of several channels
        raw = media.mean(1) if media.ndim == 3 else media
    readings = READERS[modality](raw)
    found = {}
    for name in names:
        hits = [r.facts[name] == getattr(scene, name) for r, scene in zip(readings, scenes, strict=True)]
        found[name] = float(np.mean(hits))
    return found


def mean(shares: Mapping[str, float]) -> float:
    """Return the share of all facts together."""
    return float(np.mean(list(shares.values())))


def shown(kinds: Sequence[Modality]) -> list[str]:
    """Return the facts that any of some modalities shows."""
    return [name for name in VISIBLE[Modality.VIDEO] if any(name in VISIBLE[kind] for kind in kinds)]


def measure(model: ForeignModel, text: CoDiPipeline, translators: PromptTranslators, amount: Amount) -> None:
    """Print both tables of one model."""
    ways: list[tuple[Modality, ...]] = [(m,) for m in Modality if m in text.model.towers]
    ways.append((Modality.IMAGE, Modality.AUDIO))
    print(f"{model.modality} {model.name}")
    scenes = sample_scenes(amount.errors, 31)
    for kinds in ways:
        texts = [caption(scene, shown(kinds)) for scene in scenes]
        token = tokens_of(text, scenes, kinds)
        own = error(model, translators, token, texts)
        other = error(model, translators, token.roll(1, 0), texts)
        print(f"  error {'+'.join(kinds):12s} {own:.3f}   another's {other:.3f}", flush=True)
    scenes = sample_scenes(amount.prompts, 41) if amount.prompts else []
    for kinds in ways if scenes else []:
        began = time.time()
        row = read_back(model, translators, scenes, kinds, tokens_of(text, scenes, kinds), amount)
        print(f"  agreement {'+'.join(kinds):12s} {row}   {time.time() - began:.0f} s", flush=True)


def read_back(
    model: ForeignModel,
    translators: PromptTranslators,
    scenes: list[Scene],
    kinds: Sequence[Modality],
    token: Tensor,
    amount: Amount,
) -> str:
    """Return what is read in media that a model makes of prompts of these kinds, beside its own texts.

    Args:
        model: the model.
        translators: what translates the prompts.
        scenes: N scenes.
        kinds: what the prompts are.
        token: (N, 1, D) the prompts.
        amount: how media are made.
    """
    modality = model.modality
    names = [name for name in shown(kinds) if name in VISIBLE[modality]]
    texts = [caption(scene, shown(kinds)) for scene in scenes]

    def translated(prompt: NativePrompt, rows: slice) -> NativePrompt:
        return translators.translate(modality, token[rows], prompt)

    by_text = generate(model, texts, amount.steps, amount.guidance, lambda prompt, rows: prompt)
    media = generate(model, texts, amount.steps, amount.guidance, translated)
    mark = mean(agreement(modality, by_text, scenes, names))
    found = agreement(modality, media, scenes, names)
    another = mean(agreement(modality, media, scenes[1:] + scenes[:1], names))
    each = ", ".join(f"{name} {share:.2f}" for name, share in found.items())
    ratio = f"{mean(found) / mark:.2f}" if mark else "-"
    return f"{mean(found):.3f}   own text {mark:.3f}   ratio {ratio}   another's {another:.3f}   {each}"


def load(source: str, call: dict[str, Any]) -> ForeignModel:
    """Return the published model of a folder."""
    from diffusers import DiffusionPipeline

    return ForeignModel(pipeline=DiffusionPipeline.from_pretrained(source), call=call, name=source)


def parse_call(pairs: Sequence[str]) -> dict[str, Any]:
    """Return arguments of calls from NAME=NUMBER."""
    call: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        call[name] = float(value) if "." in value else int(value)
    return call


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], metavar="FOLDER", help="folders of pipelines")
    parser.add_argument("--clips", nargs="+", default=[], metavar="FOLDER", help="folders of clip pipelines")
    parser.add_argument("--translators", type=Path, required=True, help="the folder of prompt translators")
    parser.add_argument("--call", nargs="*", default=[], metavar="NAME=NUMBER", help="arguments of the calls")
    parser.add_argument(
        "--clip-call", nargs="*", default=[], metavar="NAME=NUMBER", help="those of clip pipelines"
    )
    parser.add_argument("--prompts", type=int, default=32, help="scenes (default: %(default)s)")
    parser.add_argument(
        "--clip-scenes",
        type=int,
        default=8,
        help="scenes of clip models, of both tables (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=20, help="steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the pipeline's)")
    asked = parser.parse_args(argv)
    if not asked.models and not asked.clips:
        parser.error("nothing to measure: expected folders of pipelines (--models, --clips)")
    if asked.clip_scenes < 1 or asked.prompts < 0:
        parser.error("expected --clip-scenes of at least 1, and --prompts of at least 0")
    return asked


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line names."""
    asked = parse(argv)
    text = CoDiPipeline.from_pretrained()
    translators = PromptTranslators.from_pretrained(asked.translators)
    made = {"steps": asked.steps, "guidance": asked.guidance}
    for source in asked.models:
        model = load(source, parse_call(asked.call))
        measure(model, text, translators, Amount(errors=ERRORS, prompts=asked.prompts, **made))
    few = asked.clip_scenes
    for source in asked.clips:
        model = load(source, parse_call(asked.clip_call))
        measure(model, text, translators, Amount(errors=few, prompts=few if asked.prompts else 0, **made))


if __name__ == "__main__":
    main()
