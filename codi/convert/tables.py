"""Turn released weights into ours, and ours into released ones, by a table with one bijection per tensor.

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
    """A bijection between one released tensor and one or more of ours.

    Attributes:
        forward: turns the released tensor into ours.
        reverse: turns ours into the released tensor.
    """

    forward: Callable[[Tensor], tuple[Tensor, ...]]
    reverse: Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: what one released tensor becomes.

    Attributes:
        source: the name of the tensor in the checkpoint.
        targets: the names of the tensors in our module that it becomes.
        op: how it becomes them, and they it.
    """

    source: str
    targets: tuple[str, ...]
    op: Op


SAME = Op(forward=lambda x: (x,), reverse=lambda xs: xs[0])


def trailing(ones: int) -> Op:
    """Return the operation that drops `ones` trailing axes of length 1.

    It turns the weights of a 1x1 convolution into those of the linear layer that stands for it here.
    """
    return Op(
        forward=lambda x: (x.reshape(x.shape[: x.ndim - ones]),),
        reverse=lambda xs: xs[0].reshape(*xs[0].shape, *[1] * ones),
    )


# drops a leading axis of length 1
LEADING = Op(forward=lambda x: (x[0],), reverse=lambda xs: xs[0][None])


def split(parts: int) -> Op:
    """Return the operation that takes apart matrices stacked in one tensor (query, key, value)."""
    return Op(forward=lambda x: tuple(x.chunk(parts)), reverse=lambda xs: torch.cat(xs))


# drops axes of length 1 on both sides of the only other one
BETWEEN = Op(forward=lambda x: (x[0, :, 0],), reverse=lambda xs: xs[0][None, :, None])


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of one module, and its tensors that come from no row.

    Attributes:
        rows: one row for each released tensor that is used.
        constants: tensors of the module that no checkpoint holds, because their values are known.
        tied: tensors of the module that are another of its tensors under a second name, and that other name.
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
        """Build the table of a module from those rows whose targets the module has.

        Every tensor of the module must be a target of exactly one row, a constant, or tied.

        Args:
            module: the module.
            rows: rows for it; those whose targets it lacks are left out.
            constants: its tensors that no checkpoint holds.
            tied: its tensors that are another one under a second name, and that other name.

        Returns:
            The table.
        """
        constants = dict(constants or {})
        tied = dict(tied or {})
        wanted = set(module.state_dict()) - set(constants) - set(tied)
        kept = tuple(row for row in rows if set(row.targets) <= wanted)
        found: set[str] = set()
        twice: set[str] = set()
        for row in kept:
            twice |= found & set(row.targets)
            found |= set(row.targets)
        assert not twice, f"two rows for {sorted(twice)[:5]}"
        assert found == wanted, f"no row for {sorted(wanted - found)[:5]}"
        return cls(rows=kept, constants=constants, tied=tied)

    @property
    def sources(self) -> list[str]:
        """The released names that the module is made of."""
        return [row.source for row in self.rows]

    def apply(self, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn released tensors into ours.

        Args:
            released: tensors by their released names; those that the table does not name are for the caller
                to judge.

        Returns:
            The tensors of the module by name, constants and tied ones included.

        Raises:
            InputError: if tensors are missing; the message names them.
        """
        refuse("missing", set(self.sources) - set(released))
        ours: dict[str, Tensor] = {}
        for row in self.rows:
            tensors = row.op.forward(released[row.source])
            ours |= dict(zip(row.targets, tensors, strict=True))
        ours |= self.constants
        for name, twin in self.tied.items():
            ours[name] = ours[twin]
        return ours

    def reverse(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn our tensors into released ones.

        Args:
            ours: all tensors of the module by name.

        Returns:
            The tensors by their released names.

        Raises:
            InputError: if tensors are missing or left over; the message names them.
        """
        targets: set[str] = set()
        for row in self.rows:
            targets.update(row.targets)
        refuse("missing", targets - set(ours))
        refuse("left over", set(ours) - targets - set(self.constants) - set(self.tied))
        released = {}
        for row in self.rows:
            tensors = tuple(ours[name] for name in row.targets)
            released[row.source] = row.op.reverse(tensors).contiguous()
        return released


def refuse(what: str, names: set[str]) -> None:
    """Raise `InputError` if there are any names, which are `what`: missing or left over."""
    if names:
        shown = ", ".join(sorted(names)[:3])
        more = ", ..." if len(names) > 3 else ""
        raise InputError(f"weights do not fit: {len(names)} {what}: {shown}{more}")


def rename(source: str, target: str, names: Iterable[tuple[str, str] | tuple[str, str, Op]]) -> list[Row]:
    """Build the rows for the weights and biases of modules.

    Args:
        source: the prefix of the released names.
        target: the prefix of our names.
        names: for each module its released name and our name below the prefixes and, where the weight does
            not stay as it is, the operation for the weight.

    Returns:
        Two rows for each module; a module without a bias makes `Table.for_module` leave out the second.
    """
    rows = []
    for released, ours, *op in names:
        weight = same(f"{source}{released}.weight", f"{target}{ours}.weight", *op)
        bias = same(f"{source}{released}.bias", f"{target}{ours}.bias")
        rows += [weight, bias]
    return rows


def same(source: str, target: str, op: Op = SAME) -> Row:
    """Build the row of one tensor that is named in full on both sides."""
    return Row(source=source, targets=(target,), op=op)


def load(module: nn.Module, table: Table, released: Mapping[str, Tensor]) -> nn.Module:
    """Put the released weights into a module, and return it; the module may be on the meta device."""
    module.load_state_dict(table.apply(released), strict=True, assign=True)
    return module
