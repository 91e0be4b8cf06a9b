"""Read what a job continues: a clip, a sound or both, beyond the length of the model (`codi.continuing`).

A line of jobs says it under `continue`:

    {"id": "a", "to": "video,audio", "continue": {"files": ["clip.mp4"], "seconds": 8, "direction": "both"}}

`to` names what of the files goes on. Nothing heavy is imported before files are read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from codi.border import check_address
from codi.modalities import kind_of, kinds
from codi.types import InputError, Modality, listed
from codi.windows import DIRECTIONS

EXAMPLE = "{'files': ['clip.mp4'], 'seconds': 8}"
PADDING = 0.1  # seconds by which codecs of sounds lengthen what they hold
MOST_FILES = 4  # a clip and a sound at each side of a gap
Files = dict[Modality, str]


@dataclass(frozen=True, kw_only=True)
class Continued:
    """What goes on, and how.

    Attributes:
        files: a clip, a sound or both; two of a kind for the gap between them.
        seconds: the length of the result, with what is given.
        direction: one of `codi.windows.DIRECTIONS`.
        loop: whether the end leads to the beginning.
        overlap: seconds that windows share; None for the default of `codi.continuing.extend`.
        window: seconds of a window; None for the model's own length.
        resample_steps: how often each step is made; None for the pipeline's own number.
    """

    files: tuple[str, ...]
    seconds: float
    direction: str = "forwards"
    loop: bool = False
    overlap: float | None = None
    window: float | None = None
    resample_steps: int | None = None

    @classmethod
    def parse(cls, value: Any, folder: Path, resample_steps: Any = None) -> "Continued":
        """Read what a line has under `continue`.

        Args:
            value: the object; `files` may be one name.
            folder: where names of files start.
            resample_steps: what the line has under this key.

        Returns:
            What goes on.

        Raises:
            InputError: for what is no such object.
        """
        if not isinstance(value, Mapping):
            raise InputError(f"continue is {json.dumps(value)[:80]}: expected an object such as {EXAMPLE}")
        known = [field.name for field in fields(cls) if field.name != "resample_steps"]
        if unknown := [key for key in value if key not in known]:
            raise InputError(f"continue has the key {unknown[0][:80]!r}: expected some of {', '.join(known)}")
        given = {key: item for key, item in value.items() if item is not None}
        loop = given.get("loop", False)
        if not isinstance(loop, bool):
            raise InputError(f"loop is {json.dumps(loop)[:80]}: expected true or false")
        if given.get("direction", "forwards") not in DIRECTIONS:
            raise InputError(
                f"direction is {json.dumps(given['direction'])[:80]}: expected one of {', '.join(DIRECTIONS)}"
            )
        if "seconds" not in given:
            raise InputError("continue says no seconds: expected the length of the result, such as 8")
        lengths = [name for name in ("seconds", "overlap", "window") if name in given]
        whole = isinstance(resample_steps, int) and not isinstance(resample_steps, bool)
        if resample_steps is not None and not whole:
            raise InputError(f"resample_steps is {json.dumps(resample_steps)[:80]}: expected a whole number")
        return cls(
            files=_names(given.get("files"), folder),
            direction=given.get("direction", "forwards"),
            loop=loop,
            resample_steps=resample_steps,
            **{name: _length(name, given[name]) for name in lengths},
        )

    def line(self) -> dict[str, Any]:
        """Return what a line has under `continue`; what is the default is left out."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name != "resample_steps":
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    def check_request(self, job: Any) -> None:
        """Raise `InputError` for a job that asks for what windows cannot have.

        Args:
            job: the job (`codi.jobs.Job`).
        """
        if job.num_samples != 1 or job.candidates != 1:
            raise InputError(
                "continue beside several samples or candidates: expected num_samples and candidates of 1, "
                "and a line for each seed"
            )
        own = {**job.edits, **job.sizes, "regions": job.regions, "control": job.control}
        if given := [name for name, value in own.items() if value]:
            raise InputError(f"{given[0]} beside continue: windows have their own; expected none")
        timed = [m for m in Modality if kind_of(m).rate_field is not None]
        if wrong := [m for m in job.outputs if m not in timed]:
            raise InputError(
                f"{wrong[0]} has no time and cannot go on: expected some of {listed(timed)} in to"
            )
        if wrong := [item.modality for item in (*job.items, *job.negatives) if item.modality in timed]:
            raise InputError(
                f"a prompt of {wrong[0]} beside continue would begin anew in every window: expected words or "
                "a picture"
            )

    def sorted(self, outputs: Sequence[Modality]) -> tuple[Files, Files]:
        """Return the files by what of them goes on, and those that come at the end (`sorted_files`)."""
        return sorted_files(self.files, outputs)

    def extend(self, pipe: Any, media: Files, after: Files, **call: Any) -> Any:
        """Return the continuation of sorted files, of which nothing is made yet.

        Args:
            pipe: the pipeline.
            media: what goes on.
            after: what comes at the end; empty for nothing.
            **call: the seed, and further arguments of every call of the pipeline.

        Returns:
            The `codi.continuing.Continuation`.

        Raises:
            InputError: for files, lengths and settings that cannot be used.
        """
        from codi.continuing import extend

        return extend(
            pipe,
            media,
            seconds=self.seconds,
            direction=self.direction,
            after=after or None,
            loop=self.loop,
            overlap=self.overlap,
            window=self.window,
            **call,
        )

    def check(self, outputs: Sequence[Modality], seconds: float) -> None:
        """Raise `InputError` for files that cannot go on, of which so many seconds are decoded."""
        from codi import io

        media, after = self.sorted(outputs)
        stated = 0.0
        for files in (media, after):
            lengths = []
            for modality, path in files.items():
                kind_of(modality).check_file(path, seconds)
                lengths.append(io.facts(path).get(modality.value, {}).get("seconds") or 0.0)
            stated += max(lengths, default=0.0)
        if stated > self.seconds + PADDING:
            raise InputError(
                f"seconds is {self.seconds:g}, and what is given lasts {stated:g} s: expected more, the "
                "length of the result"
            )

    def described(self, outputs: Sequence[Modality]) -> dict[str, list[dict[str, Any]]]:
        """Return the files as a record lists them, by name and sha256."""
        from codi import records

        return {"sources": records.described_starts(*self.sorted(outputs))}


