"""How much anybody may ask of a server: each limit is an option of `codi serve`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from codi.serve.values import LimitError
from codi.types import InputError

MiB = 1 << 20


def _limit(default: int | float, help_: str) -> Any:
    """Return a field with a default, and what the help of its option says."""
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes, makes and keeps at most.

    Attributes:
        max_queue: jobs that wait; further ones are refused until there is room.
        max_upload_bytes: bytes of one uploaded file.
        max_uploads: uploaded files of one job.
        max_request_bytes: bytes of one request as JSON, without its files.
        max_text: letters of one prompt, or of any other text in a request.
        max_samples: samples of one job, all candidates counted.
        max_steps: denoising steps of one output.
        max_seconds: seconds of one sound or clip.
        max_windows: windows of one job that continues a clip or a sound.
        max_pixels: pixels of one picture or frame.
        step_timeout: seconds without a finished step after which the process that makes is ended.
        batch: samples that are made at once.
        keep_jobs: finished jobs that are kept; the oldest are removed first.
        keep_bytes: bytes of all finished jobs that are kept.
    """

    max_queue: int = _limit(64, "jobs that wait; further ones are refused")
    max_upload_bytes: int = _limit(64 * MiB, "bytes of one uploaded file")
    max_uploads: int = _limit(16, "uploaded files of one job")
    max_request_bytes: int = _limit(MiB // 4, "bytes of one request without its files")
    max_text: int = _limit(2000, "letters of one prompt")
    max_samples: int = _limit(16, "samples of one job, all candidates counted")
    max_steps: int = _limit(250, "denoising steps of one output")
    max_seconds: float = _limit(60.0, "seconds of one sound or clip")
    max_windows: int = _limit(120, "windows of a job that continues a clip or a sound")
    max_pixels: int = _limit(1024 * 1024, "pixels of one picture or frame")
    step_timeout: float = _limit(1800.0, "seconds that one step may take, or what comes before and after all")
    batch: int = _limit(16, "samples of all jobs that are made at once")
    keep_jobs: int = _limit(1000, "finished jobs that are kept")
    keep_bytes: int = _limit(10 << 30, "bytes of all finished jobs that are kept")

    def __post_init__(self) -> None:
        """Raise `InputError` for a limit that lets nothing through."""
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}: expected at least 1")

    def check_request(self, request: Any, uploads: int) -> dict[str, Any]:
        """Return a request as JSON has it, or raise `InputError` for one that is none or too large."""
        if not isinstance(request, Mapping):
            raise InputError(
                f"the request is a {type(request).__name__}: expected an object such as "
                "{'text': 'a red ball', 'to': 'image'}"
            )
        try:
            text = json.dumps(request, allow_nan=False)
            found = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            raise InputError(
                "the request holds what JSON has not, or is nested too deeply: expected texts, numbers, "
                "lists and objects"
            ) from None
        self._check("request has", len(text), self.max_request_bytes, "bytes")
        self._check("request has", uploads, self.max_uploads, "files")
        for each in _texts(found):
            self._check("a text has", len(each), self.max_text, "letters")
        goes_on = found.get("continue")  # before its files are read, which are no longer than the result
        if isinstance(goes_on, dict) and isinstance(goes_on.get("seconds"), (int, float)):
            self._check("what is to be made lasts", goes_on["seconds"], self.max_seconds, "seconds")
        return dict(found)

    def check_upload(self, name: str, size: int) -> None:
        """Raise `LimitError` for an uploaded file that is too large."""
        self._check(f"{name} has", size, self.max_upload_bytes, "bytes")

    def check_size(self, size: Mapping[str, Any]) -> None:
        """Raise `LimitError` for a job that makes too much.

        Args:
            size: its "rows" (samples with all candidates), its "windows" where it goes on beyond the length
                of the model, and its "steps", "seconds" and "pixels", each the most of any output.

        Raises:
            LimitError: naming the first that is too much.
        """
        self._check("num_samples times candidates is", size["rows"], self.max_samples)
        self._check("num_inference_steps is", size["steps"], self.max_steps)
        self._check("it goes on for", size.get("windows", 1), self.max_windows, "windows")
        self._check("what is to be made lasts", size["seconds"], self.max_seconds, "seconds")
        self._check("what is to be made has", size["pixels"], self.max_pixels, "pixels")

    def _check(self, what: str, value: float, most: float, unit: str = "") -> None:
        if value > most:
            unit = f" {unit}" if unit else ""
            raise LimitError(f"{what} {value:.12g}{unit}: this server takes at most {most:.12g}")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts of a value of JSON, keys as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
