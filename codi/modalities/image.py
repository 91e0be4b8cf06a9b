"""Images: pictures of red, green and blue in [-1, 1], (3, H, W)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi.modalities.base import Cut, Likeness, ModalityKind, Padded
from codi.types import InputError, Modality, ModalitySpec


class Image(ModalityKind):
    """Pictures; a model's own are square, others have any size that its autoencoder divides."""

    name = "image"
    tower = "vision_tower"
    denoiser = "vision_denoiser"
    upscaler = "image_upscaler"
    suffix = ".png"
    regions = ("box", "mask")
    sizes = ("height", "width")
    prompt_file = "png, jpg, webp, gif"
    data_suffixes = ("jpg", "jpeg", "png", "webp")
    geometry_keys = ("size",)
    dtype = "uint8"
    latent_axes = (None, 1, 2)
    # A picture starts when the text is half done (docs/joint.md).
    sampling = {"guidance_scale": 3.0, "start_offset": 0.5}
    classes = {
        "image_autoencoder": "codi.models.autoencoders:ImageAutoencoder",
        "vision_tower": "codi.models.conditioning:VisionTower",
        "vision_denoiser": "codi.models.denoisers:UNetDenoiser",
        "image_upscaler": "codi.models.upscaler:ImageUpscaler",
    }
    made_by = {
        "image_autoencoder": "autoencoder_image",
        "vision_tower": "align_image and align_video",
        "vision_denoiser": "denoise_image",
        "image_upscaler": "super_resolution",
    }
    aligned = ("text_tower", "vision_tower")  # the first alignment of all makes the text tower as well

    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec:
        """Return the geometry that the autoencoder states: square pictures."""
        side = autoencoder.config.image_size
        return ModalitySpec(raw_shape=(3, side, side), latent_shape=autoencoder.latent_shape)

    def resized(
        self, spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any, denoiser: Any | None
    ) -> ModalitySpec:
        """Return the geometry of pictures of another height and width."""
        return with_pixels(spec, sizes, autoencoder)

    def sizes_of(self, spec: ModalitySpec) -> dict[str, Any]:
        """Return the height and the width in pixels."""
        height, width = spec.raw_shape[-2:]
        return {"height": height, "width": width}

    def size_in_words(self, spec: ModalitySpec) -> list[str]:
        """Return the height and the width in words."""
        return [f"{spec.raw_shape[-2]} x {spec.raw_shape[-1]}"]

    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
        """Return the central part of a picture in the model's size, a float tensor (3, H, W) in [-1, 1]."""
        from codi import io, media

        assert spec is not None  # only words have no geometry
        pixels = media.load_picture(value)
        io.check_pixels(pixels.shape[-1], pixels.shape[-2])
        return io.fit_image(pixels, (spec.raw_shape[-2], spec.raw_shape[-1]))

    def own_size(self, value: Any, spec: ModalitySpec) -> tuple[int, int]:
        """Return the height and width of a picture in pixels."""
        from codi import media

        height, width = media.load_picture(value).shape[-2:]
        return height, width

    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Return pictures (B, 3, H, W) in [-1, 1] as a list in the form of `output_type`.

        They are uint8: tensors (3, H, W) for "pt", arrays (H, W, 3) for "np", and otherwise images of PIL.
        """
        import numpy as np
        from PIL import Image as Pictures

        from codi import io

        pixels = list(io.from_unit(raw).cpu())
        if output_type == "pt":
            return pixels
        arrays = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in pixels]
        return arrays if output_type == "np" else [Pictures.fromarray(array) for array in arrays]

    def preview(self, raw: Any, spec: ModalitySpec) -> tuple[str, bytes]:
        """Return a small picture."""
        from codi.io.preview import small_clip

        return small_clip(raw[None])

    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Write sample `k` as a picture with its record, and return the path."""
        import numpy as np
        from PIL import Image as Pictures

        from codi import io

        image = out.images[k]
        picture = Pictures.fromarray(image) if isinstance(image, np.ndarray) else image
        return io.save_image(self.path(stem), picture, out.comment(k), out.record_text(k))

    def shown(self, out: Any, k: int) -> str:
        """Return sample `k` as a picture in HTML."""
        from PIL import Image as Pictures

        from codi import media
        from codi.io import players

        pixels = media.load_picture(out.images[k])
        return players.picture(Pictures.fromarray(pixels.permute(1, 2, 0).numpy()))

    def geometry_of(self, values: Mapping[str, Any]) -> ModalitySpec:
        """Return the geometry that a configuration states by the side in pixels, or by height and width."""
        size = values["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return ModalitySpec(raw_shape=(3, height, width), latent_shape=())

    def geometry_in(self, configs: Mapping[str, Mapping[str, Any]]) -> ModalitySpec | None:
        """Return the geometry of pictures that the image autoencoder states."""
        side = configs.get("image_autoencoder", {}).get("image_size")
        return None if side is None else self.geometry_of({"size": side})

    def aligned_geometry(self, known: ModalitySpec | None, tower: Mapping[str, Any]) -> ModalitySpec | None:
        """Pictures come in the size of the tower, which sees no others."""
        side = tower["vision_config"].get("image_size", 224)  # transformers' own
        return self.geometry_of({"size": side})

    def read(self, source: Any, spec: ModalitySpec, cut: Cut, carrier: Modality | None = None) -> Any:
        """Return the picture in a file, uint8 (3, H, W)."""
        from codi.io.pictures import read_image

        return fitted(read_image(source), spec, cut)

    def likeness(self, path: Path, start: float | None, end: float | None) -> Likeness:
        """Return what a file is compared by: its pixels."""
        from codi import io

        return Likeness(**io.picture_likeness(path))


def fitted(pixels: Any, spec: ModalitySpec, cut: Cut) -> Any:
    """Return uint8 pixels (..., 3, H, W), cropped, fitted and mirrored as `cut` says, in the size of `spec`.

    They come as `Padded` where a plain ground is around them.
    """
    from codi import io
    from codi.io.fit import place_in

    size = (spec.raw_shape[-2], spec.raw_shape[-1])
    if cut.crop is not None:
        pixels = _part_of(pixels, size, cut)
    height, width = pixels.shape[-2:]
    top, left, high, wide = place_in((height, width), size) if cut.fit == "pad" else (0, 0, *size)
    pixels = io.from_unit(io.fit_image(pixels, size, cut.fit, cut.colour))
    if cut.flip:
        pixels, left = pixels.flip(-1), size[1] - left - wide
    pixels = pixels.contiguous()
    if (high, wide) == size:
        return pixels
    whole = tuple((0, length) for length in pixels.shape[:-2])
    return Padded(value=pixels, content=(*whole, (top, top + high), (left, left + wide)))


def _part_of(pixels: Any, size: tuple[int, int], cut: Cut) -> Any:
    """Return the part of pixels that the augmentation cuts out.

    It has the aspect ratio of the result where the rest is cropped anyway, else that of the whole.
    """
    assert cut.crop is not None
    share, x, y = cut.crop
    height, width = pixels.shape[-2:]
    high, wide = height, width
    if cut.fit == "crop":
        # of a square both sides are the shorter one, without rounding
        high = min(height * size[1], width * size[0]) / size[1]
        wide = min(height * size[1], width * size[0]) / size[0]
    high, wide = max(1, round(high * share)), max(1, round(wide * share))
    top, left = round(y * (height - high)), round(x * (width - wide))
    return pixels[..., top : top + high, left : left + wide]


def with_pixels(spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any) -> ModalitySpec:
    """Return the geometry of pictures or frames of another height and width.

    Args:
        spec: the model's own geometry.
        sizes: sizes by name; without "height" and "width" the geometry stays as it is.
        autoencoder: the component that encodes and decodes pictures.

    Returns:
        the new geometry.

    Raises:
        InputError: the autoencoder does not divide such a size, or it is too large.
    """
    from codi import io

    if sizes.get("height") is None and sizes.get("width") is None:
        return spec
    step = autoencoder.downsampling
    height = _side("height", sizes.get("height"), autoencoder)
    width = _side("width", sizes.get("width"), autoencoder)
    io.check_pixels(width, height, "what is to be made")
    return replace(
        spec,
        raw_shape=(*spec.raw_shape[:-2], height, width),
        latent_shape=(*spec.latent_shape[:-2], height // step, width // step),
    )


def _side(name: str, given: int | None, autoencoder: Any) -> int:
    side = autoencoder.config.image_size if given is None else given
    step = autoencoder.downsampling
    if isinstance(side, bool) or not isinstance(side, int) or side < step or side % step:
        raise InputError(f"{name} is {side!r}: expected whole pixels that divide by {step}")
    return side
