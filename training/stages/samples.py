"""Previews of denoisers in training: samples for fixed captions, made by the pipeline that users run, and
read by the world's probes.
"""

import json
from pathlib import Path

import torch
from torch import nn

from codi.modalities import in_words, kind_of
from codi.models.codi import AUTOENCODERS, DENOISERS
from codi.outputs import FIELDS
from codi.pipeline import CoDiPipeline
from codi.types import Modality
from codi.world import READERS, VISIBLE, parse
from training.stages.common import write_png, write_spectrograms
from training.stages.latents import autoencoder_of, tower_of


def make_pipeline(
    model: Path, denoisers: dict[Modality, nn.Module], environment_encoders: nn.Module | None = None
) -> CoDiPipeline:
    """The pipeline of the parts in the model folder that these denoisers need."""
    from training.stages.denoise import load_defaults, load_scheduler

    parts = {AUTOENCODERS[m]: autoencoder_of(model, m) for m in denoisers}
    parts |= {DENOISERS[m]: module for m, module in denoisers.items()} | {
        "text_tower": tower_of(model, Modality.TEXT)
    }
    pipe = CoDiPipeline(
        scheduler=load_scheduler(model),
        environment_encoders=environment_encoders,
        defaults=load_defaults(model),
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    device = next(next(iter(denoisers.values())).parameters()).device
    return pipe.to(device)


@torch.no_grad()
def write_samples(
    model: Path,
    denoisers: dict[Modality, nn.Module],
    captions: list[str],
    folder: Path,
    environment_encoders: nn.Module | None = None,
    probe: bool = True,
) -> None:
    """One sample per caption: contact sheets (of sounds their spectrograms), sounds, clips, sentences; with
    `probe` which of the named facts of the world the probes find (`agreement.json`).
    """
    from codi.io import save_audio, save_video

    pipe = make_pipeline(model, denoisers, environment_encoders)
    context = pipe.model.towers[Modality.TEXT].embed(captions)[:, None]
    out = pipe(
        outputs=list(denoisers), num_samples=len(captions), seed=0, prompt_embeds=context, output_type="pt"
    )
    if out.images:
        write_png(folder / "images.png", torch.stack(out.images), len(captions))
    if out.videos:
        write_png(folder / "videos.png", torch.cat(out.videos), len(out.videos[0]))
        for number, clip in enumerate(out.videos):
            save_video(folder / f"{number}.mp4", clip.cpu(), float(out.fps))
    if out.audios:
        write_spectrograms(
            folder / "spectrograms.png", pipe.audio_autoencoder.log_mel(torch.stack(out.audios))
        )
        for number, sound in enumerate(out.audios):
            save_audio(folder / f"{number}.wav", sound.cpu(), int(out.sampling_rate))
    if out.texts:
        (folder / "texts.txt").write_text(
            "\n".join(f"{a}\n    {b}" for a, b in zip(captions, out.texts)) + "\n", encoding="utf-8"
        )
    for modality in (m for m in denoisers if m not in READERS):
        for number in range(len(captions)):
            kind_of(modality).write(out, folder / str(number), number)
    if not probe:
        return
    scores = {str(m): agreement(m, getattr(out, FIELDS[m]), captions) for m in denoisers}
    (folder / "agreement.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def agreement(modality: Modality, media: list | torch.Tensor, captions: list[str]) -> dict[str, float]:
    """Share of the captions' facts that the probes find in the media, by attribute."""
    readings = READERS[modality](media if in_words(modality) else torch.stack(media))
    asked = [parse(caption) for caption in captions]
    found: dict[str, list[bool]] = {}
    for facts, reading in zip(asked, readings):
        for name, value in facts.items():
            if value is not None and name in reading.facts:
                found.setdefault(name, []).append(reading.facts[name] == value)
    return {name: sum(hits) / len(hits) for name, hits in found.items() if name in VISIBLE[modality]}
