"""The prompt of a source: what the medium that an output starts from shows, in words.

With it an edit is steered by the difference of two captions, that of the source and that of the result, as in
FlowEdit (arXiv 2412.08629, equation 6), and what they have in common stays. At every step the denoiser is
asked twice: for the output and its prompt, and for the source, as noisy, and the source's own prompt. What
the second answer loses of the source is known, and is given back to the first:

    x_0 = x_0(output, prompt) + (source - x_0(source, prompt of the source))

The noise of both is the one that the output is made of. With the prompt of the source as prompt, without
guidance, what comes back is the source.

Letters: B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from codi.conditions.base import Condition, JointStep, LoopCondition, Mechanism
from codi.diffusion.guidance import Branch
from codi.diffusion.trajectory import Trajectory
from codi.types import Latents, Modality


@dataclass(frozen=True, kw_only=True)
class SourcePromptCondition(Condition):
    """The words of a source; a denoiser is given them as any prompt, in a call of their own."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Any]) -> None:
        """Return None: it acts on the answers alone."""
        return None


SOURCE_PROMPT = SourcePromptCondition(
    name="source_prompt",
    mechanism=Mechanism.DIFFERENCE,
    null="nothing is known of what the source shows: the prompt alone decides",
)


@dataclass(kw_only=True)
class SourcePrompt(LoopCondition):
    """The prompt of the source of one output.

    Attributes:
        modality: the output.
        x_0: (1 or B, ...) the clean latent of the source.
        prompt: what its denoiser takes as a prompt, for all B samples.
    """

    name: ClassVar[str] = SOURCE_PROMPT.name
    modality: Modality
    x_0: Tensor
    prompt: Any
    _eps: Tensor | None = field(default=None, init=False, repr=False)

    def entered(self, x: Tensor, eps: Tensor, step: int, trajectory: Trajectory) -> Tensor:
        """Keep the noise (B, ...) that the output is made of, and return the latent x (B, ...) as it is."""
        self._eps = eps
        return x

    def answered(self, answers: Latents, step: JointStep) -> Latents:
        """Return the answers (B, ...), that of this output with what the other one loses of the source."""
        assert self._eps is not None, "an output enters its schedule before it is answered"
        output = step.active[self.modality]
        source = self.x_0.to(output.x.device).expand_as(output.x).float()
        noisy = output.levels.add_noise(source, self._eps.to(source), output.t)
        answer = step.answer(self.modality, noisy, self.prompt)
        lost = source - output.levels.to_x_0(answer, noisy, output.t)
        answers = dict(answers)
        answers[self.modality] = answers[self.modality] + output.levels.moved(lost, output.t)
        return answers
