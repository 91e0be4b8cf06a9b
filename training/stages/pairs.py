"""This module is about pairs of modalities, which ones training may see, and where their samples come from.

Training sees no more than two modalities of one sample together.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from codi.types import InputError, Modality
from data.source import Source
from data.world import PAIRS
from training.config import Config, expect
from training.stages import Stage
from training.stages.common import planning, say
from training.stages.rows import has_rows

Pair = tuple[Modality, Modality]


Rule = Collection[Set[Modality]] | None
Options = TypeVar("Options", bound="PairOptions")


def rule_of(config: Config) -> Rule:
    """Return the pairs of modalities that a run may see together.

    On scenes these are the pairs of the world, which holds out all others so that tests on them show what was
    learned. On one's own files any two modalities may meet, which None stands for.
    """
    scenes = not config.data or config.data.get("world") is not None
    return PAIRS if scenes else None


def may_meet(first: Modality, second: Modality, rule: Rule) -> bool:
    """Return whether training may see two modalities of one sample together."""
    return first is not second and (rule is None or {first, second} in rule)


def parse_pair(name: str, rule: Rule) -> Pair:
    """Return the two modalities that a pair's name lists.

    Args:
        name: two modalities, such as "audio+video".
        rule: the pairs that the run may see (`rule_of`).

    Returns:
        The modalities, in the order of the name.

    Raises:
        InputError: for anything but two modalities that training may see together.
    """
    pair = tuple(Modality.parse(part) for part in name.split("+"))
    if len(pair) != 2 or not may_meet(*pair, rule):
        raise InputError(
            f"options: pairs names {name!r}: expected two modalities that training may see together, such as "
            "audio+video"
        )
    return pair


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Options of the stages that train pairs of modalities to attend to each other.

    A pair is named by its two modalities, such as "audio+video".

    Attributes:
        pairs: the pairs that train, each with its share of the batch size, for example {"audio+video": 1.0}.
        attending: by pair which of its sides learn to attend to the other; both of a pair that is not named.
            What a side learns (its adapters, and its partner's environment) is apart from what the other
            does, so that they may train one after the other or on two machines: what a run does not train
            stays in the model folder as it was.
        scenes: the number of scenes in the latent caches.
        shared: the share of samples whose two sides have one timestep.
        independent: the share of samples whose sides have a timestep each.
        clean: the share of samples in which one side is clean; either, half each.
        prompt_dropout: by pair the share of samples without a prompt; 0.3 if not named. What a prompt leaves
            open is what partners must agree on. Without a prompt the loss is several times as large, and a
            few such samples drown what is to be learned of time.
        timestep_shift: by pair the shift of `spread_timesteps`; 1 for a pair that is not named. The
            denoisers' own is right: below the noise at which a latent is decided there is nothing to learn
            from a partner.
        contrast: the weight of the contrast between environments of pairs in which both sides run in time; 0
            for none.
        contrast_share: the number of further clips that the contrast sees, for each clip that is denoised.
        hard_negatives: whether clips moved in time are among the wrong partners of the contrast.
        temporal_change: the weight of predicting from an environment when the latent that attends to it
            changes, where both sides run in time; 0 for none.
        only_temporal_change: nothing is denoised. Encoders learn when things happen, many times as fast,
            before a run that continues from them.
        continue_from: start from what is in the model folder, too, for pairs that are trained one after
            another.
    """

    BY_PAIR: ClassVar[tuple[str, ...]] = ("pairs", "attending", "prompt_dropout", "timestep_shift")

    pairs: dict[str, float]
    attending: dict[str, list[str]] = field(default_factory=dict)
    scenes: int = 8192
    shared: float = 0.5
    independent: float = 0.15
    clean: float = 0.35
    prompt_dropout: dict[str, float] = field(default_factory=dict)
    timestep_shift: dict[str, float] = field(default_factory=dict)
    contrast: float = 0.0
    contrast_share: float = 3.0
    hard_negatives: bool = True
    temporal_change: float = 0.0
    only_temporal_change: bool = False
    continue_from: bool = False

    def __post_init__(self) -> None:
        fine = bool(self.pairs) and min(self.pairs.values()) > 0
        expect(fine, "pairs", self.pairs, "at least one pair, with shares above 0")
        kinds = (self.shared, self.independent, self.clean)
        expect(
            min(kinds) >= 0 and sum(kinds) > 0,
            "shared, independent, clean",
            kinds,
            "shares, none below 0 and not all 0",
        )
        fine = all(0 <= share <= 1 for share in self.prompt_dropout.values())
        expect(fine, "prompt_dropout", self.prompt_dropout, "shares in [0, 1]")
        fine = all(shift > 0 for shift in self.timestep_shift.values())
        expect(fine, "timestep_shift", self.timestep_shift, "numbers above 0")
        for name in ("contrast", "contrast_share", "temporal_change"):
            expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        expect(self.scenes >= 1, "scenes", self.scenes, "1 or more")
        expect(
            self.temporal_change > 0 or not self.only_temporal_change,
            "only_temporal_change",
            True,
            "false where temporal_change is 0: there is nothing to learn",
        )

    def trainable(self: Options, config: Config) -> Options:
        """Return the options of those pairs of which the run has samples, and say which it has none of.

        Args:
            config: the run. While a run is planned its files are not read, and every pair counts.

        Returns:
            The options, with nothing in them about other pairs.

        Raises:
            InputError: if there are samples of none of the pairs.
        """
        rule = rule_of(config)
        pairs = {name: parse_pair(name, rule) for name in self.pairs}
        if planning():
            return self
        lacking = [name for name, pair in pairs.items() if not has_rows(config.data, pair)]
        if not lacking:
            return self
        if len(lacking) == len(pairs):
            raise InputError(f"data: no row has both media of a pair: expected some of {', '.join(lacking)}")
        say(f"no row has both media of {', '.join(lacking)}: left out of this run")
        gone = {frozenset(pairs[name]) for name in lacking}
        kept: dict[str, Any] = {}
        for option in self.BY_PAIR:
            values = getattr(self, option)
            kept[option] = {n: v for n, v in values.items() if frozenset(parse_pair(n, rule)) not in gone}
        return dataclasses.replace(self, **kept)

    def by_pair(self, name: str, rule: Rule) -> dict[Pair, Any]:
        """Return the values of an option by pair.

        Args:
            name: an option that says something of each pair.
            rule: the pairs that the run may see (`rule_of`).

        Returns:
            The values of those pairs that are named.

        Raises:
            InputError: for a pair that does not train.
        """
        values = {parse_pair(pair, rule): value for pair, value in getattr(self, name).items()}
        own = {parse_pair(pair, rule) for pair in self.pairs}
        if strangers := values.keys() - own:
            raise InputError(
                f"options: {name} names {'+'.join(strangers.pop())}: expected one of pairs, "
                f"{', '.join(self.pairs)}"
            )
        return values

    def attending_by_pair(self, rule: Rule) -> dict[Pair, tuple[Modality, ...]]:
        """Return the sides of each pair that learn to attend to the other."""
        named = self.by_pair("attending", rule)
        found = {}
        for name in self.pairs:
            pair = parse_pair(name, rule)
            found[pair] = self.learning(pair, named.get(pair))
        return found

    def learning(self, pair: Pair, names: list[str] | None) -> tuple[Modality, ...]:
        """Return the sides of a pair that learn.

        Args:
            pair: the pair.
            names: its value of the option `attending`; None stands for both sides.

        Returns:
            One side or both.

        Raises:
            InputError: for sides that are not the pair's.
        """
        sides = pair if names is None else tuple(map(Modality.parse, names))
        fine = bool(sides) and set(sides) <= set(pair)
        expect(fine, f"attending of {'+'.join(pair)}", names, "one of its two modalities, or both")
        return sides

    def mixed(
        self,
        pair: Pair,
        learning: Collection[Modality],
        levels: tuple[Tensor, Tensor],
        generator: torch.Generator,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Draw which samples have one noise level, two, or a clean side.

        Args:
            pair: the pair.
            learning: its sides that learn.
            levels: timesteps or noise levels (B,) of each side, drawn apart.
            generator: the source of the draws.

        Returns:
            The levels (B,) of each side, and booleans (B,) of each side that say where it is clean instead.
            Where both sides learn either is clean in half of these samples; a side that alone learns is never
            clean.
        """
        first, second = levels
        edge = self.shared + self.independent
        # `kind` is drawn on one line of three parts: shared, independent, clean
        kind = torch.rand(len(first), generator=generator, device=generator.device) * (edge + self.clean)
        second = torch.where(kind < self.shared, first, second)
        # where on the third part the first side's share of clean samples ends
        middle = edge + self.clean * (0.5 if len(learning) == 2 else float(tuple(learning) == pair[1:]))
        return (first, second), ((kind >= edge) & (kind < middle), kind >= middle)


class PairStage(Stage):
    """The base of the stages that train pairs of modalities to attend to each other, all in every step.

    Attributes:
        options: the options of the run.
        pairs: the pairs that train, with their shares.
    """

    options: PairOptions
    pairs: Mapping[Pair, float]

    def with_data(self, data: dict[str, Any]) -> "PairStage":
        """Return this stage over other samples, with those of its pairs that they have."""
        other: Any = super().with_data(data)
        other.pairs = {pair: share for pair, share in self.pairs.items() if has_rows(data, pair)}
        if not other.pairs:
            names = ", ".join("+".join(pair) for pair in self.pairs)
            raise InputError(f"data: none of the held-out rows has both media of a pair: expected {names}")
        return other

    @abstractmethod
    def in_time(self, pair: Pair) -> bool:
        """Return whether both sides of a pair run in time."""

    @abstractmethod
    def latents(self, modality: Modality, batch: Any) -> Tensor:
        """Return the clean latents (B, ...) of one side of a pair's batch."""

    @abstractmethod
    def contrast(self, module: Any, pair: Pair, clean: list[Tensor], generator: torch.Generator) -> Tensor:
        """Return the contrast of the environments of both sides, a scalar, of their clean latents."""

    @abstractmethod
    def pair_loss(
        self, module: Any, pair: Pair, batch: Any, clean: list[Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of one pair, by name, and what else the log shows of it."""

    def loss(self, module: Any, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the sum of the losses of all pairs, and each of them for the log."""
        total = torch.zeros((), device=generator.device)
        extras: dict[str, Any] = {}
        for pair in self.pairs:
            name = "+".join(pair)
            part = batch[name]
            clean = [self.latents(modality, part) for modality in pair]
            if module.contrast is not None and self.in_time(pair):
                contrast = self.contrast(module, pair, clean, generator)
                total = total + self.options.contrast * contrast
                extras[f"{name}/contrast"] = contrast.detach()
                # the further clips are for the contrast alone
                count = max(1, round(len(clean[0]) / (1 + self.options.contrast_share)))
                part = part.first(count)
                clean = [x_0[:count] for x_0 in clean]
            losses, logged = self.pair_loss(module, pair, part, clean, generator)
            extras |= {name: loss.detach() for name, loss in losses.items()} | logged
            total = total + sum(losses.values())
        return total, extras


class PairSource(Source):
    """A source that gives one batch of every pair at once, each as large as its share says.

    Args:
        sources: the samples of each pair; a medium that is trained by itself makes a tuple of one.
        shares: the size of each pair's batch, in parts of the batch size of the run.
    """

    def __init__(self, sources: Mapping[Any, Source], shares: Mapping[Any, float]):
        self.sources = sources
        self.shares = shares

    def __len__(self) -> int:
        return min(map(len, self.sources.values()))

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """Return the batches of all pairs by name, {"audio+video": batch, ...}.

        A pair with a share above one takes more indices than were asked for, those that follow. "ids", if
        there are any, name the samples of all pairs.
        """
        batches: dict[str, Any] = {}
        ids: list[str] = []
        for pair, source in self.sources.items():
            batch = source.fetch(_stretched(indices, self.shares[pair]))
            batches["+".join(pair)] = batch
            ids += batch.ids or []
        if ids:
            batches["ids"] = ids
        return batches

    @property
    def bad(self) -> int:  # type: ignore[override]
        """The number of bad samples met so far."""
        return sum(source.bad for source in self.sources.values())

    def close(self) -> None:
        """End what the sources have running."""
        for source in self.sources.values():
            source.close()


def _stretched(indices: list[int], share: float) -> list[int]:
    """Return about len(indices) * share indices, disjoint from those of the neighbouring batches."""
    count = max(1, round(len(indices) * share))
    start = round(indices[0] * share)
    return list(range(start, start + count))
