"""How long what is made lasts: a clip and a sound that are made together end together.

What a call names stays as it is named, and what it leaves open follows: the number of frames, frames per
second or the length of the sound.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from codi.modalities.video import most_frames
from codi.types import InputError, Modality, ModalitySpec

LENGTHS = ("agree", "free")
TIMES = ("num_frames", "fps", "audio_length_in_s")  # sizes along time
HALF = 0.5 + 1e-6  # how many frames apart two lengths that agree may be, because a clip has whole frames
Sizes = dict[str, float | None]


def own_sizes(sizes: Mapping[str, float | None], made: Sequence[Modality]) -> Sizes:
    """Return sizes as each output's own.

    In a call without sound, `audio_length_in_s` names the length of the clip, and the bounds of a sound do
    not hold for it: it is left out.

    Args:
        sizes: sizes by name.
        made: the outputs.

    Returns:
        sizes by name.
    """
    return dict(sizes) if Modality.AUDIO in made else {**sizes, "audio_length_in_s": None}


def agreed(
    sizes: Mapping[str, float | None],
    made: Sequence[Modality],
    specs: Mapping[Modality, ModalitySpec],
    denoisers: Mapping[Modality, Any],
    lengths: str = "agree",
) -> tuple[Sizes, list[str]]:
    """Return sizes in which those that were left open follow from the others.

    Args:
        sizes: sizes by name, None where one is left open.
        made: the outputs.
        specs: the model's own geometry of each modality.
        denoisers: the denoiser of each modality.
        lengths: "agree", or "free", which leaves a sound as it is named.

    Returns:
        sizes by name, and notes on what had to be cut.

    Raises:
        InputError: the lengths contradict each other, or the model cannot make them.
    """
    if lengths == "free" and Modality.AUDIO in made:
        return dict(sizes), []
    most = most_frames(denoisers.get(Modality.VIDEO))
    found, notes = _agreed(sizes, made, specs, most)
    return own_sizes(found, made), notes


def _agreed(
    sizes: Mapping[str, float | None],
    made: Sequence[Modality],
    specs: Mapping[Modality, ModalitySpec],
    most: int,
) -> tuple[Sizes, list[str]]:
    """Return sizes that agree, and notes; the longest clip that the model makes has `most` frames."""
    if Modality.VIDEO not in made or Modality.VIDEO not in specs:
        return dict(sizes), []
    frames, fps, seconds = (sizes.get(name) for name in TIMES)
    video = specs[Modality.VIDEO]
    rate = video.rate if fps is None else fps
    with_sound = Modality.AUDIO in made and Modality.AUDIO in specs
    if seconds is not None:
        return {**sizes, **_by_seconds(frames, fps, rate, seconds, most, with_sound)}, []
    if not with_sound:
        return dict(sizes), []
    longest = specs[Modality.AUDIO].duration
    if frames is not None:
        return {**sizes, "audio_length_in_s": _sound_for(frames, rate, longest)}, []
    if fps is None and abs(video.duration - longest) * rate <= HALF:
        return dict(sizes), []
    found, note = _longest_both(rate, longest, most if fps is not None else min(most, video.raw_shape[0]))
    return {**sizes, **found}, note


def _by_seconds(
    frames: float | None, fps: float | None, rate: float, seconds: float, most: int, with_sound: bool
) -> Sizes:
    """Return the clip's frames or rate, whichever is open, for a length that is named."""
    if frames is None:
        count = max(1, round(seconds * rate))
        if count > most:
            raise InputError(
                f"{seconds:g} s at {rate:g} frames per second are {count} frames: this model makes at most "
                f"{most}, so expected at most {most / rate:g} s, or at most {most / seconds:g} frames per "
                "second"
            )
        return {"num_frames": count}
    if fps is None:
        return {"fps": frames / seconds}
    if abs(frames / fps - seconds) * fps > HALF and frames != max(1, round(seconds * fps)):
        other = "the sound lasts" if with_sound else "the length named is"
        free = ", or lengths 'free' (--lengths free) to let them differ" if with_sound else ""
        raise InputError(
            f"lengths differ: {frames} frames at {fps:g} per second last {frames / fps:g} s, {other} "
            f"{seconds:g} s; expected two of the three (num_frames, fps, seconds), from which the third "
            f"follows{free}"
        )
    return {}


def _sound_for(frames: float, rate: float, longest: float) -> float:
    """Return the seconds of the sound for a clip that is named."""
    seconds = frames / rate
    if (seconds - longest) * rate > HALF:
        raise InputError(
            f"lengths differ: {frames} frames at {rate:g} per second last {seconds:g} s, and this model "
            f"makes at most {longest:g} s of sound; expected at most {int(longest * rate + 1e-6)} frames, at "
            f"least {frames / longest:g} frames per second, or lengths 'free' (--lengths free) to let them "
            "differ"
        )
    return min(seconds, longest)


def _longest_both(rate: float, longest: float, most: int) -> tuple[Sizes, list[str]]:
    """Return the sizes of the longest clip at a rate that a sound can last as long as, and notes."""
    wanted = int(longest * rate + 1e-6)
    if wanted < 1:
        raise InputError(
            f"lengths differ: one frame at {rate:g} per second lasts {1 / rate:g} s, and this model makes at "
            f"most {longest:g} s of sound; expected at least {1 / longest:g} frames per second, or lengths "
            "'free' (--lengths free) to let them differ"
        )
    frames = min(wanted, most)
    seconds = min(frames / rate, longest)
    cut = (longest - seconds) * rate >= 1  # less is missing only because a clip has whole frames
    note = (
        f"clip and sound last {seconds:g} s each, as long as both can: {frames} frames at {rate:g} per second"
    )
    return {"num_frames": frames, "audio_length_in_s": seconds}, [note] if cut else []
