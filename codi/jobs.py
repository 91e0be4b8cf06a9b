"""Read what `codi generate` is asked to do, check it, and put it into batches.

A job is one request. It comes from the options of the command line (`from_arguments`), from a line of a JSONL
file (`from_file`), or from a record (`codi.again`).
"""

import argparse
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codi import edits as editing
from codi import renamed
from codi.border import (
    check_address,
    parse_classifier,
    parse_guiders,
    parse_scale,
    parse_upscale,
    without_aliases,
)
from codi.continued import Continued
from codi.controls import asked as controls
from codi.edits import Edits
from codi.failures import Failures
from codi.modalities import kind_of, sized
from codi.types import InputError, Modality, blame, listed

# whole numbers, and the least and the most that each may be
NUMBERS = {
    "num_samples": (1, 100_000),
    "candidates": (1, 10_000),
    "seed": (0, 2**63 - 2**32 - 1),
    "num_inference_steps": (1, 2**53),
}
SCALES = ("guidance_scale", "sync_guidance_scale", "start_offset")  # a number, or one for each output
# sizes of what is made, and the kind of number that each is
SIZES = {"height": int, "width": int, "num_frames": int, "fps": float, "audio_length_in_s": float}
SWITCHES = ("sync", "auxiliary_caption")  # true or false
REGION_SIGN = " @ "  # between the words of a region and where they count, on the command line
REGION_NUMBERS = {"box": 4, "interval": 2, "feather": 1, "fade": 1, "weight": 1}
REGION_KEYS = (*REGION_NUMBERS, "mask", "outputs")  # besides its prompts
REGION_EXAMPLE = "'a red ball @ box=0,0,0.5,1 interval=0,1'"
# attributes of a job that a call of the pipeline takes as they are
SETTINGS = (
    "num_inference_steps",
    "start_offset",
    "candidates",
    "auxiliary_caption",
    "guidance_scale",
    "sync_guidance_scale",
)
# named settings with options, and how each is read; None for the model's own
NAMED = {"guider": parse_guiders, "classifier_guidance": parse_classifier, "upscale": parse_upscale}
LENGTHS = ("agree", "free")  # whether a clip and a sound that are made together last equally long
RANDOM = "random"  # stands for a seed that is drawn
# Not defaults of the parser, so that a record given with --from may decide what nobody named.
DEFAULTS: dict[str, Any] = {
    "num_samples": 1,
    "seed": 0,
    "candidates": 1,
    "sync": True,
    "auxiliary_caption": True,
    "lengths": "agree",
    "dtype": "float32",
    "device": "auto",
    "batch": 16,
}
MAX_LINE = 1 << 20  # bytes of a line of a file of jobs
MAX_DIGITS = 400  # of a whole number in one
# what Windows takes for devices, with any suffix
RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{k}" for port in ("COM", "LPT") for k in range(10)}
PROMPT_SECONDS = 10.0  # how much of a recording or clip is decoded to check it


def prompt_keys() -> dict[str, Modality]:
    """Return the keys of prompts, and of negative ones, with the modality that each is for."""
    prompts = {m.value: m for m in Modality}
    return prompts | {f"negative_{m}": m for m in Modality}


