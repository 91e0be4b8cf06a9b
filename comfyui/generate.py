"""The nodes that make something: Generate, and Continue for what lasts longer than a model makes at once."""

from typing import Any, ClassVar

from . import media
from .base import (
    LARGEST_SEED,
    MODEL,
    OUTPUTS,
    PROMPT,
    RESULT,
    SETTINGS,
    Node,
    choice,
    count,
    number,
    socket,
    switch,
)
from .edit import with_kept_ends
from .prompt import Prompts, by_modality
from .running import Progress, outside_inference_mode

SEED = count(
    0,
    0,
    LARGEST_SEED,
    "sample k is made from seed + k; the same seed gives the same",
    control_after_generate=True,
)
STEPS = count(0, 0, 10_000, "denoising steps; 0 is the model's own number")
SCALES = ("guidance_scale", "sync_guidance_scale", "start_offset")


class Generate(Node):
    """Makes any mix of a sentence, a picture, a sound and a clip, together."""

    DESCRIPTION = (
        "Makes what is switched on, all of it together, so that it agrees. Several samples are a batch of "
        "pictures and of sounds, and lists of clips and sentences."
    )
    RETURN_TYPES = (RESULT, "IMAGE", "AUDIO", "VIDEO", "STRING")
    RETURN_NAMES = ("result", "images", "audio", "video", "text")
    OUTPUT_IS_LIST = (False, False, False, True, True)
    OUTPUT_TOOLTIPS = (
        "everything that was made, with its records, for Save",
        "the pictures",
        "the sounds",
        "the clips, with the sounds that were made with them",
        "the sentences",
    )
    required: ClassVar[dict[str, Any]] = {
        "model": socket(MODEL, "of Load CoDi Model"),
        "make_text": switch(False, "whether a sentence is made"),
        "make_image": switch(True, "whether a picture is made"),
        "make_audio": switch(False, "whether a sound is made"),
        "make_video": switch(False, "whether a clip is made"),
        "seed": SEED,
        "steps": STEPS,
        "guidance_scale": number(
            0.0, 0.0, 100.0, "how closely prompts are followed; 1 is off; 0 is the model's own"
        ),
        "samples": count(1, 1, 256, "how many sets of all outputs are made"),
    }
    optional: ClassVar[dict[str, Any]] = {
        "prompt": socket(PROMPT, "what is to be made; without any it is left to chance"),
        "negative": socket(PROMPT, "what is not to be made; it acts through guidance"),
        "settings": socket(SETTINGS, "sizes, edits, controls, regions and further settings, as a chain"),
    }

    def run(
        self,
        model: Any,
        make_text: bool,
        make_image: bool,
        make_audio: bool,
        make_video: bool,
        seed: int,
        steps: int,
        guidance_scale: float,
        samples: int,
        prompt: Prompts | None = None,
        negative: Prompts | None = None,
        settings: dict[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """Return the result and its media; what was not made blocks the nodes that want it."""
        wanted = (make_text, make_image, make_audio, make_video)
        outputs = [name for name, made in zip(OUTPUTS, wanted, strict=True) if made]
        if not outputs:
            raise media.input_error("nothing is to be made: expected make_text, make_image, ... to be on")
        with outside_inference_mode():
            call = by_modality(prompt) | by_modality(negative, "negative_") | (settings or {})
            call["guidance_scale"] = scales(guidance_scale, outputs, call.get("guidance_scale"))
            call = with_kept_ends(model, outputs, call)
            out = model(
                **call,
                outputs=outputs,
                num_samples=samples,
                seed=seed,
                num_inference_steps=steps or None,
                output_type="pt",
                **Progress().followed,
            )
        return (out, *sockets_of(out))


def scales(for_all: float, outputs: list[str], by_output: dict[str, float] | None) -> Any:
    """Return the guidance scale of a call.

    Args:
        for_all: the scale of the node; 0 for the model's own.
        outputs: what is made.
        by_output: the scales of single outputs, which go before that of the node.

    Returns:
        A number, a dict by output, or None for the model's own.
    """
    if not by_output:
        return for_all or None
    return {**(dict.fromkeys(outputs, for_all) if for_all else {}), **by_output}


def sockets_of(out: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """Return pictures, sounds, clips and sentences of a result as ComfyUI's sockets hold them."""
    audio = media.as_audio(out.audios, out.sampling_rate) if out.audios else None
    clips = []
    for k, frames in enumerate(out.videos):
        own = media.as_audio(out.audios[k : k + 1], out.sampling_rate) if out.audios else None
        clips.append(media.as_video(frames, out.fps, own))
    return (
        media.as_image(out.images) if out.images else not_made("image"),
        not_made("audio") if audio is None else audio,
        clips or [not_made("video")],
        list(out.texts) or [not_made("text")],
    )


def not_made(output: str) -> Any:
    """Return what keeps the nodes that want an output from running, and says why."""
    from comfy_execution.graph import ExecutionBlocker

    return ExecutionBlocker(f"no {output} was made: switch make_{output} on in CoDi Generate")


class Continue(Node):
    """Makes a clip, a sound or both go on beyond the length of the model."""

    DESCRIPTION = (
        "A clip, a sound, or both in step go on, window by window; what was given comes back as it was."
    )
    RETURN_TYPES = ("VIDEO", "AUDIO")
    RETURN_NAMES = ("video", "audio")
    required: ClassVar[dict[str, Any]] = {
        "model": socket(MODEL, "of Load CoDi Model"),
        "seconds": number(4.0, 0.0, 36_000.0, "how long the result is, with what was given"),
        "direction": choice(("forwards", "backwards", "both"), "forwards", "where it goes on"),
        "loop": switch(False, "whether the end leads to the beginning"),
        "seed": SEED,
        "steps": STEPS,
    }
    optional: ClassVar[dict[str, Any]] = {
        "video": socket("VIDEO", "the clip; a sound that it holds is not used, connect it under audio"),
        "audio": socket("AUDIO", "the sound"),
        "prompt": socket(PROMPT, "what goes on"),
        "negative": socket(PROMPT, "what is not to be made"),
    }

    def run(
        self,
        model: Any,
        seconds: float,
        direction: str,
        loop: bool,
        seed: int,
        steps: int,
        video: Any = None,
        audio: Any = None,
        prompt: Prompts | None = None,
        negative: Prompts | None = None,
    ) -> tuple[Any, Any]:
        """Return the clip with its sound, and the sound."""
        from codi.continuing import extend

        source: dict[str, Any] = {}
        if video is not None:
            source["video"] = media.clip(video)
        if audio is not None:
            source["audio"] = media.sound(audio, "the sound")
        with outside_inference_mode():
            call = by_modality(prompt) | by_modality(negative, "negative_")
            if steps:
                call["num_inference_steps"] = steps
            progress = Progress()
            longer = extend(
                model,
                source,
                seconds=seconds,
                direction=direction,
                loop=loop,
                seed=seed,
                **progress.followed,
                **call,
            )
            progress.calls = len(longer.steps)
            made = {m.value: raw for m, raw in longer.gather().items()}
        rates = {m.value: spec.rate for m, spec in longer.specs.items()}
        wave = media.as_audio([made["audio"]], rates["audio"]) if "audio" in made else None
        clip = media.as_video(made["video"], rates["video"], wave) if "video" in made else not_made("video")
        return clip, not_made("audio") if wave is None else wave
