"""Guidance: one weighted sum of the denoiser's answers, in which conditions are dropped by name.

A branch is the set of conditions that it drops. Let w_c be the scale of the condition c, and s_c = w_c - 1.
The guided answer is

    e(all) + sum over k of m_k (e(all) - e(all but C_k))

C_1 is the set of all guided conditions, and m_1 the least of their s. C_2 is the set of those that have more,
and m_2 is by how much the least of them has more; and so on. One branch without any condition leads away from
all at once (as in the nested guidance of arXiv 2211.09800, section 3.2, where the scales are equal), so that
a second condition as strong as the first adds no branch.

Prompt guidance is classifier-free guidance (arXiv 2207.12598). Each condition is guided within its own
interval of the schedule (arXiv 2404.07724). A scale of 1.0 is off, and its branch is never computed. All
branches see the same x_t and the weights sum to one, so the formula is the same for eps, v and flow. Variants
of it are guiders (`codi.diffusion.guiders`).

Letters: B batch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi.diffusion.guiders import FULL, WEAKENED, WHOLE_SCHEDULE, Branch, Guider


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The guidance of one output.

    Attributes:
        scales: the guidance scale of each condition by name; 1.0 is off, as for a condition that is not
            named.
        intervals: the fractions [from, to) of the sampling steps in which a condition is guided, where 0 is
            the first step and 1 after the last; the whole schedule for a condition that is not named.
        rescale: how far the result's spread is pulled back to that of the unguided answer, from 0 to 1 (arXiv
            2305.08891, section 3.4), where the guider does not say it.
        guider: the variant of guidance.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rescale: float = 0.0
    guider: Guider = field(default_factory=Guider)

    @property
    def spread(self) -> float:
        """How far the result's spread is pulled back: the guider's own `rescale`, or else the call's."""
        return self.rescale if self.guider.rescale is None else self.guider.rescale

    def acts(self, name: str, progress: float) -> bool:
        """Return whether a condition is guided at this progress, if it is given."""
        return any(self._extra(name, progress, noise_left) != 0.0 for noise_left in (0.0, 0.5))

    def weights(
        self, progress: float, given: Collection[str], noise_left: float = 0.0
    ) -> dict[Branch, float]:
        """Return the weight of every branch that has to be computed; the weights sum to one.

        Args:
            progress: how much of the schedule has passed, in [0, 1).
            given: the names of the conditions that there are; any other has nothing to lead away from.
            noise_left: what the step leaves of the ratio of noise to signal, from 0 to 1, for guiders that
                ask for it.

        Returns:
            weights by branch, without those that are zero.
        """
        extra = {name: self._extra(name, progress, noise_left) for name in self.scales if name in given}
        weights: dict[Branch, float] = {FULL: 1.0}
        for name, value in extra.items():
            if value < 0:  # a scale below 1 weakens the condition: it leads towards the branch that drops it
                _lead_away(weights, frozenset([name]), value)
        # From the weakest condition to the strongest: each branch drops all that are at least as strong.
        rising = sorted((value, name) for name, value in extra.items() if value > 0)
        passed = 0.0
        for k, (value, _) in enumerate(rising):
            _lead_away(weights, frozenset(name for _, name in rising[k:]), value - passed)
            passed = value
        if weakening := self.guider.weakening(progress):
            _lead_away(weights, WEAKENED, weakening[1])
        return {branch: weight for branch, weight in weights.items() if weight != 0.0}

    def _extra(self, name: str, progress: float, noise_left: float) -> float:
        """Return the scale of a condition beyond 1 at this progress; 0 outside its interval."""
        for first, last in (self.intervals.get(name, WHOLE_SCHEDULE), self.guider.interval):
            if not first <= progress < last:
                return 0.0
        return self.guider.scale(name, self.scales[name], noise_left) - 1.0

    def combine(
        self,
        answers: Mapping[Branch, Tensor],
        weights: Mapping[Branch, float],
        memory: dict[str, Any] | None = None,
    ) -> Tensor:
        """Return the guided answer (B, ...).

        Args:
            answers: (B, ...) the denoiser's answer in each branch that `weights` names.
            weights: what the method `weights` returned.
            memory: what the guider keeps from step to step of one output.

        Returns:
            (B, ...), rescaled if the answer of the full branch is there to compare with.
        """
        if len(weights) == 1:
            return answers[next(iter(weights))]
        guided = self.guider.combine(answers, weights, {} if memory is None else memory)
        if self.spread > 0.0 and FULL in answers:
            guided = _rescale(guided, answers[FULL], self.spread)
        return guided


def _lead_away(weights: dict[Branch, float], branch: Branch, amount: float) -> None:
    """Add amount (e(all) - e(branch)) to a weighted sum of answers, in place."""
    weights[FULL] += amount
    weights[branch] = weights.get(branch, 0.0) - amount


def _rescale(guided: Tensor, plain: Tensor, amount: float) -> Tensor:
    """Move the standard deviation of each sample the fraction `amount` of the way to that of `plain`."""
    axes = tuple(range(1, guided.ndim))
    ratio = plain.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return guided * (1.0 + amount * (ratio - 1.0))