def job_keys() -> tuple[str, ...]:
    """Return the keys that a line of a file of jobs may have.

    Some of them have short names, too (`codi.renamed.SHORT`).
    """
    given = (*NUMBERS, *SIZES, *SCALES, *NAMED, *SWITCHES, "lengths", *editing.NAMES, "regions", "control")
    return ("id", "to", *prompt_keys(), *given, "continue")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt: words or a path, and how much it counts.

    Attributes:
        modality: the kind of medium.
        value: the words, or the path of a file.
        weight: how much it counts among the prompts that it is combined with.
    """

    modality: Modality
    value: str
    weight: float = 1.0


Scale = float | dict[str, float] | None  # None for the model's own


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One request: prompts, and how many sets of which outputs are made from them.

    Attributes:
        id: the name of the job and of its files; None for a job whose files get numbers.
        items: prompts to follow.
        outputs: what is made, in the order asked for.
        num_samples: sets of outputs.
        seed: that of the first sample; sample k is made from seed + k.
        num_inference_steps: denoising steps of every output, or of each, which composed models take; None for
            the model's own.
        guidance_scale: how closely to follow the prompts.
        sync_guidance_scale: how closely to follow the other outputs and clean partners.
        start_offset: schedules after which an output starts. This and the two scales are one number, or one
            for each output by name; None for the model's own.
        guider: the variant of guidance, or one for each output by name; None for the model's own.
        classifier_guidance: the built-in function whose gradients act, with its options; None for none.
        upscale: how much larger pictures and clips are made (`codi.upscaling`); None for not at all.
        sizes: those of `SIZES` that are not the model's own.
        negatives: prompts to steer away from.
        candidates: how many are drawn for each sample, of which the best is kept.
        drawn: whether the seed is drawn at random, because that was asked for.
        lengths: one of `LENGTHS`.
        sync: whether an input that runs in time is a clean partner where an output runs in time, too; or the
            names of the inputs that are.
        auxiliary_caption: whether several outputs may agree with a caption that nobody asked for.
        edits: what outputs are given of themselves, by the names of the pipeline's arguments
            (`codi.edits`); media are files or words.
        regions: prompts for parts of what is made, each a dict as JSON has it (`codi.regions`), names of
            files from where the command runs.
        control: what steers outputs beside their prompts, as `codi.controls.asked.ControlInput.described`.
        continued: what goes on beyond the length of the model, window by window; None for one call.
        more: arguments of the pipeline that only a record names.
        places: for a job from a record, of each sample its `seed`, and as `batch` the row and the number of
            rows of the batch that it stood in, or None; otherwise empty.
        origin: the file and line that the job comes from, as messages begin.
        written: by which names settings were given, for messages; one that is not here was given by its own.
    """

    id: str | None
    items: tuple[Item, ...]
    outputs: tuple[Modality, ...]
    num_samples: int
    seed: int
    num_inference_steps: int | dict[str, int] | None
    guidance_scale: Scale = None
    sync_guidance_scale: Scale = None
    start_offset: Scale = None
    guider: dict[str, Any] | None = None
    classifier_guidance: dict[str, Any] | None = None
    upscale: dict[str, Any] | None = None
    sizes: dict[str, float] = field(default_factory=dict)
    negatives: tuple[Item, ...] = ()
    candidates: int = 1
    drawn: bool = False
    lengths: str = "agree"
    sync: bool | tuple[str, ...] = True
    auxiliary_caption: bool = True
    edits: dict[str, Any] = field(default_factory=dict)
    regions: tuple[dict[str, Any], ...] = ()
    control: tuple[dict[str, Any], ...] = ()
    continued: Continued | None = None
    more: dict[str, Any] = field(default_factory=dict)
    places: tuple[dict[str, Any], ...] = ()
    origin: str = ""
    written: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `InputError` for what no model can make."""
        with blame(self.origin):
            sources = self.sources
        if not self.items and not self.regions and not sources.by_output and not self.continued:
            raise InputError(
                f"{self.origin}no prompt: expected at least one of {listed(Modality)}, e.g. --text 'a red "
                "ball'"
            )
        if not self.outputs:
            raise InputError(
                f"{self.origin}nothing to make: expected --to with text, image, audio or video, e.g. --to "
                "image,audio"
            )
        for what, items in (("prompts", self.items), ("negative prompts", self.negatives)):
            if items and sum(item.weight for item in items) <= 0:
                raise InputError(
                    f"{self.origin}the weights of the {what} sum to zero: expected at least one above zero"
                )
        for name, (least, most) in NUMBERS.items():
            given = getattr(self, name)
            for value in given.values() if isinstance(given, dict) else [given]:
                if value is not None and not least <= value <= most:
                    called = self._called(name)
                    raise InputError(
                        f"{self.origin}{called} is {value}: expected a number from {least} to {most}"
                    )
        for name, value in self.sizes.items():
            self._check_size(name, value)
        for name in SCALES:
            self._check_scale(name, getattr(self, name))
        if self.continued is not None:
            with blame(self.origin):
                self.continued.check_request(self)

    def _check_size(self, name: str, value: float) -> None:
        """Raise `InputError` for a size that no model can make; the rest is for the model to say."""
        called = self._called(name)
        if not applies(name, self.outputs):
            able = " or ".join(sized(name))
            raise InputError(
                f"{self.origin}{called} is {value:g}, but no {able} is made: expected {able} in --to, or no "
                f"{called}"
            )
        if not 0 < value < 2**53:
            raise InputError(f"{self.origin}{called} is {value:g}: expected a number above 0")

    def _check_scale(self, name: str, scale: Scale) -> None:
        """Raise `InputError` for a scale of what is not made, and for negative prompts without guidance."""
        for output in scale if isinstance(scale, dict) else ():
            if Modality(output) not in self.outputs:
                raise InputError(
                    f"{self.origin}{self._called(name)} names {output}, which is not made: expected some of "
                    f"{', '.join(self.outputs)}"
                )
        if isinstance(scale, dict):
            off = all(scale.get(m.value) == 1 for m in self.outputs)
        else:
            off = scale == 1
        if name == "guidance_scale" and off and self.negatives:
            raise InputError(
                f"{self.origin}negative prompts act through guidance, which is 1 (off): expected another, "
                "e.g. --guidance 3"
            )

    def _called(self, name: str) -> str:
        """Return the name by which a setting was given."""
        return self.written.get(name, name)

    @property
    def names(self) -> list[str]:
        """File names of the samples without suffix: 000, 001, ..., or the id, with numbers for several."""
        if self.id is not None and self.num_samples == 1:
            return [self.id]
        prefix = "" if self.id is None else f"{self.id}-"
        return [f"{prefix}{k:03d}" for k in range(self.num_samples)]

    def with_seed(self) -> "Job":
        """Return the job, with a seed that is drawn now where a line asks for a random one."""
        if not self.drawn or self.id is None:
            return self
        return replace(self, seed=draw_seed(RANDOM, self.origin))

    @property
    def seeds(self) -> list[int]:
        """The seed of each sample."""
        if self.places:
            return [place["seed"] for place in self.places]
        return list(range(self.seed, self.seed + self.num_samples))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the pipeline besides prompts and seeds; None stands for the model's own value."""
        found = {name: getattr(self, name) for name in SETTINGS}
        named = {name: getattr(self, name) for name in NAMED}
        found |= _without_none(named)
        lengths = {} if self.lengths == "agree" else {"lengths": self.lengths}
        regions = {"regions": list(self.regions)} if self.regions else {}
        control = {"control": list(self.control)} if self.control else {}
        return found | self.sizes | lengths | regions | control | self.more

    @property
    def sources(self) -> Edits:
        """What outputs are given of themselves; a first prompt stands for a start that is kept in part."""
        inputs = {item.modality: item.value for item in reversed(self.items)}
        return Edits.from_arguments(inputs=inputs, **self.edits)

    @property
    def edit_arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline that say what outputs are given of themselves."""
        if not self.edits:
            return {}
        starts = {
            m.value: edit.source for m, edit in self.sources.by_output.items() if edit.source is not None
        }
        return {**self.edits, "start": starts}

    @property
    def clip(self) -> Path | None:
        """The file of the first video prompt, which may get a new sound; None if there is none."""
        for item in self.items:
            if kind_of(item.modality).takes_sound:
                return Path(item.value)
        return None

    @property
    def group(self) -> str:
        """A text that is equal for jobs which may share a call of the pipeline."""
        given = sorted({item.modality.value for item in self.items})
        negatives = sorted({item.modality.value for item in self.negatives})
        kinds = [given, negatives]
        edits: list[Any] = [self.edit_arguments] if self.edits else []
        edits += [[self.id, self.continued]] if self.continued else []  # made alone, window by window
        return json.dumps(
            [self.outputs, self.settings, self.sync, kinds, *edits], sort_keys=True, default=str
        )

    def files(self, out: Path) -> list[Path]:
        """Return the files in the folder `out` that the samples may be written as, by the job's own names."""
        suffixes: list[str] = []
        for modality in self.outputs:
            kind = kind_of(modality)
            suffixes += [kind.suffix, *kind.more_suffixes]
        return [out / (name + suffix) for name in self.names for suffix in suffixes]

    def check(self) -> None:
        """Raise `InputError` for a file that can be no prompt, and for regions that are none."""
        with blame(self.origin):
            self._read_regions()
        for item in (*self.items, *self.negatives, *self.region_items):
            kind = kind_of(item.modality)
            if not kind.in_words:
                with blame(self.origin):
                    kind.check_file(item.value, PROMPT_SECONDS)
        for modality, use, _, value in self.sources.media():
            if isinstance(value, Path):
                with blame(self.origin):
                    kind_of(modality if use == "start" else Modality.IMAGE).check_file(value, PROMPT_SECONDS)
        if self.continued is not None:
            with blame(self.origin):
                self.continued.check(self.outputs, PROMPT_SECONDS)

    def _read_regions(self) -> Any:
        """Return the regions as the pipeline reads them; raise `InputError` for what is none."""
        if not self.regions:
            return ()
        from codi.regions import read

        return read(list(self.regions))

    @property
    def region_items(self) -> list[Item]:
        """The prompts of all regions."""
        found = []
        for region in self.regions:
            for modality in Modality:
                for entry in region.get(modality.value, ()):
                    found.append(Item(modality=modality, **entry))
        return found

    @property
    def inputs(self) -> list[Path]:
        """The files of its prompts, the masks of its regions, its controls, and what outputs start from."""
        items = (*self.items, *self.negatives, *self.region_items)
        files = [Path(item.value) for item in items if not kind_of(item.modality).in_words]
        files += [Path(region["mask"]) for region in self.regions if "mask" in region]
        for each in controls.parse(list(self.control)):
            files += each.files
        files += map(Path, self.continued.files if self.continued else ())
        return files + [value for _, _, _, value in self.sources.media() if isinstance(value, Path)]

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return the prompts as a manifest lists them; `negatives` and `regions` only if there are any."""
        rows = {"inputs": list(map(_described, self.items))}
        if self.negatives:
            rows["negatives"] = list(map(_described, self.negatives))
        if self.regions:
            rows["regions"] = [region.described() for region in self._read_regions()]
        if self.continued is not None:
            return rows | self.continued.described(self.outputs)
        return rows | self.sources.described()


def _described(item: Item) -> dict[str, Any]:
    """Return a prompt as a manifest lists it: words in full, a file by name, kind, size and sha256."""
    from codi import io

    what = {"text": item.value} if kind_of(item.modality).in_words else io.describe(item.value)
    return {"as": str(item.modality), "weight": item.weight} | what


Sample = tuple[Job, int]  # a job, and which of its samples


# Reading requests ------------------------------------------------------


def parse_item(modality: Modality, text: str) -> Item:
    """Read a prompt with or without a weight: 'a red ball::0.7' is 'a red ball' with a weight of 0.7.

    A tail that is no number belongs to the prompt: 'std::vector' has a weight of 1.
    """
    return _item(modality, *split_weight(text))


def split_weight(text: str) -> tuple[str, float]:
    """Return the words or the path of a prompt, and its weight."""
    value, sign, tail = text.rpartition("::")
    if not sign:
        return text, 1.0
    try:
        return value, float(tail)
    except ValueError:
        return text, 1.0


def _item(modality: Modality, value: str, weight: float) -> Item:
    """Check the words or the path of a prompt and its weight, and return them as an `Item`."""
    in_words = kind_of(modality).in_words
    if not value.strip():
        raise InputError(
            f"an empty {modality} prompt: expected {'words' if in_words else 'the name of a file'}"
        )
    if not in_words:
        check_address(value)
    if in_words and not _is_unicode(value):
        raise InputError(
            f"the text prompt {ascii(value)[:80]} is not UTF-8: expected words; set the terminal to UTF-8"
        )
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"weight {weight:g} of {shown(value)}: expected a number of at least 0")
    return Item(modality=modality, value=value, weight=weight)


def parse_region(text: str) -> dict[str, Any]:
    """Read a region of the command line, such as 'a red ball @ box=0,0,0.5,1 interval=0,1 to=video'.

    Before the sign stand words, with a weight as those of --text, or nothing; behind it, separated by spaces,
    where and when they count, and prompts that are files.

    Args:
        text: the region as typed.

    Returns:
        The region as a line of jobs has it.

    Raises:
        InputError: for a region without that sign, and for an unknown or repeated part.
    """
    words, sign, rest = f" {text} ".rpartition(REGION_SIGN)
    if not sign:
        raise InputError(f"--region {shown(text)} says not where: expected {REGION_EXAMPLE}")
    row: dict[str, Any] = {}
    if words.strip():
        row["text"] = words.strip()
    try:
        parts = shlex.split(rest)
    except ValueError:
        raise InputError(
            f"--region {shown(text)} has a quote without its end: expected {REGION_EXAMPLE}"
        ) from None
    for part in parts:
        name, _, value = part.partition("=")
        key = {"to": "outputs"}.get(name, name)
        if not value or (key not in REGION_KEYS and key not in Modality):
            known = ", ".join((*REGION_NUMBERS, "mask", "to", *(m.value for m in Modality)))
            raise InputError(f"--region has the part {shown(part)}: expected some of {known}, each with =...")
        if key in row:
            raise InputError(f"--region {shown(text)} has {name} twice: expected it once")
        row[key] = _typed_numbers(name, value) if key in REGION_NUMBERS else value
    return _region(row, Path())


def _typed_numbers(name: str, value: str) -> float | list[float]:
    """Return the number, or the numbers with commas between them, that a part of a region has."""
    count = REGION_NUMBERS[name]
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        wanted = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise InputError(f"--region has {name}={shown(value)}: expected {wanted}")
    return numbers[0] if count == 1 else numbers


def _region(row: Any, folder: Path) -> dict[str, Any]:
    """Return a region of a line of jobs, whose prompts are lists of {"value", "weight"}.

    Relative names of files start at `folder`. What it says of where and when is checked as it is read
    (`codi.regions`).
    """
    if not isinstance(row, dict):
        raise InputError(
            f"regions holds {json.dumps(row)[:80]}: expected objects such as {{'text': 'a red ball', 'box': "
            "[0, 0, 0.5, 1]}"
        )
    found = {key: value for key, value in row.items() if value is not None}
    for modality in Modality:
        if modality.value in found:
            items = _row_items(found[modality.value], modality.value, modality, folder)
            found[modality.value] = [{"value": item.value, "weight": item.weight} for item in items]
    if "mask" in found:
        if not isinstance(found["mask"], str):
            raise InputError(f"mask is {json.dumps(found['mask'])[:80]}: expected the name of a file")
        check_address(found["mask"])
        found["mask"] = str(folder / found["mask"])
    return found


def _row_regions(value: Any, folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the regions of a line of jobs, one or a list of them."""
    if value is None:
        return ()
    return tuple(_region(row, folder) for row in (value if isinstance(value, list) else [value]))


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded.

    Bytes of the command line that are no UTF-8 cannot, nor can half a pair of surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def applies(name: str, outputs: tuple[Modality, ...]) -> bool:
    """Return whether a size of `SIZES` is one of anything that is made."""
    return any(m in outputs for m in sized(name))


