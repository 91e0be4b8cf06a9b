"""Print how long plain files take to be read, as prompts and as training samples.

    python benchmarks/reading.py [--repeat 9]

The files are made first: clips of 2 s with sound at 64 x 64 and at 1920 x 1080, a recording of 2 s as wav
and as mp3, a picture of 64 x 64 as png and one of 12 megapixels as jpg. Times are medians, in milliseconds.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from codi import io
from codi.io.frames import choose_backend
from codi.io.media_file import MediaFile
from codi.modalities import Cut, kind_of
from codi.types import ModalitySpec

SPECS = {
    "image": ModalitySpec(raw_shape=(3, 64, 64), latent_shape=()),
    "video": ModalitySpec(raw_shape=(16, 3, 64, 64), latent_shape=(), rate=8),
    "audio": ModalitySpec(raw_shape=(32000,), latent_shape=(), rate=16000),
}


def files(folder: Path) -> list[tuple[str, Path]]:
    """Write the files, and return each with what it is read as."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(32000, generator=generator)

    def blocks(count: int, height: int, width: int) -> torch.Tensor:
        small = torch.rand(count, 3, 8, 8, generator=generator)
        large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
        return (255 * large).to(torch.uint8)

    io.save_video(folder / "small.mp4", blocks(16, 64, 64), 8, wave, 16000)
    io.save_video(folder / "large.mp4", blocks(16, 1080, 1920), 8, wave, 16000)
    io.save_audio(folder / "a.wav", wave, 16000)
    io.save_audio(folder / "a.mp3", wave, 16000)
    io.save_image(folder / "small.png", blocks(1, 64, 64)[0])
    io.save_image(folder / "large.jpg", blocks(1, 3000, 4000)[0])
    kinds = {".mp4": "video", ".wav": "audio", ".mp3": "audio", ".png": "image", ".jpg": "image"}
    found = [(kinds[path.suffix], path) for path in sorted(folder.iterdir())]
    return [*found, ("audio", folder / "small.mp4")]


def median(call: Callable[[], object], repeat: int) -> float:
    """Return the median time of a call in milliseconds, after a first one that is not counted."""
    call()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=9, help="how often each file is read")
    repeat = parser.parse_args().repeat
    warnings.simplefilter("ignore")
    cut = Cut(backend=choose_backend("auto"))
    print(f"{'file':12}{'as':8}{'prompt':>10}{'training':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files(Path(folder)):
            kind, spec = kind_of(name), SPECS[name]
            source, carrier = MediaFile(path, path.name), None
            if name == "audio" and path.suffix == ".mp4":
                carrier = kind_of("video").modality
            prompt = median(lambda k=kind, p=path, s=spec: k.prepare(str(p), s), repeat)
            sample = median(lambda k=kind, f=source, s=spec, c=carrier: k.read(f, s, cut, c), repeat)
            print(f"{path.name:12}{name:8}{prompt:10.1f}{sample:10.1f}")


if __name__ == "__main__":
    main()
