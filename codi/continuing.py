"""Continue a clip, a sound, or both in step, beyond the length of the model: by windows that overlap.

    longer = extend(pipe, {"video": clip, "audio": sound}, seconds=8, text="a red ball bounces")
    longer.save("out/")                      # streamed, a window at a time
    media = longer.gather()                  # or in memory: {Modality.VIDEO: ..., Modality.AUDIO: ...}
    for piece in longer: ...                 # or one by one, as they are made

Each window is one call of the pipeline in which what is known of it is kept (docs/editing.md), so that what
was given comes back to the bit, and every window begins where the one before it ends. Windows lie on ticks of
time in which all media have whole steps (`codi.windows`).
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi import io, records
from codi.border import check_number
from codi.filters import Filter, Refused, show
from codi.modalities import kind_of
from codi.types import InputError, Modality, ModalitySpec, listed
from codi.version import __version__
from codi.windows import DIRECTIONS, Layout, Step, plan, tick_rate, ticks

Media = dict[Modality, Tensor]
REFLECTED = 0.02  # seconds behind what is known, more than the crossfade of a sound at a seam
# arguments of a pipeline that windows have for themselves, or that would mean something else in each of them
TAKEN = (
    "outputs",
    "num_samples",
    "start",
    "strength",
    "keep",
    "keyframes",
    "canvas",
    "source_prompt",
    "output_type",
    "return_dict",
    "generator",
    "latents",
    "num_frames",
    "fps",
    "audio_length_in_s",
    "lengths",
    "regions",
    "control",
)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One part of the result: what was given, or what is new in one window.

    Attributes:
        begin: its place in the result, in ticks; below 0 before what was given.
        end: where it ends.
        media: clips as uint8 (F, 3, H, W), sounds as float (samples,) in [-1, 1].
        seed: the seed of the window; None for what was given.
    """

    begin: int
    end: int
    media: Media
    seed: int | None = None

    def cut(self, modality: Modality, begin: int, end: int, steps: int) -> Tensor:
        """Return what lies from `begin` to `end`, as far as it is here; a tick has `steps` raw steps."""
        first = max(begin - self.begin, 0) * steps
        return self.media[modality][first : max(end - self.begin, 0) * steps]


