"""Write media files piece by piece, so that no more than a piece is in memory.

As with any file of ours, nobody sees it before it is whole. What it carries about how it was made is asked
for at the end, when it is known. Letters: F frames, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from codi.io.files import new_file
from codi.io.tags import append_to_mp4, append_to_wav
from codi.io.write import CLIPS, WRITERS, even, finite, open_new
from codi.libraries import load
from codi.types import Modality

Record = Callable[[], str | None]


class AppendClip(Protocol):
    """Protocol of what appends to a clip."""

    def __call__(self, frames: Tensor, sound: Tensor | None = None) -> None:
        """Append uint8 (F, 3, H, W), and float (samples,) in [-1, 1] of the same time."""
        ...


@contextmanager
def stream_audio(
    path: str | Path, rate: int, comment: str | None = None, record: Record | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that appends float (samples,) in [-1, 1] to a new wav file (16 bit).

    Args:
        path: the file.
        rate: the sampling rate in Hz.
        comment: a text for people that the file carries.
        record: returns how the sound was made, in ASCII; it is called at the end.

    Yields:
        The function.

    Raises:
        InputError: if the file cannot be written.
        FileExistsError: if there is a file of that name.
    """
    soundfile = load(*WRITERS[Modality.AUDIO])
    with new_file(path, replace=False) as file:
        with soundfile.SoundFile(file, "w", samplerate=int(rate), channels=1, format="WAV") as sound:
            if comment:
                sound.comment = comment
            yield lambda wave: sound.write(finite(wave, path).T.numpy())
        text = record() if record else None
        if text:
            append_to_wav(file, text)


@contextmanager
def stream_video(
    path: str | Path,
    fps: float,
    size: tuple[int, int],
    sampling_rate: int | None = None,
    comment: str | None = None,
    record: Record | None = None,
) -> Iterator[AppendClip]:
    """Yield a function that appends frames, and their sound, to a new mp4 (h264, aac).

    Args:
        path: the file, whose name ends in .mp4, .mov or .m4v.
        fps: frames per second, which may be a fraction.
        size: height and width of the frames; an odd side repeats its last row or column.
        sampling_rate: the sampling rate of the sound in Hz; None without sound.
        comment: a text for people that the file carries.
        record: returns how the clip was made, in ASCII; it is called at the end.

    Yields:
        The function.

    Raises:
        InputError: if the file cannot be written.
        FileExistsError: if there is a file of that name.
    """
    load(*WRITERS[Modality.VIDEO])
    with new_file(path, replace=False) as file:
        form = CLIPS[Path(path).suffix.lower()]
        with open_new(file, form, {"movflags": "+faststart"}) as container:
            if comment:
                container.metadata["comment"] = comment
            clip = _Clip(container, fps, size, sampling_rate)
            yield clip.append
            clip.finish()
        text = record() if record else None
        if text:
            append_to_mp4(file, text)


class _Clip:
    """The streams of an mp4 that grows."""

    def __init__(self, container: Any, fps: float, size: tuple[int, int], sampling_rate: int | None) -> None:
        self._container = container
        rate = Fraction(fps).limit_denominator(1001)
        options = {"crf": "16", "preset": "medium"}
        self._picture = container.add_stream("libx264", rate=rate, options=options)
        self._picture.height, self._picture.width = (side + side % 2 for side in size)
        self._picture.pix_fmt = "yuv420p"
        self._rate = sampling_rate or 0
        self._sound: Any = None
        if sampling_rate is not None:
            self._sound = container.add_stream("aac", rate=sampling_rate, layout="mono")
        self._samples = 0  # appended so far

    def append(self, frames: Tensor, sound: Tensor | None = None) -> None:
        """Append frames uint8 (F, 3, H, W), and their sound, float (samples,) in [-1, 1]."""
        import av

        for picture in even(frames.cpu()).permute(0, 2, 3, 1).contiguous().numpy():
            self._container.mux(self._picture.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        assert (sound is None) == (self._sound is None), "sound comes with its rate"
        if sound is None:
            return
        samples = finite(sound, "a clip").numpy()
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._samples += samples.shape[-1]
        self._container.mux(self._sound.encode(frame))

    def finish(self) -> None:
        """Write what the encoders still hold."""
        self._container.mux(self._picture.encode(None))
        if self._sound is not None:
            self._container.mux(self._sound.encode(None))
