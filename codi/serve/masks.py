"""Make a mask of what somebody painted over a picture, in the process that makes, which has a sandbox."""

from collections.abc import Sequence
from pathlib import Path

from codi.types import InputError


def write_mask(layers: Sequence[str | Path], out: Path, stays: bool) -> bool:
    """Write what was painted as a mask that is bright where the medium is kept.

    Args:
        layers: pictures of the editor, transparent where nothing was painted.
        out: the file to write, a PNG in grey.
        stays: whether the painted part is what is kept; otherwise it is what is made anew.

    Returns:
        Whether anything was painted; if not, nothing is written.

    Raises:
        InputError: for a layer that is no picture, and for layers of different sizes.
    """
    import torch
    from PIL import Image

    from codi import io

    painted = [io.load_opacity(layer) for layer in layers]
    if len({tuple(each.shape) for each in painted}) > 1:
        raise InputError("the layers of a painted mask differ in size: expected those of one picture")
    if not any(bool(each.any()) for each in painted):
        return False
    union = torch.stack(painted).amax(0)
    Image.fromarray((union if stays else 255 - union).numpy()).save(out)
    return True