def parse_outputs(text: "str | list[str] | None") -> tuple[Modality, ...]:
    """Read 'video,audio', or a list of names, as modalities in the order given, each once."""
    names = text.split(",") if isinstance(text, str) else text or []
    filled = [name for name in names if str(name).strip()]
    return tuple(dict.fromkeys(map(Modality.parse, filled)))


def option(args: argparse.Namespace, name: str) -> Any:
    """Return what the command line says, or else the default."""
    value = getattr(args, name)
    return DEFAULTS.get(name) if value is None else value


def typed(args: argparse.Namespace, name: str) -> str:
    """Return the option by which a setting was given, such as --guidance."""
    return f"--{args.written.get(name, name).replace('_', '-')}"


def fill(args: argparse.Namespace) -> None:
    """Put the defaults into `args` in place of what nobody named."""
    for name in DEFAULTS:
        setattr(args, name, option(args, name))


def draw_seed(seed: int | str, origin: str = "") -> int:
    """Return the seed, or one that is drawn where it is 'random', with a note that begins with `origin`."""
    if seed != RANDOM:
        return int(seed)
    import secrets
    import warnings

    drawn = secrets.randbits(31)
    warnings.warn(f"{origin}seed {drawn} was drawn", stacklevel=2)
    return drawn


def from_arguments(args: argparse.Namespace) -> Job:
    """Return the one job that the options of the command line describe."""
    prompts = {}
    for key, modality in prompt_keys().items():
        prompts[key] = tuple(parse_item(modality, text) for text in getattr(args, key))
    settings = {name: option(args, name) for name in (*NUMBERS, *SWITCHES, "lengths")}
    settings["drawn"] = settings["seed"] == RANDOM
    settings["seed"] = draw_seed(settings["seed"])
    for name in SCALES:
        settings[name] = _scale(getattr(args, name), typed(args, name))
    for name, parse in NAMED.items():
        settings[name] = parse(getattr(args, name), typed(args, name))
    sizes = {name: getattr(args, name) for name in SIZES}
    settings["sizes"] = _without_none(sizes)
    settings["control"] = described_controls(args.control)
    settings["written"] = args.written
    settings["edits"] = typed_edits(args)
    settings["regions"] = tuple(map(parse_region, args.region))
    return Job(id=None, outputs=parse_outputs(args.to), **_sorted(prompts), **settings)


