"""Sketch: the lines of a picture, or of every frame of a clip.

Letters: F frames (one of a picture), H W.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.controls.base import ControlKind, Target, as_file, unshuffled
from codi.types import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene

GAIN = 2.0  # by which edges are made stronger, so that most of them are whole lines
FAINT = 0.15  # of full ink: less than this is none
LEAST = 0.002  # of the picture: less ink than this is an empty page
MOST = 0.6  # of the picture: more ink than this is no drawing


class Sketch(ControlKind):
    """A drawing in lines, dark on light or light on dark, or edges that some filter found."""

    name = "sketch"
    timed = False
    given_as = "a drawing: a picture, or a clip for video, of lines on one ground"

    def channels(self, target: Target) -> int:
        """Return the pixels for which one place of the latent stands."""
        return target.factor**2

    def parse(self, value: Any, folder: Path = Path()) -> Any:
        """Return the file of a drawing, or a drawing in memory; its kind is checked when it is read."""
        if value is None or isinstance(value, (bool, int, float)):
            raise self.wrong(value)
        found = as_file(value, folder)
        return value if found is None else found

    def render(self, value: Any, target: Target) -> "Tensor":
        """Return the ink of a drawing that is fitted to what is made, as pictures in prompts are."""
        from codi.modalities import kind_of

        source = value["path"] if isinstance(value, dict) else value
        try:
            raw = kind_of(target.modality).prepare(source, target.spec)
        except InputError as error:
            raise InputError(f"control sketch of {target.modality}: {error}") from None
        drawn = ink(raw.view(-1, *raw.shape[-3:]))
        share = float(drawn.mean())
        if not LEAST <= share <= MOST:
            raise InputError(
                f"control sketch of {target.modality} has lines on {share:.1%} of it: expected a drawing in "
                "lines on one ground"
            )
        return unshuffled(drawn, target)

    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the edges of what a scene looks like."""
        from codi.modalities import kind_of
        from codi.world import RENDERERS

        shown = RENDERERS[target.modality]([scene])[0]
        if target.num_frames is not None:
            shown = (shown, target.spec.rate)
        return self.of_media(kind_of(target.modality).prepare(shown, target.spec), target)

    def of_media(self, raw: "Tensor", target: Target) -> "Tensor":
        """Return the edges of a picture or of the frames of a clip, in [-1, 1]."""
        return unshuffled(edges(raw.view(-1, *raw.shape[-3:])), target)


def ink(frames: "Tensor") -> "Tensor":
    """Return how much ink is on drawings (F, 3, H, W) in [-1, 1]: (F, 1, H, W) in 0..1.

    The ground is what most pixels of all frames are, and ink is how far a pixel is from it, as a share of the
    furthest.
    """
    ground = frames.transpose(0, 1).flatten(1).median(1).values
    apart = (frames - ground[:, None, None]).abs().amax(1, keepdim=True)
    drawn = apart / apart.amax().clamp_min(1e-6)
    return drawn * (drawn > FAINT)


def edges(frames: "Tensor") -> "Tensor":
    """Return the edges of pictures (F, 3, H, W) in [-1, 1]: (F, 1, H, W) in 0..1.

    They are the largest slope of the three colours by Sobel's filter, as a share of the steepest.
    """
    import torch
    from torch.nn import functional

    down = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]], device=frames.device)
    filters = torch.stack([down, down.T])[:, None].repeat(3, 1, 1, 1)  # two for each colour
    padded = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    slopes = functional.conv2d(padded, filters, groups=3).unflatten(1, (3, 2)).norm(dim=2)
    steepest = slopes.amax(1, keepdim=True)
    found = (GAIN * steepest / steepest.amax().clamp_min(1e-6)).clamp(max=1)
    return found * (found > FAINT)
