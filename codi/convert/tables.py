"""How released weights become ours and ours released: a table of rows, one bijection per tensor.

A row names one tensor of the released checkpoint and the tensors of our module that it becomes, with an
operation that can be undone bit for bit. A table is built for a module, and is complete: every tensor of the
module comes from exactly one row. Applying it is strict both ways; what does not fit is named.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codi.types import InputError


@dataclass(frozen=True, kw_only=True)
class Op:
    """A bijection between one released tensor and one or more of ours."""

    forward: Callable[[Tensor], tuple[Tensor, ...]]
    reverse: Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """`source` in the checkpoint becomes `targets` in our module."""

    source: str
    targets: tuple[str, ...]
    op: Op


SAME = Op(forward=lambda x: (x,), reverse=lambda xs: xs[0])


def trailing(ones: int) -> Op:
    """A 1x1 convolution that is a linear layer here: the trailing axes of length 1 go."""
    return Op(
        forward=lambda x: (x.reshape(x.shape[: x.ndim - ones]),),
        reverse=lambda xs: xs[0].reshape(*xs[0].shape, *[1] * ones),
    )


LEADING = Op(forward=lambda x: (x[0],), reverse=lambda xs: xs[0][None])


def split(parts: int) -> Op:
    """Matrices stacked in one tensor (query, key, value) that are separate here."""
    return Op(forward=lambda x: tuple(x.chunk(parts)), reverse=lambda xs: torch.cat(xs))


BETWEEN = Op(forward=lambda x: (x[0, :, 0],), reverse=lambda xs: xs[0][None, :, None])


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of one module; the tensors of it that no checkpoint holds because they are known
    (`constants`); and those that are another of its tensors under a second name (`tied`).
    """

    rows: tuple[Row, ...]
    constants: Mapping[str, Tensor]
    tied: Mapping[str, str]

    @classmethod
    def for_module(
        cls,
        module: nn.Module,
        rows: Iterable[Row],
        constants: Mapping[str, Tensor] | None = None,
        tied: Mapping[str, str] | None = None,
    ) -> "Table":
        """The rows whose targets the module has. Every tensor of the module must be in exactly one, or a
        constant, or tied.
        """
        constants, tied = dict(constants or {}), dict(tied or {})
        wanted = set(module.state_dict()) - set(constants) - set(tied)
        kept = tuple(row for row in rows if set(row.targets) <= wanted)
        targets = [name for row in kept for name in row.targets]
        assert len(targets) == len(set(targets)), (
            f"two rows for {sorted({n for n in targets if targets.count(n) > 1})[:5]}"
        )
        assert set(targets) == wanted, f"no row for {sorted(wanted - set(targets))[:5]}"
        return cls(rows=kept, constants=constants, tied=tied)

    @property
    def sources(self) -> list[str]:
        """Released names that the module is made of."""
        return [row.source for row in self.rows]

    def apply(self, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released tensors -> ours. Raises `InputError` naming what is missing; what is left over is for the
        caller to judge.
        """
        refuse("missing", set(self.sources) - set(released))
        ours = {
            name: y
            for row in self.rows
            for name, y in zip(row.targets, row.op.forward(released[row.source]), strict=True)
        }
        return ours | dict(self.constants) | {name: ours[twin] for name, twin in self.tied.items()}

    def reverse(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors -> released ones."""
        targets = {name for row in self.rows for name in row.targets}
        refuse("missing", targets - set(ours))
        refuse("left over", set(ours) - targets - set(self.constants) - set(self.tied))
        return {
            row.source: row.op.reverse(tuple(ours[name] for name in row.targets)).contiguous()
            for row in self.rows
        }


def refuse(what: str, names: set[str]) -> None:
    """Raises `InputError` if there are any names."""
    if names:
        raise InputError(
            f"weights do not fit: {len(names)} {what}: "
            f"{', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"
        )


def rename(source: str, target: str, names: Iterable[tuple[str, str] | tuple[str, str, Op]]) -> list[Row]:
    """Rows for the weights and biases of modules: `names` are (released, ours[, op of the weight]) below the
    prefixes.
    """
    rows = []
    for released, ours, *op in names:
        rows.append(
            Row(
                source=f"{source}{released}.weight",
                targets=(f"{target}{ours}.weight",),
                op=op[0] if op else SAME,
            )
        )
        rows.append(Row(source=f"{source}{released}.bias", targets=(f"{target}{ours}.bias",), op=SAME))
    return rows


def same(source: str, target: str, op: Op = SAME) -> Row:
    """One row for one tensor by its full names."""
    return Row(source=source, targets=(target,), op=op)


def load(module: nn.Module, table: Table, released: Mapping[str, Tensor]) -> nn.Module:
    """The module with the released weights in it; also works for a module on the meta device."""
    module.load_state_dict(table.apply(released), strict=True, assign=True)
    return module