def typed_edits(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line gives outputs of themselves, by the pipeline's arguments."""
    found = {
        "start": {name: _file(name, value) for name, value in args.start.items()} or None,
        "strength": parse_scale(args.strength, "--strength"),
        "keep": editing.typed_regions(args.keep) or None,
        "keyframes": editing.typed_keyframes(args.keyframe) or None,
        "canvas": editing.typed_boxes(args.canvas) or None,
        "resample_steps": args.resample_steps,
        "source_prompt": args.source_prompt,
    }
    return _without_none(found)


def _file(name: str, value: str, folder: Path | None = None) -> str:
    """Return what an output starts from: words, or the path of a file, which may start at a folder."""
    in_words = kind_of(Modality.parse(name)).in_words
    if not value.strip():
        raise InputError(
            f"an empty start of {name}: expected {'words' if in_words else 'the name of a file'}"
        )
    if in_words:
        return value
    check_address(value)
    return value if folder is None else str(folder / value)


def described_controls(control: Any, folder: Path = Path()) -> tuple[dict[str, Any], ...]:
    """Return controls as a job and its record hold them; relative names of files start at `folder`."""
    return tuple(each.described() for each in controls.parse(control, folder))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sorted(prompts: dict[str, tuple[Item, ...]]) -> dict[str, tuple[Item, ...]]:
    """Return prompts by key as those to follow, `items`, and those to steer away from, `negatives`."""
    items: list[Item] = []
    negatives: list[Item] = []
    for modality in Modality:
        items += prompts[modality.value]
        negatives += prompts[f"negative_{modality}"]
    return {"items": tuple(items), "negatives": tuple(negatives)}


def _scale(value: Any, name: str) -> Scale:
    """Read a scale: None, a number, 'video=4,audio=3' or {'video': 4, 'audio': 3}."""
    if value is None:
        return None
    try:
        return parse_scale(value, name)
    except OverflowError:
        raise InputError(f"{name} is {shown(value)}: expected a finite number of at least 0") from None


def shown(value: Any) -> str:
    """Return a value as messages show it: as it is written, and only its beginning if it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 80 else text[:80] + "...")


def from_file(args: argparse.Namespace, failures: Failures | None = None) -> list[Job]:
    """Return the jobs of the JSONL file that `args.jobs` names.

    What a line leaves out comes from the command line. Names of files in it start at the folder of the JSONL
    file.

    Args:
        args: the options of the command line.
        failures: takes lines that cannot be used, and counts all lines; without it the first of them is
            raised.

    Returns:
        The jobs of the lines that can be used.

    Raises:
        InputError: for a file without jobs, and for a line that cannot be used, which the message names; two
            jobs whose files would have the same name cannot both be used.
    """
    from codi import io

    _check_alone(args)
    io.check_file(args.jobs)
    return from_lines(args, failures)


def _check_alone(args: argparse.Namespace) -> None:
    """Raise `InputError` for options of the command line that belong into the lines of a file of jobs."""
    own = [key for key in (*prompt_keys(), "region") if getattr(args, key)]
    own += [key for key in typed_edits(args)]
    if given := [f"--{key.replace('_', '-')}" for key in own]:
        raise InputError(f"{', '.join(given)} beside --jobs: prompts belong into the lines of {args.jobs}")


def from_lines(args: argparse.Namespace, failures: Failures | None = None) -> list[Job]:
    """Return the jobs of a JSONL file as `from_file` does, without importing what reads media.

    Args:
        args: the options of the command line; the file that they name is there.
        failures: as in `from_file`.

    Returns:
        The jobs of the lines that can be used.

    Raises:
        InputError: as in `from_file`.
    """
    _check_alone(args)
    failures = Failures() if failures is None else failures
    jobs: list[Job] = []
    # several samples of the job "a" are named a-000, a-001, ..., which may be the ids of other jobs
    owner: dict[str, Job] = {}
    for number, line in _lines(args.jobs):
        origin = f"{args.jobs} line {number}: "
        failures.total += 1
        with failures.of(origin):
            job = _job(_decoded(line, first=number == 1), origin, args)
            for name in {job.id, *job.names}:
                # not every file system tells capital letters from small ones
                if other := owner.get(str(name).lower()):
                    raise InputError(
                        f"its files would be named {name} like those of {other.id!r}: expected another id"
                    )
            owner |= {str(name).lower(): job for name in {job.id, *job.names}}
            jobs.append(job)
    if not failures.total:
        raise InputError(f"{args.jobs} holds no job: expected one JSON object per line")
    return jobs


def from_line(line: str, folder: str | Path, origin: str, args: argparse.Namespace | None = None) -> Job:
    """Return the job of one line of JSON, as `from_file` reads it.

    Args:
        line: the line.
        folder: where relative names of files start.
        origin: what messages begin with.
        args: the options of the command line, for what the line leaves out; by default nobody named any.

    Returns:
        The job.

    Raises:
        InputError: for a line that cannot be used.
    """
    args = argparse.Namespace(**vars(unnamed() if args is None else args))
    args.jobs = str(Path(folder) / "line")
    return _job(line, origin, args)


def unnamed(**given: Any) -> argparse.Namespace:
    """Return the options of `codi generate` as they are where nobody names any, but for those given."""
    settings = dict.fromkeys((*NUMBERS, *SIZES, *SCALES, *NAMED, *SWITCHES, "lengths", "to"))
    others = dict.fromkeys(("model", "scheduler", "device", "dtype", "batch", "jobs", "again"))
    lists: dict[str, Any] = {name: [] for name in ("lora", "words", "control", "control_from")}
    flags = {"overwrite": False, "quiet": True, "written": {}}
    return argparse.Namespace(**{**settings, **others, **lists, **flags, **given})


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of every line of a file that is not blank.

    Of a line beyond `MAX_LINE` there is just enough to see that. Raises `InputError` for a file that is no
    text.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
        if b"\0" in head and not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            raise InputError(f"{path} is not text: expected one JSON object per line, in UTF-8")
        file.seek(0)
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE + 1)
            if line.strip():
                yield number, line


def _decoded(line: bytes, first: bool) -> str:
    """Return the text of a line; the first one of a file may begin with a byte order mark."""
    if len(line) > MAX_LINE:
        raise InputError(f"it has more than {MAX_LINE >> 20} MB: expected a line of a few hundred letters")
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise InputError("it is not UTF-8: expected a JSON object in UTF-8") from None


class _Odd(ValueError):
    """Raised for JSON that is well formed and means nothing here."""


def read_json(line: str) -> Any:
    """Return the value of a line of JSON.

    Raises `InputError` for what is no JSON, and for what JSON takes but nobody can mean.
    """
    example = "expected an object such as {'id': 'a', 'text': 'a red ball', 'to': 'image'}"
    try:
        return json.loads(line, parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}): {example}") from None
    except _Odd as error:
        raise InputError(f"{error}: {example}") from None
    except RecursionError:
        raise InputError(f"it is nested too deeply: {example}") from None


def _no_constant(name: str) -> None:
    """Refuse a number that JSON does not have."""
    raise _Odd(f"not JSON ({name} is no number)")


def _integer(digits: str) -> int:
    """Return a whole number, unless it is longer than any that is asked for."""
    if len(digits) > MAX_DIGITS:
        raise _Odd(f"a number of {len(digits)} digits")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, none of whose keys comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Odd(f"the key {twice[:80]!r} comes twice")
    return found


def _job(line: str, origin: str, args: argparse.Namespace) -> Job:
    """Read one line of a file of jobs.

    Former and short names of settings become the present ones here. What the line leaves out comes from
    `args`; `origin` names file and line in messages.
    """
    with blame(origin):
        row = read_json(line)
        if not isinstance(row, dict):
            raise InputError(f"a {type(row).__name__}: expected an object with id, prompts and to")
        row = renamed.rename(row, renamed.SETTINGS, str(args.jobs))
        short = {name: key for key, name in renamed.SHORT.items() if row.get(key) is not None}
        row = without_aliases(row, renamed.SHORT)
        known = job_keys()
        if unknown := [key for key in row if key not in known]:
            raise InputError(f"unknown key {unknown[0][:80]!r}: expected some of {', '.join(known)}")
        written = {key: short.get(key, key) for key in known if row.get(key) is not None}
        name = _row_id(row)
        prompts = {}
        for key, modality in prompt_keys().items():
            prompts[key] = tuple(_row_items(row.get(key), key, modality, Path(args.jobs).parent))
        numbers = _row_numbers(row, _row_outputs(row.get("to", args.to)), args, written)
        outputs = _row_outputs(row.get("to", args.to))
        settings = numbers | _row_settings(row, outputs, args, written)
        settings["written"] = {**args.written, **written}
        settings["edits"] = _row_edits(row, Path(args.jobs).parent)
        settings["regions"] = _row_regions(row.get("regions"), Path(args.jobs).parent)
        if row.get("continue") is not None:
            repeats = settings["edits"].pop("resample_steps", None)
            settings["continued"] = Continued.parse(row["continue"], Path(args.jobs).parent, repeats)
        return Job(id=name, outputs=outputs, origin=origin, **settings, **_sorted(prompts))


def _row_id(row: dict[str, Any]) -> str:
    """Return the id of a line, by which its files are named."""
    value = row.get("id", "")
    name = value if isinstance(value, str) else ""
    if isinstance(value, int) and not isinstance(value, bool):
        name = str(value)
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name) and not name.endswith(".")
    if not plain or name.lower().startswith("manifest") or name.split(".")[0].upper() in RESERVED_NAMES:
        raise InputError(
            f"id {shown(value)}: files are named by it, so expected letters, digits, '.', '_' or '-', and "
            "another than 'manifest...' and names that Windows keeps to itself"
        )
    return name


def _row_numbers(
    row: dict[str, Any],
    outputs: tuple[Modality, ...],
    args: argparse.Namespace,
    written: dict[str, str],
) -> dict[str, Any]:
    """Return the `NUMBERS` of a line, and whether its seed is to be drawn.

    `written` names the keys as the person wrote them, for messages.
    """
    seed = option(args, "seed") if row.get("seed") is None else row["seed"]
    drawn = seed == RANDOM
    numbers: dict[str, Any] = {"drawn": drawn}
    for key in NUMBERS:
        if drawn and key == "seed":
            numbers[key] = 0  # drawn later, if the job is made: `Job.with_seed`
        elif key == "num_inference_steps" and isinstance(row.get(key), dict):
            numbers[key] = _by_output(row, key, written.get(key))
        else:
            shared = option(args, key)
            if isinstance(shared, dict):  # the part that speaks of what this line makes
                shared = {name: n for name, n in shared.items() if Modality(name) in outputs} or None
            numbers[key] = _number(row, key, int, shared, written.get(key))
    return numbers


def _by_output(row: dict[str, Any], key: str, written: str | None) -> dict[str, int]:
    """Return the numbers that a line has under a key for each output."""
    numbers = row[key]
    return {Modality.parse(name).value: _number(numbers, name, int, None, written) for name in numbers}


def _row_settings(
    row: dict[str, Any], outputs: tuple[Modality, ...], args: argparse.Namespace, written: dict[str, str]
) -> dict[str, Any]:
    """Return the scales, sizes, switches and lengths of a line.

    `written` names the keys as the person wrote them, for messages.
    """
    settings: dict[str, Any] = {}
    for key in SCALES:
        settings[key] = _row_scale(row, key, outputs, args, written.get(key))
    for key, parse in NAMED.items():
        own = row.get(key) is not None
        value, called = (row[key], key) if own else (getattr(args, key), typed(args, key))
        settings[key] = parse(value, called)
    sizes = {}
    for key, kind in SIZES.items():
        shared = getattr(args, key) if applies(key, outputs) else None
        sizes[key] = _number(row, key, kind, shared, written.get(key))
    settings["sizes"] = _without_none(sizes)
    for key in SWITCHES:
        settings[key] = row.get(key, option(args, key))
        if not isinstance(settings[key], bool):
            raise InputError(f"{key} is {json.dumps(settings[key])[:80]}: expected true or false")
    settings["lengths"] = row.get("lengths", option(args, "lengths"))
    settings["control"] = _row_control(row, args)
    if settings["lengths"] not in LENGTHS:
        raise InputError(f"lengths is {json.dumps(settings['lengths'])[:80]}: expected 'agree' or 'free'")
    return settings


def _row_edits(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a line gives outputs of themselves; names of files start at `folder`."""
    found = _without_none({name: row.get(name) for name in editing.NAMES})
    for name in ("start", "keep", "keyframes", "canvas"):
        if name in found and not isinstance(found[name], dict):
            raise InputError(f"{name} is {json.dumps(found[name])[:60]}: expected an object by output")
    if starts := found.get("start"):
        if wrong := [value for value in starts.values() if not isinstance(value, str)]:
            raise InputError(f"start names {json.dumps(wrong[0])[:60]}: expected words or the name of a file")
        found["start"] = {name: _file(name, value, folder) for name, value in starts.items()}
    if regions := found.get("keep"):
        found["keep"] = {name: _with_folder(value, folder) for name, value in regions.items()}
    if frames := found.get("keyframes"):
        found["keyframes"] = {
            name: {when: _with_folder(picture, folder) for when, picture in value.items()}
            if isinstance(value, dict)
            else value
            for name, value in frames.items()
        }
    return found


def _with_folder(value: Any, folder: Path) -> Any:
    """Return a region or regions of a line, in which the name of a file starts at `folder`."""
    if isinstance(value, list):
        return [_with_folder(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    check_address(value)
    return str(folder / value)


def _row_control(row: dict[str, Any], args: argparse.Namespace) -> tuple[dict[str, Any], ...]:
    """Return a line's own controls, else those of the command line."""
    if row.get("control") is None:
        return described_controls(args.control)
    return described_controls(row["control"], Path(args.jobs).parent)


def _row_outputs(value: Any) -> tuple[Modality, ...]:
    """Read what a line says under `to`: 'image,audio', or a list of names."""
    names = value if isinstance(value, list) else [value]
    if value is not None and not all(isinstance(name, str) for name in names):
        raise InputError(
            f"to is {json.dumps(value)[:80]}: expected kinds such as 'image,audio', or a list of them"
        )
    return parse_outputs(value)


def _row_scale(
    row: dict[str, Any],
    key: str,
    outputs: tuple[Modality, ...],
    args: argparse.Namespace,
    written: str | None,
) -> Scale:
    """Return a line's own scale, else the part of the command line's that speaks of what this line makes.

    `written` is the key of the scale in the line, as the person wrote it, for messages.
    """
    if row.get(key) is not None:
        return _scale(row[key], written or key)
    shared = _scale(getattr(args, key), typed(args, key))
    if not isinstance(shared, dict):
        return shared
    return {name: scale for name, scale in shared.items() if Modality(name) in outputs} or None


def _row_items(value: Any, key: str, modality: Modality, folder: Path) -> Iterator[Item]:
    """Yield the prompts of one kind in a line.

    Each is a string, words or a path with the weight as a suffix, or {"value": ..., "weight": ...}; a list
    holds several. Relative paths start at `folder`.
    """
    if value is None:
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str):
            item = parse_item(modality, entry)
        elif (
            isinstance(entry, dict)
            and set(entry) <= {"value", "weight"}
            and isinstance(entry.get("value"), str)
        ):
            item = _item(modality, entry["value"], _number(entry, "weight", float, 1.0))
        else:
            raise InputError(
                f"{key} is {json.dumps(entry)[:80]}: expected a string, or {{'value': ..., 'weight': ...}}, "
                "or a list of these"
            )
        value = item.value if kind_of(modality).in_words else str(folder / item.value)
        yield Item(modality=modality, value=value, weight=item.weight)


def _number(row: dict[str, Any], key: str, kind: type, default: Any, written: str | None = None) -> Any:
    """Return the number of a line under a key as an int or a float, or the default where there is none.

    `written` is the key as the person wrote it, for messages.
    """
    value = row.get(key)
    if value is None:
        return default
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 2**63
        and value == kind(value)
    ):
        return kind(value)
    raise InputError(
        f"{written or key} is {json.dumps(value)[:80]}: "
        f"expected {'a whole number' if kind is int else 'a number'}"
    )


def batches(
    jobs: list[Job], limit: int, wanted: Callable[[Job, int], bool] = lambda job, k: True
) -> Iterator[list[Sample | None]]:
    """Yield the samples that can be made at once.

    Samples share a batch if their jobs are alike in outputs, settings and kinds of prompts. A sample from a
    record stands where it stood, and rows of its batch that are not made again are None. So are rows that are
    not wanted, because their samples are there already: a run that is resumed has the batches of the run that
    was interrupted, on whose sizes rounding depends.

    Args:
        jobs: all jobs of the run.
        limit: the most samples of a batch, all candidates counted.
        wanted: whether a sample of a job, by its number, is still to be made.

    Yields:
        For each row of a batch a job and the number of its sample, or None.
    """
    for batch in _all_batches(jobs, limit):
        left = [sample if sample is not None and wanted(*sample) else None for sample in batch]
        if any(left):
            yield left


def _all_batches(jobs: list[Job], limit: int) -> Iterator[list[Sample | None]]:
    """Yield the batches of all samples."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    for group in groups.values():
        free: list[Sample | None] = []
        placed: list[Sample] = []
        for job in group:
            for k in range(job.num_samples):
                if _place(job, k):
                    placed.append((job, k))
                else:
                    free.append((job, k))
        size = max(1, limit // group[0].candidates)
        for start in range(0, len(free), size):
            yield free[start : start + size]
        yield from _placed(placed)


def _place(job: Job, k: int) -> dict[str, int] | None:
    """Return where a sample stood in its batch, or None if no record says so."""
    return job.places[k]["batch"] if job.places else None


def _placed(samples: list[Sample]) -> Iterator[list[Sample | None]]:
    """Yield batches in which each sample has the row that a record gives it.

    Batches of different sizes are filled side by side. A sample whose row is taken begins another batch.
    """
    open_batches: dict[int, list[Sample | None]] = {}
    for job, k in samples:
        place = job.places[k]["batch"]
        batch = open_batches.get(place["rows"])
        if batch is not None and batch[place["row"]] is not None:
            yield batch
            batch = None
        if batch is None:
            batch = open_batches[place["rows"]] = [None] * place["rows"]
        batch[place["row"]] = (job, k)
    yield from open_batches.values()
