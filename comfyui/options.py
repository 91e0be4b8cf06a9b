"""The nodes of settings: sizes, settings of single outputs, options, controls and regions."""

from typing import Any, ClassVar

from . import media
from .base import (
    CHAIN,
    OUTPUTS,
    PROMPT,
    SETTINGS,
    Node,
    choice,
    count,
    given,
    merged,
    number,
    socket,
    switch,
    words,
)
from .prompt import Prompts, by_modality

GUIDERS = ("own", "cfg", "apg", "zero-star", "cfg++", "skip-layer", "perturbed-attention")
CONTROLS = ("beats", "melody", "loudness", "sketch", "layout")
OWN = "0 is the model's own"


class _Settings(Node):
    """What nodes of settings share."""

    RETURN_TYPES = (SETTINGS,)
    RETURN_NAMES = ("settings",)
    optional: ClassVar[dict[str, Any]] = {"settings": CHAIN}


class Sizes(_Settings):
    """Sizes of what is made."""

    DESCRIPTION = "Sizes and lengths of what is made, where they are not to be the model's own."
    required: ClassVar[dict[str, Any]] = {
        "width": count(0, 0, 16384, f"of pictures and clips, in pixels; {OWN}"),
        "height": count(0, 0, 16384, f"of pictures and clips, in pixels; {OWN}"),
        "num_frames": count(0, 0, 100_000, f"frames of clips; {OWN}"),
        "fps": number(0.0, 0.0, 1000.0, f"frames per second of clips; {OWN}"),
        "seconds": number(0.0, 0.0, 36_000.0, f"how long sounds and clips last; {OWN}"),
    }

    def run(
        self,
        width: int,
        height: int,
        num_frames: int,
        fps: float,
        seconds: float,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with the sizes that were given."""
        sizes = given(width=width, height=height, num_frames=num_frames, fps=fps, audio_length_in_s=seconds)
        return (merged(settings, sizes),)


class OutputSettings(_Settings):
    """Settings of a single output."""

    DESCRIPTION = "Guidance and start of one output, beside what Generate says for all."
    required: ClassVar[dict[str, Any]] = {
        "output": choice(OUTPUTS, "video", "the output that they are for"),
        "guidance_scale": number(0.0, 0.0, 100.0, f"how closely it follows the prompts; 1 is off; {OWN}"),
        "sync_guidance_scale": number(
            0.0, 0.0, 100.0, f"how closely it follows the other outputs; 1 is off; {OWN}"
        ),
        "start_offset": number(
            -1.0, -1.0, 4.0, "schedules that it waits, to attend to the others; -1 is the model's own"
        ),
    }

    def run(
        self,
        output: str,
        guidance_scale: float,
        sync_guidance_scale: float,
        start_offset: float,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with those of this output."""
        found = given(guidance_scale=guidance_scale, sync_guidance_scale=sync_guidance_scale)
        if start_offset >= 0:
            found["start_offset"] = start_offset
        return (merged(settings, {name: {output: value} for name, value in found.items()}),)


class Options(_Settings):
    """What is seldom changed."""

    DESCRIPTION = "Candidates, variants of guidance, and how outputs attend to each other."
    required: ClassVar[dict[str, Any]] = {
        "candidates": count(1, 1, 64, "how many are drawn for each sample; the best is kept"),
        "guider": choice(GUIDERS, "own", "a variant of guidance (docs/guidance.md)"),
        "guidance_rescale": number(0.0, 0.0, 1.0, f"against over-saturation; {OWN}"),
        "guidance_from": number(0.0, 0.0, 1.0, "the part of the steps at which guidance begins"),
        "guidance_to": number(1.0, 0.0, 1.0, "the part of the steps at which guidance ends"),
        "in_time": choice(
            ("auto", "off"), "auto", "whether what is made keeps time with prompts that are clips and sounds"
        ),
        "lengths": choice(("agree", "free"), "agree", "whether clips and sounds last equally long"),
        "auxiliary_caption": switch(
            True, "whether a caption is made beside several outputs, for them to agree on"
        ),
        "resample_steps": count(
            0, 0, 100, "how often a step is made of an output of which a part is kept; 0 is the default"
        ),
    }

    def run(
        self,
        candidates: int,
        guider: str,
        guidance_rescale: float,
        guidance_from: float,
        guidance_to: float,
        in_time: str,
        lengths: str,
        auxiliary_caption: bool,
        resample_steps: int,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with those that differ from the defaults."""
        interval = (guidance_from, guidance_to)
        found = given(
            candidates=candidates,
            guider=None if guider == "own" else guider,
            guidance_rescale=guidance_rescale,
            guidance_interval=None if interval == (0, 1) else interval,
            resample_steps=resample_steps,
        )
        found |= {"lengths": lengths, "auxiliary_caption": auxiliary_caption}
        if in_time == "off":
            found["sync"] = False
        return (merged(settings, found),)


class Control(_Settings):
    """What an output follows beside its prompt."""

    DESCRIPTION = (
        "Beats, a melody, loudness, a sketch or a layout that outputs follow. The model needs a branch for "
        "it, which Load CoDi Model names under control."
    )
    required: ClassVar[dict[str, Any]] = {
        "kind": choice(CONTROLS, "beats", "what is followed"),
        "value": words(
            "0.3,0.9", "as it is typed on the command line (docs/control.md); unused if a medium is given"
        ),
        "output": choice(("all", *OUTPUTS), "all", "what follows it"),
        "weight": number(1.0, 0.0, 10.0, "how much it counts"),
        "begin": number(0.0, 0.0, 1.0, "the part of the steps at which it begins to act"),
        "end": number(1.0, 0.0, 1.0, "the part of the steps at which it ends"),
    }
    optional: ClassVar[dict[str, Any]] = {
        "image": socket("IMAGE", "a drawing, for sketch"),
        "video": socket("VIDEO", "a clip whose edges are the sketch"),
        "audio": socket("AUDIO", "a recording, whose melody or loudness is followed"),
        "settings": CHAIN,
    }

    def run(
        self,
        kind: str,
        value: str,
        output: str,
        weight: float,
        begin: float,
        end: float,
        image: Any = None,
        video: Any = None,
        audio: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with this control."""
        content: Any = value
        if image is not None:
            content = media.picture(image, "the drawing")
        elif video is not None:
            content = media.clip(video)
        elif audio is not None:
            content = media.sound(audio, "the recording")
        entry: dict[str, Any] = {"kind": kind, "value": content, "weight": weight, "interval": (begin, end)}
        if output != "all":
            entry["output"] = output
        return (merged(settings, {"control": [entry]}),)


class Region(_Settings):
    """Prompts for a part of what is made."""

    DESCRIPTION = (
        "Prompts that count in a part of pictures and clips, or for some seconds, in place of the others."
    )
    required: ClassVar[dict[str, Any]] = {
        "prompt": socket(PROMPT, "the prompts that count there"),
        "left": number(0.0, 0.0, 1.0, "the box in which they count, in fractions of the width"),
        "top": number(0.0, 0.0, 1.0, "in fractions of the height"),
        "right": number(1.0, 0.0, 1.0, "in fractions of the width"),
        "bottom": number(1.0, 0.0, 1.0, "in fractions of the height"),
        "begin": number(0.0, 0.0, 36_000.0, "the second from which they count"),
        "end": number(0.0, 0.0, 36_000.0, "the second until which they count; 0 for always"),
        "weight": number(1.0, 0.0, 100.0, "how much they count where regions overlap"),
        "feather": number(0.0, 0.0, 1.0, "how soft the edge is, in fractions of the width and height"),
        "fade": number(0.0, 0.0, 60.0, "how soft beginning and end are, in seconds"),
    }
    optional: ClassVar[dict[str, Any]] = {
        "mask": socket("MASK", "in place of the box: white where they count"),
        "settings": CHAIN,
    }

    def run(
        self,
        prompt: Prompts,
        left: float,
        top: float,
        right: float,
        bottom: float,
        begin: float,
        end: float,
        weight: float,
        feather: float,
        fade: float,
        mask: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """Return the settings with this region."""
        box = (left, top, right, bottom)
        region = given(feather=feather, fade=fade) | {"weight": weight} | by_modality(prompt)
        if mask is not None:
            region["mask"] = mask.detach().cpu().float().clamp(0, 1).numpy()
            if len(region["mask"]) == 1:
                region["mask"] = region["mask"][0]
        elif box != (0, 0, 1, 1):
            region["box"] = box
        if end > 0 or begin > 0:
            region["interval"] = (begin, end)
        return (merged(settings, {"regions": [region]}),)
