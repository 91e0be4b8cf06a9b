"""A training run as a value: read from YAML into a frozen dataclass, strictly.

An unknown key, a missing one, a value of the wrong kind or out of range is an `InputError` that names it.
A file that says `extends: other.yaml` (relative to itself) is laid over that one, which may extend another.
`--small` lays the `small:` section over the rest, `--set part.channels=64` lays single values over that.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from codi import renamed
from codi.types import InputError

T = TypeVar("T")

VALIDATION = "validation"  # the key of held-out samples in the section `data`


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run of one stage. Counts are in samples over all processes unless they say otherwise.

    Attributes:
        stage: name in `training.stages.STAGES`.
        model: folder of the model in the making: frozen parts are read there, the trained one is exported
            there.
        output: folder of this run: checkpoints, log, previews.
        samples: how many samples to see in all.
        batch_size: samples of one optimizer step, over all processes and accumulated micro-batches together.
        lr: learning rate of AdamW after the warm-up.
        seed: chooses the order of the data, the first weights, noise and dropout.
        accumulate: micro-batches of one step in each process.
        betas: of AdamW.
        weight_decay: of AdamW; vectors and scalars are not decayed.
        warmup: samples over which the rate rises from zero.
        lr_schedule: cosine falls to lr * final_lr_fraction at `samples`; constant stays.
        final_lr_fraction: the last rate of the cosine schedule, as a fraction of `lr`.
        ema: decay per step of the averaged weights (warmed up), 0 for none.
        clip_grad_norm: the largest norm of the gradient, to which a larger one is scaled; 0 for no such
            limit.
        precision: no, bf16 or fp16.
        checkpoint_every: samples between checkpoints, 0 for never.
        preview_every: samples between previews, 0 for never.
        log_every: samples between lines of the log, 0 for never.
        validate_every: samples between measurements on the held-out data that `data: {validation: ...}`
            names, 0 for never; where it is on, one comes at the end of the run as well.
        patience: how many measurements in a row may fail to lower the held-out loss before the run stops
            early, 0 for any number.
        keep_best: whether the model of the least held-out loss is exported in place of the last one.
        max_minutes: wall-clock budget over all resumes together, None for none; the schedule of the rate does
            not look at it.
        device: auto takes GPUs if there are any; with cuda the run does not start without one; cpu takes
            none.
        num_threads: torch threads, None leaves them alone.
        compile: whether what trains is compiled by `torch.compile`, as whole as it is called.
        gradient_checkpointing: whether activations of what trains are computed again in the backward pass:
            less memory, a third more time.
        tensorboard: whether what goes to the log is written as TensorBoard events too (extra `tensorboard`).
        data: where samples come from, read by `data.sources.open_source`; empty for the world of
            `codi.world`.
        part: constructor arguments of what trains, read by the stage.
        options: further settings of the stage, read strictly by the stage.
    """

    stage: str
    model: Path
    output: Path
    samples: int
    batch_size: int
    lr: float
    seed: int = 0
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 0
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    final_lr_fraction: float = 0.0
    ema: float = 0.0
    clip_grad_norm: float = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = 0
    preview_every: int = 0
    log_every: int = 0
    validate_every: int = 0
    patience: int = 0
    keep_best: bool = False
    max_minutes: float | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    tensorboard: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    part: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "accumulate", "lr"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        intervals = ("checkpoint_every", "preview_every", "log_every", "validate_every")
        for name in ("seed", "weight_decay", "warmup", "clip_grad_norm", "patience", *intervals):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.ema < 1, "ema", self.ema, "a decay in [0, 1)")
        final = self.final_lr_fraction
        _require(0 <= final <= 1, "final_lr_fraction", final, "a fraction in [0, 1]")
        _require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        for name in ("max_minutes", "num_threads"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "more than 0, or null")
        for name in ("patience", "keep_best"):
            idle = self.validate_every == 0 and getattr(self, name)
            _require(not idle, name, getattr(self, name), "off where validate_every is 0")
        held_out = not self.validate_every or bool(self.data.get(VALIDATION))
        expected = "0, or held-out samples in `data: {validation: {manifests: [...]}}`"
        _require(held_out, "validate_every", self.validate_every, expected)
        whole = self.batch_size % self.accumulate == 0
        _require(whole, "batch_size", self.batch_size, f"a multiple of accumulate ({self.accumulate})")

    def over(self, data: dict[str, Any]) -> "Config":
        """Return this run over other samples, without measurements on held-out ones."""
        return dataclasses.replace(self, data=data, validate_every=0, patience=0, keep_best=False)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint or a log."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, Path):
                values[name] = str(value)
            elif isinstance(value, tuple):
                values[name] = list(value)
        return values


