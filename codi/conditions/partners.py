"""The partners: environments of the outputs and clean inputs that an output attends to (CoDi,
section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from codi.conditions.base import Condition, Mechanism
from codi.diffusion.guidance import Branch
from codi.protocols import Environment


@dataclass(frozen=True, kw_only=True)
class PartnersCondition(Condition):
    """Environment tokens; a branch that drops the partners attends to nothing."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Environment | None]) -> Environment | None:
        """Returns the environment once for every branch that attends to it, (attending * B, L, D).

        It has fewer rows than there are prompts where some branches drop the partners: the rows of a batch
        that come after them attend to nothing.
        """
        attended = [value for value in values if value is not None]
        if not attended:
            return None
        if values[: len(attended)] != attended:
            raise AssertionError("branches that drop the partners come last")
        return attended[0].repeated(len(attended))


PARTNERS = PartnersCondition(
    name="partners",
    mechanism=Mechanism.CROSS_ATTENTION,
    null="no partners: the joint attention adds nothing",
    scale="sync_guidance_scale",
    interval="sync_guidance_interval",
)
