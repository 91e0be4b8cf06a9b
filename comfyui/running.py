"""Run codi inside ComfyUI: progress, previews, the button that stops, notes in the log.

ComfyUI runs nodes in inference mode, whose tensors later calls could not compute gradients with (classifier
guidance needs them). A model that is loaded and called here lives outside of that mode.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

LOG = logging.getLogger("codi")
BETWEEN = 0.5  # seconds between previews
MISSING = (
    "codi is not installed for the Python that runs ComfyUI: install it there from its repository, `pip "
    "install PATH/TO/codi` (the name codi on PyPI belongs to another project)"
)


def pipeline_class() -> Any:
    """Return `CoDiPipeline`; raise `RuntimeError` in one line where codi is not installed."""
    try:
        from codi import CoDiPipeline
    except ImportError as error:
        raise RuntimeError(f"{MISSING}; {error}") from None
    return CoDiPipeline


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave ComfyUI's inference mode, and write codi's notes into ComfyUI's log, a line each."""
    with torch.inference_mode(False), warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for note in notes:
                if issubclass(note.category, UserWarning):
                    LOG.warning("codi: %s", note.message)


class Progress:
    """The bar of one node, which follows calls of the pipeline.

    Attributes:
        calls: how many calls of the pipeline the node makes.
    """

    def __init__(self) -> None:
        from comfy import model_management, utils

        self._check = model_management.throw_exception_if_processing_interrupted
        self._check()  # the model may have been loading while someone pressed the button
        self._bar = utils.ProgressBar(1)
        self.calls = 1
        self._done = 0
        self._shown = 0.0
        self._previews = previews_are_on()

    @property
    def followed(self) -> dict[str, Any]:
        """The arguments of a call that is followed; clean latents are estimated only to be shown."""
        shown = ["clean_latents"] if self._previews else []
        return {"callback_on_step_end": self.step, "callback_on_step_end_tensor_inputs": shown}

    def step(self, pipe: Any, step: int, timestep: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Move the bar, and raise ComfyUI's exception if its user wants to stop.

        Args:
            pipe: the pipeline.
            step: the number of the step, from 0.
            timestep: the timestep, which is not used.
            tensors: the clean latents, which outputs seem to become.

        Returns:
            Nothing that is to be changed.
        """
        self._check()
        steps = pipe.num_timesteps
        self._bar.update_absolute(
            self._done * steps + step + 1, self.calls * steps, self._preview(pipe, tensors)
        )
        if step + 1 == steps:
            self._done += 1
        return {}

    def _preview(self, pipe: Any, tensors: Mapping[str, Any]) -> tuple[str, Any, int] | None:
        """Return what the first sample seems to become, as ComfyUI shows it; None for no preview."""
        if not self._previews or time.monotonic() - self._shown < BETWEEN:
            return None
        latents = tensors["clean_latents"]
        seen = next((name for name in ("image", "video") if name in latents), None)
        if seen is None:
            return None
        from PIL import Image

        from codi import InputError

        try:
            raw = pipe.decode_preview({seen: latents[seen][:1]})[seen][0].float().cpu()  # (..., 3, H, W)
        except InputError:  # estimates need not be finite
            return None
        middle = raw if raw.ndim == 3 else raw[len(raw) // 2]
        pixels = ((middle.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1)
        self._shown = time.monotonic()
        return "JPEG", Image.fromarray(pixels.numpy()), 512


def previews_are_on() -> bool:
    """Return whether ComfyUI was started with previews (`--preview-method`)."""
    from comfy.cli_args import LatentPreviewMethod, args

    return args.preview_method != LatentPreviewMethod.NoPreviews