def _length(name: str, value: Any) -> float:
    """Return a number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**53:
        raise InputError(f"{name} is {json.dumps(value)[:80]}: expected a number of seconds above 0")
    return float(value)


def _names(value: Any, folder: Path) -> tuple[str, ...]:
    """Return names of files, which start at a folder."""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name.strip() for name in names) or not 0 < len(names) <= MOST_FILES:
        raise InputError(
            f"files is {json.dumps(value)[:80]}: expected the names of a clip, a recording or both, or of "
            "two of a kind for the gap between them"
        )
    for name in names:
        check_address(name)
    return tuple(str(folder / name) for name in names)


# Files -----------------------------------------------------------------


def sorted_files(
    paths: Sequence[str], wanted: Sequence[Modality] = (), called: str = "to"
) -> tuple[Files, Files]:
    """Return the files by what of them goes on, and those of the same kinds that come at the end.

    Args:
        paths: the files. One of a kind goes on, the second of a kind comes behind the gap.
        wanted: what goes on; empty for all that the files hold.
        called: what messages call `wanted`.

    Returns:
        Files by modality, twice.

    Raises:
        InputError: for more than two files of a kind, and for what is wanted and no file holds.
    """
    from codi import io

    found: tuple[Files, Files] = ({}, {})
    for path in paths:
        io.check_file(path)
    held = [io.facts(path) for path in paths]
    own = {Modality(each["kind"]) for each in held}
    for path, each in zip(paths, held):
        _place(found, Modality(each["kind"]), path)
    for path, each in zip(paths, held):  # the sound of a clip counts where no file of its own was given
        for carried in map(Modality, kind_of(each["kind"]).carries):
            if carried not in own and carried.value in each:
                _place(found, carried, path)
    media, after = found
    if wanted:
        for modality in wanted:
            if modality not in media:
                raise InputError(
                    f"{called} names {modality}, and no file holds it: expected {', '.join(media)}"
                )
        media, after = (_only(files, wanted) for files in found)
    if after and set(after) != set(media):
        raise InputError(
            f"the first files hold {', '.join(media)} and the last {', '.join(after)}: expected the same "
            "kinds on both sides of a gap"
        )
    return media, after


def _place(found: tuple[Files, Files], modality: Modality, path: str) -> None:
    """Put a file into the first of two dicts that lacks its modality."""
    for files in found:
        if modality not in files:
            files[modality] = path
            return
    raise InputError(f"{path} is the third {modality}: expected one, or two with a gap between them")


def _only(files: Mapping[Modality, str], wanted: Sequence[Modality]) -> Files:
    return {m: path for m, path in files.items() if m in wanted}


def words_of(paths: Sequence[str]) -> list[tuple[str, float]]:
    """Return the sentences, with their weights, that the first file was made from that says it."""
    from codi import records

    return next((words for words in map(records.words_of, paths) if words), [])


def prompts_of(words: Sequence[tuple[str, float]]) -> dict[str, list[Any]]:
    """Return sentences with their weights as an argument of the pipeline; nothing for none."""
    from codi.prompts import Prompt

    kind = next(kind for kind in kinds() if kind.in_words)
    return {kind.name: [Prompt(text, weight) for text, weight in words]} if words else {}


# Windows ---------------------------------------------------------------


def plan(pipe: Any, job: Any, **more: Any) -> Any:
    """Return the continuation that a job asks for, of which nothing is made yet.

    Args:
        pipe: the pipeline.
        job: the job (`codi.jobs.Job`); without prompts it has the words that its files were made from.
        **more: further arguments of every call of the pipeline, such as a callback.

    Returns:
        The `codi.continuing.Continuation`.

    Raises:
        InputError: for files, lengths and settings that cannot be used.
    """
    media, after = job.continued.sorted(job.outputs)
    call = {**_prompts(job), **_settings(job), **more}
    if job.continued.resample_steps is not None:
        call["resample_steps"] = job.continued.resample_steps
    return job.continued.extend(pipe, media, after, seed=job.seed, **call)


def resolve(pipe: Any, job: Any) -> tuple[Any, int]:
    """Check all of what a job that goes on asks.

    Args:
        pipe: the pipeline.
        job: the job.

    Returns:
        The `codi.request.Request` of one window, and the number of windows.

    Raises:
        InputError: as for `plan`, and for settings that the model does not have.
    """
    windows = len(plan(pipe, job).steps)
    given = dict.fromkeys(item.modality for item in job.items)
    request = pipe.resolve(
        given=list(given),
        negatives=list(dict.fromkeys(item.modality for item in job.negatives)),
        outputs=list(job.outputs),
        sizes={"audio_length_in_s": job.continued.window},
        **_settings(job),
    )
    return request, windows


def _prompts(job: Any) -> dict[str, Any]:
    """Return the prompts of every call; without any the words that the files were made from."""
    from codi.prompts import Prompt

    found: dict[str, Any] = {}
    for items, sign in ((job.items, ""), (job.negatives, "negative_")):
        for item in items:
            value = item.value if kind_of(item.modality).in_words else Path(item.value)
            found.setdefault(f"{sign}{item.modality}", []).append(Prompt(value, weight=item.weight))
    return found if job.items else found | prompts_of(words_of(job.continued.files))


def _settings(job: Any) -> dict[str, Any]:
    """Return the settings of every call; what is left out is the model's own."""
    return {name: value for name, value in job.settings.items() if value is not None and name != "candidates"}
