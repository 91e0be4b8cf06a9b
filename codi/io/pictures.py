"""Read pictures as a viewer shows them: upright, in sRGB, with what is transparent on white, in 8 bits.

A picture of any of the kinds that Pillow opens becomes uint8 (3, H, W), whether it lies in a file or was
opened by somebody else. HEIC is read by FFmpeg (`codi.io.heif`).

Letters: H height, W width.
"""

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codi.io.gates import IMAGE_FORMATS, check_pixels, names_heif
from codi.io.media_file import MediaFile, decoding
from codi.types import InputError

if TYPE_CHECKING:
    from PIL import Image

# What training opens: of a data set only the formats that are promised, since files may be hostile.
TRAINED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF")
PAINTED_FORMATS = ("PNG", "WEBP")  # in which a browser hands over what was painted
ORIENTATION = 0x0112  # of EXIF
UPRIGHT = 1
_BAD_EXIF = (SyntaxError, ValueError, TypeError, KeyError, OverflowError)
OVERSHOOT = 1 / 255  # by which floats may leave [0, 1]


def read_image(source: MediaFile) -> Tensor:
    """Return a picture of a data set as uint8 (3, H, W); anything wrong with the file is one `InputError`."""
    with decoding(source):
        return picture_of(source, TRAINED_FORMATS)


def picture_of(source: MediaFile, formats: tuple[str, ...] = IMAGE_FORMATS) -> Tensor:
    """Return the picture in a file.

    Of an animation the first frame is read.

    Args:
        source: the file.
        formats: the formats of Pillow that are opened; anything else is no picture.

    Returns:
        The picture, uint8 (3, H, W).

    Raises:
        InputError: if it has more pixels than are accepted, or floats of a range that says nothing.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large pictures, but `check_pixels` decides
        try:
            image = Image.open(source.handle(), formats=formats)
        except Image.DecompressionBombError:
            raise InputError(f"{source.name} has more pixels than are accepted: shrink it first") from None
        except Image.UnidentifiedImageError:
            if not names_heif(source.head(64)):
                raise
            from codi.io.heif import read_heif

            return read_heif(source)
        with image:
            check_pixels(*image.size, source=source.name)
            return image_to_tensor(image, source.name)


def opacity_of(source: MediaFile) -> Tensor:
    """Return where a PNG or a WebP is opaque at all: 255 there and 0 elsewhere, uint8 (H, W)."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source.handle(), formats=PAINTED_FORMATS) as image:
            check_pixels(*image.size, source=source.name)
            alpha = np.array(image.convert("RGBA").getchannel("A"))
    return torch.from_numpy(np.where(alpha > 0, np.uint8(255), np.uint8(0)))


def image_to_tensor(image: "Image.Image", name: str = "the picture") -> Tensor:
    """Convert a Pillow image of any mode to a tensor.

    It is turned as its EXIF data say, and brought to sRGB where it carries a colour profile. What is
    transparent becomes white. Numbers of more than 8 bits are scaled: 16 bits by their full scale, integers
    of 32 bits and floats by the range that their values show.

    Args:
        image: the image.
        name: what messages call it.

    Returns:
        The picture, uint8 (3, H, W).

    Raises:
        InputError: for floats that are in no range that pictures have.
    """
    from PIL import Image

    image = upright(image)
    if image.mode == "La":  # which Pillow turns into LA alone
        image = image.convert("LA")
    profile = image.info.get("icc_profile")
    opacity = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image, name)
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        opacity = image.getchannel("A")
        image = image.convert("RGB")
    image = _in_srgb(image, profile)
    if opacity is not None:
        white = Image.new("RGBA", image.size, "white")
        image.putalpha(opacity)
        image = Image.alpha_composite(white, image).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def upright(image: "Image.Image") -> "Image.Image":
    """Return an image turned and mirrored as its EXIF data say; the given one where nothing is to be done."""
    from PIL import ImageOps

    if orientation_of(image) == UPRIGHT:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except _BAD_EXIF:
        return image


def orientation_of(image: "Image.Image") -> int:
    """Return how the EXIF data of an image say that it is to be turned, 1 to 8.

    Viewers show a picture whose EXIF data are damaged as it lies there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged data
        try:
            tag = image.getexif().get(ORIENTATION, UPRIGHT)
        except _BAD_EXIF:
            return UPRIGHT
    return tag if isinstance(tag, int) and UPRIGHT <= tag <= 8 else UPRIGHT


def _in_8_bits(image: "Image.Image", name: str) -> "Image.Image":
    """Return an image of 16 or 32 bits or of floats in grey of 8 bits."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F":
        grey = _from_floats(values, name)
    elif image.mode == "I" and image.format != "PPM":
        grey = _from_integers(values.astype(np.int64))
    else:
        grey = values.astype(np.int64) >> 8
        clear = image.info.get("transparency")  # of a png of 16 bits: the one grey that is transparent
        if isinstance(clear, int):
            grey[values == clear] = 255
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _from_integers(values: np.ndarray) -> np.ndarray:
    """Return integers of 32 bits as 0 to 255, by the least of 8, 16 and 32 bits that holds all of them."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0:  # numbers without sign, which Pillow takes for numbers with one
        values = values & 0xFFFFFFFF
        return values >> 24
    if high < 1 << 8:
        return values
    return values >> 8 if high < 1 << 16 else values >> 23


def _from_floats(values: np.ndarray, name: str) -> np.ndarray:
    """Return floats as 0 to 255, by the range in which they are; `InputError` where that says nothing."""
    if not np.isfinite(values).all():
        raise InputError(f"{name} has floats that are NaN or infinite: expected [0, 1]; export it again")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return np.round(values * 255)
    if low >= 0 and 8 <= high < 256:
        return np.round(values)
    if low >= 0 and 256 <= high < 1 << 16:
        return np.round(values / 257)
    raise InputError(
        f"{name} has floats from {low:.4g} to {high:.4g}: expected [0, 1], 0 to 255 or 0 to 65535; scale it, "
        "or save it with 8 bits"
    )


# Colours ---------------------------------------------------------------


def _in_srgb(image: "Image.Image", profile: bytes | None) -> "Image.Image":
    """Return an image in RGB, converted from its colour profile to sRGB.

    A profile that is damaged, or is of another kind of image, is left alone, as viewers do.
    """
    from PIL import ImageCms

    if not profile or image.mode in ("1", "P") and _space(profile) != "RGB":
        return image.convert("RGB")
    if image.mode in ("P", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = found.profile.xcolor_space.strip()
        grey = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
        if space == "GRAY" and image.mode == "RGB":  # grey with opacity, which became RGB with opacity
            image = image.convert("L")
        if grey.get(image.mode) != space or "srgb" in ImageCms.getProfileDescription(found).lower():
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, found, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")
    assert converted is not None  # only a conversion in place gives none
    return converted


def _space(profile: bytes) -> str:
    """Return the colour space that the header of a profile names."""
    return profile[16:20].decode("ascii", "replace").strip()


def _from_lab(image: "Image.Image") -> "Image.Image":
    """Return a CIELAB image in sRGB."""
    from PIL import ImageCms

    converted: Any = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted
