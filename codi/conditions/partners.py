"""The partners: environments of the outputs and clean inputs that an output attends to (CoDi, section 3.4).

Letters: B batch, L environment tokens, D environment width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from codi.conditions.base import Condition, Mechanism
from codi.diffusion.guidance import Branch
from codi.protocols import Environment


@dataclass(frozen=True, kw_only=True)
class PartnersCondition(Condition):
    """The environment of the partners; a branch that drops it attends to nothing."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Environment | None]) -> Environment | None:
        """Return the environment once for every branch that attends to it, (attending * B, L, D).

        Where some branches drop the partners it has fewer rows than there are prompts, and the last rows of
        the batch attend to nothing.

        Args:
            branches: the branches of one call of the denoiser, those that keep the partners first.
            values: the environment in each branch; None in those that drop the partners.

        Returns:
            the environment of all branches that keep the partners; None if none does.
        """
        attended = [value for value in values if value is not None]
        if not attended:
            return None
        # The environment has no rows for the others, so that the rows which attend must be the first ones.
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