IDENTITY = ("stage", "part", "seed", "model")  # settings without which a run is another run


def compare(
    before: Mapping[str, Any], now: Mapping[str, Any], options: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return what the settings of a run and of its checkpoint say differently, as two lists of sentences.

    Args:
        before: the settings (`Config.as_json`) in the checkpoint.
        now: the settings of the run.
        options: names of the options of the stage that say what is learned.

    Returns:
        The differences that make it another run (in `IDENTITY` and in `options`), and all others.
    """
    before = _flat(before)
    now = _flat(now)
    # the same folder may be named in several ways
    if Path(before["model"]).resolve() == Path(now["model"]).resolve():
        before["model"] = now["model"]
    # a setting that a checkpoint does not have equals one that is off: older checkpoints lack newer settings
    another = []
    others = []
    for name in before | now:
        if (before.get(name) or None) == (now.get(name) or None):
            continue
        line = f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        if name in IDENTITY or name.removeprefix("options.") in options:
            another.append(line)
        else:
            others.append(line)
    return another, others


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which each option stands on its own."""
    options = {f"options.{name}": value for name, value in settings["options"].items()}
    others = {name: value for name, value in settings.items() if name != "options"}
    return {**others, **options}


def load_config(path: str | Path, *, small: bool = False, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration in a YAML file.

    Args:
        path: the file.
        small: whether to lay the section `small:` over the rest.
        overrides: texts such as "part.channels=64", each of which is laid over all that.

    Returns:
        The checked configuration.

    Raises:
        InputError: for whatever is wrong with the file or the overrides.
    """
    path = Path(path)
    values = _read_extended(path)
    # the miniature gets folders of its own, so that it never writes over the run
    miniature = values.pop("small", None)
    values.setdefault("output", f"runs/{path.stem}")
    if small:
        if not isinstance(miniature, dict):
            raise InputError(f"{path}: --small needs a section `small:` with the settings of the miniature")
        check_names(miniature, [f.name for f in dataclasses.fields(Config)], f"{path}: small")
        folders = {"output": f"runs/small/{path.stem}", "model": "runs/small/model"}
        values = _merge(values, folders | miniature)
    for override in overrides:
        _apply_override(values, override)
    return strict(Config, values, where=str(path))


def strict(cls: type[T], values: Mapping[str, Any] | None, *, where: str) -> T:
    """Return a dataclass from a mapping in which no key is unknown and none without a default is missing.

    Stages read `config.options` with it.

    Args:
        cls: the dataclass.
        values: its fields by name; None for none.
        where: what messages call the mapping.

    Returns:
        The dataclass, its values of the annotated kinds.

    Raises:
        InputError: if a key is unknown or missing, or a value is of the wrong kind.
    """
    values = dict(values or {})
    fields = {f.name: f for f in dataclasses.fields(cls)}
    check_names(values, fields, where)
    missing = []
    for name, each in fields.items():
        required = each.default is each.default_factory is dataclasses.MISSING
        if required and name not in values:
            missing.append(name)
    if missing:
        raise InputError(
            f"{where}: missing {', '.join(missing)}: add {'it' if len(missing) == 1 else 'them'}"
        )
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        values[name] = _coerce(value, hints[name], f"{where}: {name}")
    return cls(**values)


def _require(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise InputError(f"config: {name} is {value!r}: expected {expected}")


def expect(good: bool, name: str, value: Any, expected: str) -> None:
    """Raise InputError for an option of a stage unless it is good.

    Args:
        good: whether the value can be used.
        name: the name of the option.
        value: its value, for the message.
        expected: what could be used, for the message.
    """
    if not good:
        raise InputError(f"options: {name} is {value!r}: expected {expected}")


def _read_extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a file says, laid over the file that it extends; `below` are those that extend it."""
    if path.resolve() in [other.resolve() for other in below]:
        circle = " -> ".join(other.name for other in (*below, path))
        raise InputError(f"config {below[0]}: `extends` goes in a circle ({circle}): take one out")
    values = _read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise InputError(f"config {path}: extends is {base!r}: expected the name of one YAML file")
    return _merge(_read_extended(path.parent / base, (*below, path)), values)


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, with former names of settings and stages replaced."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} holds {type(values).__name__}: expected `key: value` lines")
    stage = values.get("stage")
    values = renamed.rename(values, renamed.TRAINING, str(path))
    if stage in renamed.STAGES:
        values["stage"] = renamed.STAGES[stage]
        renamed.note(str(path), stage, values["stage"])
    return values


def check_names(values: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Raise InputError for the first of `values` that is not among the known names.

    Args:
        values: the names that were given.
        known: the names that may be given.
        where: what the message begins with.
    """
    known = list(known)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else "nothing may be set here"
            raise InputError(f"{where}: unknown key {name!r}: {hint} (known: {', '.join(known)})")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` laid over `base`; mappings are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `key=value` or `key.inner=value` in place; the value is read as YAML."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {override!r}: expected key=value, for example --set part.channels=64")
    *parents, last = name.strip().split(".")
    for parent in parents:
        if not isinstance(inner := values.get(parent) or {}, Mapping):
            raise InputError(
                f"--set {override!r}: {parent} is {inner!r}, which has nothing inside: set {parent} as a "
                "whole"
            )
        values[parent] = dict(inner)
        values = values[parent]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override!r}: the value is not YAML") from None


def _coerce(value: Any, kind: Any, where: str) -> Any:
    """Return a value as the annotated kind, or raise InputError.

    Text is never turned into a number, except YAML's 1e-4.
    """
    origin = typing.get_origin(kind)
    args = typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        value = "no" if value is False and "no" in args else value  # YAML reads a bare `no` as false
        return _check(value in args, value, where, f"one of {', '.join(map(str, args))}")
    if origin in (tuple, list):
        return _coerce_sequence(value, origin, args, where)
    if origin is dict or kind is dict:
        inner = args[1] if args else Any
        mapping = _check(isinstance(value, Mapping), value, where, "a mapping")
        return {name: _coerce(entry, inner, f"{where}: {name}") for name, entry in mapping.items()}
    if kind is Path:
        return Path(_check(isinstance(value, (str, Path)) and bool(str(value)), value, where, "a path"))
    if kind is float:
        return _coerce_float(value, where)
    names = {int: "a whole number", bool: "true or false", str: "text"}
    expected = names.get(kind, getattr(kind, "__name__", str(kind)))
    fine = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _check(fine, value, where, expected)


def _coerce_sequence(value: Any, origin: type, args: tuple, where: str) -> Any:
    """Return a list as the annotated tuple or list, each entry of the annotated kind."""
    _check(isinstance(value, (list, tuple)), value, where, "a list")
    if origin is tuple and args[-1] is not Ellipsis:
        _check(len(value) == len(args), value, where, f"{len(args)} values")
        return tuple(_coerce(v, a, where) for v, a in zip(value, args))
    return origin(_coerce(v, args[0], where) for v in value)


def _coerce_float(value: Any, where: str) -> float:
    """Return a value as a finite float, or raise InputError."""
    try:
        number = float(_check(not isinstance(value, bool), value, where, "a number"))
    except (TypeError, ValueError):
        number = float("nan")
    return _check(
        number == number and abs(number) != float("inf"),
        number if number == number else value,
        where,
        "a finite number",
    )


def _check(good: bool, value: Any, where: str, expected: str) -> Any:
    if not good:
        raise InputError(f"{where} is {value!r}: expected {expected}")
    return value