class Continuation:
    """A clip, a sound or both that go on; iterating makes one window after the other.

    Pieces come in the order in which they are made, from what was given outwards. Only those are held that
    later windows border on.

    Args:
        pipe: the pipeline.
        specs: the geometry of one window of each medium.
        given: what was given: one piece, or two for a gap.
        steps: the windows.
        rate: ticks per second.
        seed: the seed of the first window; each has the next.
        call: what every call of the pipeline is given.
        about: what the record says of it.
    """

    def __init__(
        self,
        pipe: Any,
        specs: Mapping[Modality, ModalitySpec],
        given: Sequence[Piece],
        steps: Sequence[Step],
        rate: Fraction,
        seed: int,
        call: Mapping[str, Any],
        about: Mapping[str, Any],
    ) -> None:
        self.specs = specs
        self.steps = steps
        self._pipe = pipe
        self._given = given
        self._rate = rate
        self._seed = seed
        self._call = call
        self._about = about
        self._per_tick = {m: int(_fraction(spec) / rate) for m, spec in specs.items()}
        self._record: dict[str, Any] = {}
        self._filter: Filter | None = None
        self._changed: set[str] = set()  # what the filter changed
        self._model: dict[str, Any] = {}  # what the record says of the model beside what the pipeline does
        self._windows = 0  # that the files hold
        self._first = min(place for step in steps for place in (0, step.made[0]))

    def __iter__(self) -> Iterator[Piece]:
        """Yield what was given, then the new part of each window as soon as it is made."""
        held = list(self._given)
        yield from (piece for piece in held if self._is_shown(piece))
        for k, step in enumerate(self.steps):
            piece = self._made(step, held, self._seed + k)
            held = [one for one in (*held, piece) if _is_needed(one, self.steps[k + 1 :])]
            yield piece

    @property
    def seams(self) -> list[float]:
        """Where windows meet, in seconds of the result."""
        places = {edge for step in self.steps for edge in step.made}
        ends = {self._first, max(step.made[1] for step in self.steps)} - {
            piece.begin for piece in self._given
        }
        return [float((place - self._first) / self._rate) for place in sorted(places - ends)]

    def _is_shown(self, piece: Piece) -> bool:
        """Return whether a given piece is part of the result; the end of a loop is its beginning again."""
        return piece.begin == 0 or not self._about["loop"]

    def _made(self, step: Step, held: Sequence[Piece], seed: int) -> Piece:
        """Make one window, and return what is new in it."""
        seconds = [tuple(float((place - step.begin) / self._rate) for place in span) for span in step.known]
        out = self._pipe(
            outputs=list(self.specs),
            start={m: self._window(m, step, held) for m in self.specs},
            keep={m: seconds for m in self.specs},
            seed=seed,
            output_type="pt",
            **self._call,
        )
        self._record = self._record or {**out.origin, "resolved": out.settings}
        window = Piece(begin=step.begin, end=0, media={m: out.of(m)[0] for m in self.specs})
        begin, end = step.made
        media = {m: window.cut(m, begin, end, self._per_tick[m]).clone() for m in self.specs}
        return Piece(begin=begin, end=end, media=media, seed=seed)

    def _window(self, modality: Modality, step: Step, held: Sequence[Piece]) -> Tensor:
        """Return one medium of a window, in which what is known has its place."""
        per_tick = self._per_tick[modality]
        like = held[0].media[modality]
        # what is not known is hidden before it is encoded; it is not zero, as silence would be refused
        window = like.new_ones(self.specs[modality].raw_shape)
        for begin, end in step.known:
            for piece in held:
                part = piece.cut(modality, begin, end, per_tick)
                place = (max(begin, piece.begin) - step.begin) * per_tick
                window[place : place + len(part)] = part
        reach = math.ceil(REFLECTED * self.specs[modality].timed[0])
        for begin, end in step.known:
            _reflect(window, (begin - step.begin) * per_tick, (end - step.begin) * per_tick, reach)
        return window

    def gather(self) -> Media:
        """Make all of it, and return each medium in one tensor."""
        pieces = sorted(self, key=lambda piece: piece.begin)
        return {m: torch.cat([piece.media[m] for piece in pieces]) for m in self.specs}

    def save(
        self,
        folder: str | Path,
        report: Callable[[str], None] | None = None,
        filter: Filter | Callable[[Any], Any] | str | None = None,
        sign: Callable[[list[Path], Mapping[str, Any]], list[Path]] | None = None,
        name: str | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Make all of it and write it as it is made, under the next free number of a folder or under a name.

        What comes before what was given is made from there outwards, and is held until its beginning is made.
        After an interrupt or an error the files hold all windows that were complete; under a name there are
        none then.

        Args:
            folder: where the files go.
            report: is told of every window that is done, in a line.
            filter: is asked of the new part of every window (`codi.filters`), and may change it.
            sign: signs the files before anybody sees them (`codi.credentials.Signer`).
            name: that of the files, which replace what is there; None for the next free number.
            model: what the record says of the model in place of what the pipeline says, such as its name.

        Returns:
            The paths of the files.

        Raises:
            InputError: for a file that cannot be written, or what the pipeline refuses. If the filter refuses
                a window, nothing is written.
        """
        io.check_writers(self.specs)
        folder = io.check_folder(folder)
        self._filter, self._changed, self._model = Filter.parse(filter), set[str](), dict(model or {})
        named = io.numbered(folder) if name is None else nullcontext(name)
        with named as stem, io.staged(folder, replace=name is not None) as place:
            with ExitStack() as stack:
                failure = self._write(place / stem, stack, report)
            if failure is not None and name is not None:
                raise failure
            paths = [kind_of(m).path(place / stem) for m in reversed(list(self.specs))]
            if sign is not None:
                paths += sign(paths, self._described(self._windows))
        if failure is not None:
            raise failure
        return [folder / path.name for path in paths]

    def _passed(self, piece: Piece) -> Piece:
        """Return a piece as the filter lets it pass; what was given is not asked about."""
        if self._filter is None or piece.seed is None:
            return piece
        rates = {str(kind_of(m).rate_field): spec.timed[0] for m, spec in self.specs.items()}
        shown = show(piece.media, self._described(0), seed=piece.seed, **rates)
        changed = self._filter.changed(shown)
        for name, new in changed.items():
            if new.shape != shown.media[name].shape:
                raise Refused(
                    f"the filter {self._filter.name} returned the {name} of a window as {tuple(new.shape)}: "
                    f"expected {tuple(shown.media[name].shape)}, since others follow; nothing is written"
                )
        self._changed |= set(changed)
        return replace(piece, media={m: changed.get(m.value, made) for m, made in piece.media.items()})

    def _write(
        self, stem: Path, stack: ExitStack, report: Callable[[str], None] | None
    ) -> BaseException | None:
        """Write the files, and return what ended it early; with no window complete it is raised."""
        comment = f"generated by codi {__version__}, {self._about['seconds']:g} s continued"
        order = InOrder(self._first)
        text = lambda: records.to_text(self._described(order.windows))
        streams = [kind_of(m).stream(stem, self.specs, comment, text) for m in reversed(list(self.specs))]
        appends = [stack.enter_context(stream) for stream in streams]
        failure = None
        try:
            for piece in self:
                for ready in order.add(self._passed(piece)):
                    _append(appends, ready)
                if report is not None and piece.seed is not None:
                    report(f"window {order.windows} of {len(self.steps)}")
        except (Exception, KeyboardInterrupt) as error:
            if not order.windows or isinstance(error, Refused):
                raise
            failure = error
        for ready in order.rest():
            _append(appends, ready)
        self._windows = order.windows
        return failure

    def record(self) -> dict[str, Any]:
        """Return the record of the files that were written."""
        return self._described(self._windows)

    def _described(self, windows: int) -> dict[str, Any]:
        """Return the record of the files, in which so many windows are complete."""
        about = {**self._about, "windows": windows, "of": len(self.steps)}
        sources = {"sources": self._about["sources"]} if self._about["sources"] else {}
        about = {key: value for key, value in about.items() if key != "sources"}
        changed = {}
        if self._filter is not None and self._changed:
            changed = {"filter": {**self._filter.described(), "changed": sorted(self._changed)}}
        found = records.head() | self._record | sources | {"seed": self._seed, "continued": about} | changed
        return found | {"model": {**found.get("model", {}), **self._model}}


class InOrder:
    """Bring pieces into the order of time; a piece waits until all before it have come.

    Args:
        first: where the first piece begins.
    """

    def __init__(self, first: int) -> None:
        self.windows = 0  # that have come
        self._next = first
        self._begun = False
        self._waiting: dict[int, Piece] = {}

    def add(self, piece: Piece) -> list[Piece]:
        """Take a piece, and return those whose turn has come."""
        self.windows += piece.seed is not None
        self._waiting[piece.begin] = piece
        return self._run()

    def rest(self) -> list[Piece]:
        """Return those that wait and follow each other, where nothing came before them."""
        if self._waiting and not self._begun:
            self._next = min(self._waiting)
        return self._run()

    def _run(self) -> list[Piece]:
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next = ready[-1].end
        self._begun = self._begun or bool(ready)
        return ready


def extend(
    pipe: Any,
    media: Mapping[Any, Any],
    *,
    seconds: float,
    direction: str = "forwards",
    after: Mapping[Any, Any] | None = None,
    loop: bool = False,
    overlap: float | None = None,
    window: float | None = None,
    seed: int = 0,
    **call: Any,
) -> Continuation:
    """Continue media in step: forwards, backwards, to both sides, up to other media, or in a loop.

    Args:
        pipe: a `CoDiPipeline`.
        media: a clip, a sound or both, {"video": clip, "audio": sound}, in any form of a prompt.
        seconds: the length of the result, with what is given.
        direction: "forwards", "backwards", or "both" for half of it each.
        after: media of the same kinds that come at the end; the gap before them is filled.
        loop: whether the end leads to the beginning.
        overlap: how much of each window is known at least, in seconds; None for half a window, and for a
            quarter where the last window is known at both ends.
        window: the length of a window in seconds; None for the model's own.
        seed: the seed of the first window; each window has the next one.
        **call: arguments of the pipeline for every window, such as text, num_inference_steps and
            resample_steps.

    Returns:
        The continuation, of which nothing is made yet.

    Raises:
        InputError: for media, lengths and arguments that cannot be used.
    """
    if not media:
        raise InputError("media names nothing to continue: expected such as {'video': clip}")
    _check_asked(direction, after is not None, loop, call)
    outputs = tuple(sorted(map(Modality.parse, media), key=list(Modality).index))
    _check_kinds(outputs)
    call = dict(call)
    if window is not None:
        call["audio_length_in_s"] = check_number("window", window)
    sizes = {"audio_length_in_s": window}
    specs = {m: pipe.resolve(given=(), outputs=list(outputs), sizes=sizes).specs[m] for m in outputs}
    rate = tick_rate([spec.timed[0] for spec in specs.values()])
    longest = min(int(Fraction(spec.raw_shape[0]) / _fraction(spec) * rate) for spec in specs.values())
    source = _given(media, specs, rate, 0)
    behind = None
    if after is not None:
        if tuple(sorted(map(Modality.parse, after), key=list(Modality).index)) != outputs:
            raise InputError(f"after names {', '.join(after)}: expected {listed(outputs)}, what is continued")
        behind = _given(after, specs, rate, 0)
    end = _end(ticks("seconds", check_number("seconds", seconds), rate), source, behind, rate)
    layout = Layout(
        source=source.end,
        end=end,
        window=longest,
        overlap=_overlap(overlap, longest, rate, closed=loop or after is not None),
        after=source.end if loop else behind.end if behind else 0,
    )
    last = source if loop else behind
    given = [source]
    if last is not None:
        given.append(Piece(begin=end, end=end + last.end, media=last.media))
    about = {
        "seconds": float(seconds),
        "direction": direction,
        "loop": loop,
        "overlap": float(layout.overlap / rate),
        "window": float(longest / rate),
        "sources": records.described_starts(media, after or {}),
    }
    return Continuation(pipe, specs, given, plan(layout, direction), rate, seed, call, about)


def _check_asked(direction: str, between: bool, loop: bool, call: Mapping[str, Any]) -> None:
    """Raise `InputError` for directions that contradict each other, and for arguments of no use."""
    if direction not in DIRECTIONS:
        raise InputError(f"direction is {direction!r}: expected one of {', '.join(DIRECTIONS)}")
    if between and loop:
        raise InputError("after and loop were both given: expected one of them")
    if (between or loop) and direction != "forwards":
        what = "after" if between else "loop"
        raise InputError(
            f"direction is {direction!r} beside {what}, which closes a gap: expected no direction"
        )
    if call.get("upscale") is not None:
        raise InputError("upscale was given: windows go on in the model's own size; expected none")
    for name in TAKEN:
        if call.get(name) is not None:
            raise InputError(f"{name} was given: windows have their own; expected none")


def _check_kinds(outputs: Sequence[Modality]) -> None:
    """Raise `InputError` for what has no time."""
    timed = [m for m in Modality if kind_of(m).rate_field is not None]
    for modality in outputs:
        if modality not in timed:
            raise InputError(f"{modality} has no time and cannot be continued: expected {listed(timed)}")


def _given(
    media: Mapping[Any, Any], specs: Mapping[Modality, ModalitySpec], rate: Fraction, begin: int
) -> Piece:
    """Return media as one piece; all of them last equally long, in whole ticks."""
    found = {}
    for name, value in media.items():
        modality = Modality.parse(name)
        found[modality] = kind_of(modality).whole(value, specs[modality])
    lengths = {m: len(raw) / specs[m].timed[0] for m, raw in found.items()}
    shortest, longest = min(lengths.values()), max(lengths.values())
    if (longest - shortest) * rate > 1:
        each = ", ".join(f"{m} {seconds:g} s" for m, seconds in lengths.items())
        raise InputError(f"media of different lengths cannot go on in step ({each}): cut them to the same")
    count = int(min(longest, shortest + float(1 / rate) / 2) * rate + 1e-6)
    if count < 1:
        raise InputError(f"what is given lasts {shortest:g} s: expected at least {float(1 / rate):g} s")
    exact = {m: _exactly(raw, count * int(_fraction(specs[m]) / rate)) for m, raw in found.items()}
    if any(len(exact[m]) != len(found[m]) for m in found):
        warnings.warn(f"what is given counts as {float(count / rate):g} s, to whole frames", stacklevel=3)
    return Piece(begin=begin, end=begin + count, media=exact)


def _exactly(raw: Tensor, steps: int) -> Tensor:
    """Return so many steps of a medium, of which the last is repeated where some are missing."""
    missing = max(0, steps - len(raw))
    return torch.cat([raw[:steps], raw[-1:].expand(missing, *raw.shape[1:])])


def _end(total: int, source: Piece, behind: Piece | None, rate: Fraction) -> int:
    """Return where what is made ends; raise `InputError` where nothing is left to be made."""
    there = source.end + (behind.end if behind else 0)
    if total <= there:
        raise InputError(
            f"seconds is {float(total / rate):g}, and what is given lasts {float(there / rate):g} s: "
            "expected more, the length of the result"
        )
    return total - (behind.end if behind else 0)


def _overlap(seconds: float | None, window: int, rate: Fraction, closed: bool) -> int:
    """Return the overlap in ticks; a window that closes a gap has it at both ends."""
    if seconds is None:
        return max(1, window // (4 if closed else 2))
    count = ticks("overlap", check_number("overlap", seconds), rate)
    most = (window - 1) // 2 if closed else window - 1
    if not 1 <= count <= most:
        why = "known at both ends, " if closed else ""
        lasts = float(window / rate)
        raise InputError(
            f"overlap is {seconds:g} s, and a window lasts {lasts:g} s, {why}of which something is to be "
            f"new: expected {float(1 / rate):g} to {float(most / rate):g} s"
        )
    return count


def _fraction(spec: ModalitySpec) -> Fraction:
    """Return the raw steps per second of a modality that has time."""
    return Fraction(spec.timed[0]).limit_denominator(1001)


def _is_needed(piece: Piece, steps: Sequence[Step]) -> bool:
    """Return whether any window borders on a piece."""
    return any(piece.begin < end and begin < piece.end for step in steps for begin, end in step.known)


def _reflect(window: Tensor, begin: int, end: int, reach: int) -> None:
    """Let what is known go on as its own mirror image behind both of its ends.

    A sound passes from there to what is new, so that there is no jump at the seam.
    """
    known = window[begin:end].flip(0)
    right = min(reach, len(known), len(window) - end)
    left = min(reach, len(known), begin)
    window[end : end + right] = known[:right]
    window[begin - left : begin] = known[len(known) - left :]


def _append(appends: Sequence[Callable[[Media], None]], piece: Piece) -> None:
    for append in appends:
        append(piece.media)
