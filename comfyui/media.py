"""Turn the media of ComfyUI's sockets into what codi takes, and what codi makes into them.

IMAGE is float (B, H, W, C) in [0, 1]. AUDIO is {"waveform": float (B, C, T), "sample_rate": Hz}. VIDEO is a
`VideoInput`, which knows its pictures, its sound and its rate. MASK is float (B, H, W), 1 where something is
to be made anew.

Letters: B batch, C channels, F frames, H W height and width, T samples.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

FINEST = 100_000  # the largest denominator of a rate in frames per second


def pictures(image: Tensor) -> list[Any]:
    """Return the pictures of an IMAGE, each an array (H, W, C) of floats in [0, 1].

    Other nodes may leave values a little outside that range, as resampling does.
    """
    return [one.detach().cpu().float().clamp(0, 1).numpy() for one in image]


def picture(image: Tensor, what: str) -> Any:
    """Return the only picture of an IMAGE; raise `InputError` if it holds several.

    Args:
        image: the IMAGE.
        what: what it is for, for the message.

    Returns:
        An array (H, W, C) of floats in [0, 1].
    """
    found = pictures(image)
    if len(found) != 1:
        raise input_error(
            f"{what} is a batch of {len(found)} pictures: expected one, such as of the node ImageFromBatch"
        )
    return found[0]


def sounds(audio: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sounds of an AUDIO, each with its rate, as codi takes them from anyone."""
    rate = int(audio["sample_rate"])
    waves = audio["waveform"].detach().cpu().float()
    return [{"waveform": wave.clone(), "sample_rate": rate} for wave in waves]


def sound(audio: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the only sound of an AUDIO; raise `InputError` if it holds several."""
    found = sounds(audio)
    if len(found) != 1:
        raise input_error(f"{what} is a batch of {len(found)} sounds: expected one")
    return found[0]


def clip(video: Any) -> tuple[Any, float]:
    """Return the frames (F, H, W, C) of a VIDEO, floats in [0, 1], and their rate in frames per second."""
    parts = video.get_components()
    frames = parts.images.detach().cpu().float().clamp(0, 1).numpy()
    return frames, float(parts.frame_rate)


def seconds_of_sound(audio: Mapping[str, Any]) -> float:
    """Return how long an AUDIO lasts."""
    return audio["waveform"].shape[-1] / audio["sample_rate"]


def kept(mask: Tensor, frames: int | None = None) -> Any:
    """Return what a MASK leaves as it is, as an array that is 1 there.

    Args:
        mask: 1 where something is to be made anew, (B, H, W) or (H, W).
        frames: F of the clip that it belongs to; None for a picture.

    Returns:
        (H, W), or (F, H, W) for a mask of several frames.

    Raises:
        InputError: for a mask of several pictures that belong to no clip.
    """
    found = (1 - mask.detach().cpu().float().clamp(0, 1)).numpy()
    if found.ndim == 2:
        return found
    if len(found) == 1:
        return found[0]
    if len(found) != frames:
        expected = "one" if frames is None else f"one, or one for each of the {frames} frames"
        raise input_error(f"the mask is a batch of {len(found)}: expected {expected}")
    return found


def as_image(made: Sequence[Any]) -> Tensor:
    """Return pictures of codi, uint8 (3, H, W), as an IMAGE (B, H, W, 3)."""
    return torch.stack([torch.as_tensor(one) for one in made]).movedim(1, -1).float() / 255


def as_audio(made: Sequence[Any], rate: int | float | None) -> dict[str, Any]:
    """Return sounds of codi, float (T,), as an AUDIO."""
    assert rate is not None, "sounds have a rate"
    waves = [torch.as_tensor(one).float() for one in made]
    return {"waveform": torch.stack(waves)[:, None], "sample_rate": int(rate)}


def as_video(frames: Any, fps: float | None, audio: dict[str, Any] | None) -> Any:
    """Return a clip of codi, uint8 (F, 3, H, W), as a VIDEO.

    Args:
        frames: its frames.
        fps: frames per second.
        audio: the AUDIO that belongs to it, of one sound; None for none.

    Returns:
        The VIDEO.
    """
    from comfy_api.input_impl import VideoFromComponents
    from comfy_api.util import VideoComponents

    assert fps is not None, "clips have a rate"
    rate = Fraction(fps).limit_denominator(FINEST)
    return VideoFromComponents(VideoComponents(images=as_image(frames), frame_rate=rate, audio=audio))


def input_error(message: str) -> Exception:
    """Return codi's error for something a user gave."""
    from codi import InputError

    return InputError(message)
