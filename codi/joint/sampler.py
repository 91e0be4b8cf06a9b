"""Joint sampling denoises several latents together, each of which attends to the others.

The scheme is that of CoDi (arXiv 2305.11846, section 3.4). At every step the environment encoders read all
visible latents before any of them is updated; then each denoiser answers from its conditions, and each
modality's own scheduler takes the step. A clean partner is a latent that is visible at timestep 0 and never
updated. Partner estimates are fused with the prompt (`codi.joint.partner_estimates`), and outputs may start
one after another (`codi.joint.start_offsets`). What else an output was given (a start, a control) acts
through `codi.conditions.base.LoopCondition`. Networks and schedulers are passed in, keyed by modality; their
contracts are in `codi.protocols`.

Letters: B batch, L prompt tokens, D width of the prompt space. Latents are (B, *latent_shape) of their
modality.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from codi.conditions import CONDITIONS, PARTNERS, PROMPT, JointStep, LoopCondition, NoisyLatent
from codi.conditions.regional import RegionalPrompt
from codi.diffusion.guidance import WEAKENED, Branch, Guidance
from codi.diffusion.levels import NoiseLevels
from codi.diffusion.schedulers import entry_step, noise_left, pass_repeated_step, scaled_input
from codi.diffusion.trajectory import Trajectory
from codi.joint.partner_estimates import PartnerEstimate, centred_estimate, fuse_prompt
from codi.joint.start_offsets import EvenTimeline, LevelTimeline, Timeline
from codi.protocols import Denoiser, Environment, EnvironmentEncoder, NoisyLatentEncoder, Weakening
from codi.types import Latents, Modality

CLEAN = 0  # the timestep of a clean partner, and of an output that is finished
LEVEL_SCALE = 1000  # of noise levels in [0, 1], which encoders are given as timesteps


@dataclass(kw_only=True)
class JointSampler:
    """Everything that one joint generation needs but the latents.

    `step` is called once for each index below `num_steps`, in order. A sampler serves one generation.

    Attributes:
        denoisers: one per generated modality.
        schedulers: one per generated modality, each with a state of its own
            (`codi.diffusion.copy_schedulers`), all with equally many steps unless there are `levels`.
        contexts: prompt tokens (B, L, D) per generated modality, or what else its denoiser takes
            (`codi.protocols.PromptBatch`); their dtype is the one in which the networks compute.
        null_contexts: null prompts of the same shapes; None where there is no prompt to guide towards. An
            output that is not among them has no branch without a prompt.
        environment_encoders: those of the modalities that others can attend to; without any the outputs are
            independent.
        attends_to: whose environment each modality attends to; None for all the others'.
        noisy_latent_encoders: those of the modalities that can be estimated.
        estimates_from: whose estimates each modality is given, as in `attends_to`.
        partner_estimate_weight: by how much estimates are amplified (`fuse_prompt`); 0 is off.
        start_offsets: steps after the first output at which a generated modality starts; with `levels`, noise
            levels.
        guidance: the guidance of each generated modality; one that is missing is unguided.
        partners: clean latents (B, ...) of inputs, visible at timestep 0.
        rates: latent steps per second where they differ from the model's own.
        generators: per modality one for each sample, for schedulers that draw noise.
        levels: the noise levels of each generated modality and clean partner where schedules differ. The
            noisiest then act first, and encoders are given `LEVEL_SCALE` times the level as the timestep.
        tokens: prompt tokens (B, L, D) per generated modality, for partner estimates, where `contexts` are in
            another form; None where those are tokens.
        conditions: what else each generated modality was given, in the order in which it acts; one that is
            missing has none.
        regions: the prompts of parts of a generated modality, which count there in place of its context.
    """

    denoisers: Mapping[Modality, Denoiser]
    schedulers: Mapping[Modality, Any]
    contexts: Mapping[Modality, Any]
    null_contexts: Mapping[Modality, Any] | None = None
    environment_encoders: Mapping[Modality, EnvironmentEncoder] = field(default_factory=dict)
    attends_to: Mapping[Modality, Collection[Modality]] | None = None
    noisy_latent_encoders: Mapping[Modality, NoisyLatentEncoder] = field(default_factory=dict)
    estimates_from: Mapping[Modality, Collection[Modality]] | None = None
    partner_estimate_weight: float = 1.0
    start_offsets: Mapping[Modality, float] = field(default_factory=dict)
    guidance: Mapping[Modality, Guidance] = field(default_factory=dict)
    partners: Latents = field(default_factory=dict)
    rates: Mapping[Modality, float] = field(default_factory=dict)
    generators: Mapping[Modality, list[torch.Generator]] = field(default_factory=dict)
    levels: Mapping[Modality, NoiseLevels] | None = None
    tokens: Mapping[Modality, Tensor] | None = None
    conditions: Mapping[Modality, Sequence[LoopCondition]] = field(default_factory=dict)
    regions: Mapping[Modality, RegionalPrompt] = field(default_factory=dict)
    _initial: Latents = field(default_factory=dict, init=False, repr=False)
    _pure_noise: Latents = field(default_factory=dict, init=False, repr=False)  # of outputs with conditions
    _kept: dict[Any, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False)  # see `_once`
    # the last step: its index, the latents as networks took them, the guided answers, the latents after it
    _last: tuple[int, Latents, Latents, Latents] | None = field(default=None, init=False, repr=False)
    _caches: dict[Modality, Any] = field(default_factory=dict, init=False, repr=False)
    # by output and part, what guiders keep from step to step
    _memories: dict[Any, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    # for each prompt of an output with regions, the clean latent and the noise that it answered last
    _surroundings: dict[Modality, list[tuple[Tensor, Tensor]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        lengths = {m: len(scheduler.timesteps) for m, scheduler in self.schedulers.items()}
        even = self.levels is not None or len(set(lengths.values())) == 1
        assert even, f"schedulers disagree about the number of steps: {lengths}"
        both = set(self.partners) & set(self.denoisers)
        assert not both, f"{sorted(both)} cannot be generated and stand as clean partners at once"

    @cached_property
    def timeline(self) -> Timeline:
        """The steps of the joint loop at which each output takes its own steps."""
        if self.levels is not None:
            levels = {}
            for modality in self.denoisers:
                levels[modality] = self.levels[modality].angle(self.schedulers[modality].timesteps).tolist()
            return LevelTimeline(
                levels=levels, start_offsets=self.start_offsets, first_steps=self._first_steps
            )
        steps = len(next(iter(self.schedulers.values())).timesteps)
        offsets = {m: int(offset) for m, offset in self.start_offsets.items()}
        return EvenTimeline(
            outputs=list(self.denoisers),
            steps=steps,
            start_offsets=offsets,
            first_steps=self._first_steps,
        )

    @cached_property
    def _first_steps(self) -> dict[Modality, int]:
        """The own step at which each output that has conditions enters its schedule."""
        found = {}
        for modality, conditions in self.conditions.items():
            scheduler = self.schedulers[modality]
            steps = len(scheduler.timesteps)
            first = max((c.first_step(steps) for c in conditions), default=0)
            found[modality] = first if first == steps else entry_step(scheduler, first)
        return found

    @cached_property
    def _trajectories(self) -> dict[Modality, Trajectory]:
        """The noise levels that each output passes that has conditions."""
        levels = self.levels or {}
        return {m: Trajectory.of(self.schedulers[m], levels.get(m)) for m in self.conditions}

    @property
    def num_steps(self) -> int:
        """The number of steps until the last modality is finished."""
        return self.timeline.num_steps

    def timestep(self, modality: Modality, index: int) -> Tensor | int | None:
        """Return the timestep of an output at step `index`: None before it starts, 0 once it is finished."""
        own = self.timeline.own_step(modality, index)
        if own is None:
            return None
        return self.schedulers[modality].timesteps[own] if own < self.timeline.own_steps(modality) else CLEAN

    def start(self, noise: Latents) -> Latents:
        """Return the latents from which `step` starts: noise scaled by each scheduler's initial sigma.

        The noise (B, ...) is standard normal, one tensor per generated modality.
        """
        return self.enter({m: x * self.schedulers[m].init_noise_sigma for m, x in noise.items()})

    def enter(self, latents: Latents) -> Latents:
        """Return the latents from which `step` starts, from those that are noise alone.

        Args:
            latents: (B, ...) per generated modality, noise scaled by each scheduler's initial sigma.

        Returns:
            The same, but for outputs that were given something which changes that.
        """
        entered = dict(latents)
        for modality, conditions in self.conditions.items():
            x = latents[modality]
            scheduler, trajectory = self.schedulers[modality], self._trajectories[modality]
            first = self._first_steps[modality]
            eps = x / getattr(scheduler, "init_noise_sigma", 1.0)
            if first > 0:  # prior estimates are read from noise alone
                self._pure_noise[modality] = trajectory.unscaled(x, 0)
            if 0 < first < trajectory.num_steps and hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)
            for condition in conditions:
                x = condition.entered(x, eps, first, trajectory)
            entered[modality] = x
        return entered

    def sample(self, latents: Latents) -> Latents:
        """Take all steps from what `start` returned, and return x_0 (B, ...) per generated modality."""
        for index in range(self.num_steps):
            latents = self.step(index, latents)
        return latents

    def step(self, index: int, latents: Latents) -> Latents:
        """Take one step of the joint loop.

        Args:
            index: which step; each index below `num_steps` once, in order.
            latents: (B, ...) of every generated modality; they are left as they are.

        Returns:
            the latents (B, ...) of every generated modality after the step.
        """
        active = self.timeline.active(index)
        inputs = dict(latents)
        for modality in latents:
            if isinstance(self.timestep(modality, index), Tensor):  # it has started and is not finished
                inputs[modality] = self._scaled(modality, index, latents[modality])
        # Prior estimates are read from the noise that the outputs started from, so the first call keeps it.
        if not self._initial:
            starts = self.timeline.starts
            plain = {m: x for m, x in latents.items() if m not in self._pure_noise}
            self._initial = {m: self._scaled(m, starts[m], x) for m, x in plain.items()} | self._pure_noise
        environments = self.encode_environments(index, inputs)
        estimates = self.estimate_partners(index, inputs)
        answers: Latents = {}
        again: dict[Modality, Callable[[Tensor], Tensor]] = {}
        for modality in active:
            environment = self._environment(modality, environments)
            estimate = self._partner_estimate(modality, estimates)
            answers[modality] = self.predict(modality, index, inputs[modality], environment, estimate)
            again[modality] = partial(
                self._answer_again, index, inputs, answers, modality, environment, estimate
            )
        guided = self._steered(index, inputs, answers)
        moved = {m: self._moved(m, index, latents[m], guided[m], again[m]) for m in active}
        self._last = (index, inputs, guided, latents | moved)
        return latents | moved

    def own_steps(self, index: int) -> dict[Modality, tuple[int, int]]:
        """Return how many of its own steps each output has taken after step `index`, and of how many."""
        found = {}
        for modality in self.denoisers:
            total, own = self.timeline.own_steps(modality), self.timeline.own_step(modality, index)
            found[modality] = (0 if own is None else min(own + 1, total), total)
        return found

    def estimate_clean(self) -> Latents:
        """Return what the outputs seem to become, going by the last step that was taken.

        Returns:
            The clean latents (B, ...) that the guided answers imply; the latents themselves of outputs that
            are finished. Outputs that have not started are left out.
        """
        if self._last is None:
            return {}
        index, inputs, guided, latents = self._last
        found = {}
        for modality in self.denoisers:
            t = self.timestep(modality, index)
            if modality in guided:
                at = torch.as_tensor(t).reshape(1).cpu()
                found[modality] = self._levels(modality).to_x_0(guided[modality], inputs[modality], at)
            elif t is not None:
                found[modality] = latents[modality]
        return found

    def _answer_again(
        self,
        index: int,
        inputs: Latents,
        answers: Latents,
        modality: Modality,
        environment: Environment | None,
        estimate: PartnerEstimate | None,
        x: Tensor,
    ) -> Tensor:
        """Return the answer (B, ...) for another latent x of one output, the others being as they were."""
        scaled = self._scaled(modality, index, x)
        answer = self.predict(modality, index, scaled, environment, estimate)
        others = {**inputs, modality: scaled}
        return self._steered(index, others, {**answers, modality: answer})[modality]

    def _steered(self, index: int, inputs: Latents, answers: Latents) -> Latents:
        """Return the guided answers (B, ...) of a step, as the conditions of the outputs change them."""
        found = [c for m in answers for c in self.conditions.get(m, ())]
        if not found:
            return answers
        step = self._joint_step(index, inputs)
        for condition in {id(c): c for c in found}.values():  # one may stand for several outputs
            answers = condition.answered(answers, step)
        return answers

    def _moved(
        self, modality: Modality, index: int, x: Tensor, answer: Tensor, again: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the latent x (B, ...) of an active output after its step, made as often as it should be.

        The partners are as they were before the step in all repeats. Only the last one asks the scheduler,
        whose state counts steps; those before it move by DDIM and are taken back.

        Args:
            modality: the output.
            index: the step of the joint loop.
            x: (B, ...) its latent.
            answer: (B, ...) the guided answer for it.
            again: answers for other latents.

        Returns:
            (B, ...).
        """
        conditions = self.conditions.get(modality, ())
        own = self._own_step(modality, index)
        for _ in range(max((c.repeats(own) for c in conditions), default=1) - 1):
            trajectory = self._trajectories[modality]
            x = trajectory.moved(answer, x.float(), own).to(x.dtype)
            for condition in conditions:
                x = condition.advanced(x, own + 1, trajectory)
            for condition in conditions:
                if condition.repeats(own) > 1:
                    x = condition.returned(x, own, trajectory)
            answer = again(x)
        x = self._advance(modality, index, answer, x)
        if own == self._first_steps.get(modality, 0) > 1:
            pass_repeated_step(self.schedulers[modality])
        for condition in conditions:
            x = condition.advanced(x, own + 1, self._trajectories[modality])
        return x

    def _own_step(self, modality: Modality, index: int) -> int:
        """Return which of its own steps an output that has started takes at step `index`."""
        own = self.timeline.own_step(modality, index)
        assert own is not None, f"{modality} has not started at step {index}"
        return own

    def encode_environments(self, index: int, latents: Latents) -> dict[Modality, Environment]:
        """Return the environment of every visible latent and clean partner that has an encoder.

        Args:
            index: the step of the joint loop.
            latents: (B, ...) of the generated modalities, scaled as a network takes them.

        Returns:
            environments by modality.
        """
        found = self._read_visible(index, latents, self.environment_encoders, self._encode)
        return found | self._known_before_start(index)

    def _known_before_start(self, index: int) -> dict[Modality, Environment]:
        """Return the environments of what is known of outputs that have not started, cut to known times."""
        found = {}
        for modality, conditions in self.conditions.items():
            if index >= self.timeline.starts[modality] or modality not in self.environment_encoders:
                continue
            for x, seconds in filter(None, (c.spoken() for c in conditions)):
                whole = self._read_once(modality, x, self._encode)
                found[modality] = self._once(("known", modality), [whole], partial(whole.during, seconds))
        return {m: environment for m, environment in found.items() if environment.tokens.shape[1]}

    def estimate_partners(self, index: int, latents: Latents) -> dict[Modality, PartnerEstimate]:
        """Return what every visible latent and clean partner seems to become; nothing if estimates are off.

        Args:
            index: the step of the joint loop.
            latents: (B, ...) of the generated modalities, scaled as a network takes them.

        Returns:
            estimates by modality, each centred by its prior.
        """
        if self.partner_estimate_weight <= 0:
            return {}
        return self._read_visible(index, latents, self.noisy_latent_encoders, self._estimate)

    def predict(
        self,
        modality: Modality,
        index: int,
        x: Tensor,
        environment: Environment | None,
        estimate: PartnerEstimate | None = None,
    ) -> Tensor:
        """Return the guided answer of the denoiser for one latent.

        Args:
            modality: the output whose denoiser answers.
            index: the step of the joint loop.
            x: (B, ...) its latent, scaled as a network takes it.
            environment: what it attends to; None without partners.
            estimate: what its partners seem to become; None without estimates.

        Returns:
            (B, ...) in float32.
        """
        regional = self.regions.get(modality)
        if regional is None or regional.num_prompts == 1:
            return self._guided(modality, index, x, environment, estimate)
        if self.timeline.progress(modality, index) >= regional.apart:
            return self._guided(modality, index, x, environment, estimate)
        return self._guided_apart(modality, index, x, environment, estimate)

    def _guided_apart(
        self,
        modality: Modality,
        index: int,
        x: Tensor,
        environment: Environment | None,
        estimate: PartnerEstimate | None,
    ) -> Tensor:
        """Return the guided answer (B, ...) of prompts that have surroundings of their own.

        Outside its region every prompt sees the clean latent that it answered last, as noisy as x is by now.
        """
        regional = self.regions[modality]
        levels = self._levels(modality)
        t = torch.as_tensor(self.timestep(modality, index)).reshape(1)
        surroundings = self._surroundings.get(modality)
        clean = []
        alone = []
        for part in range(regional.num_prompts):
            own = x
            if surroundings is not None:
                own = regional.within(part, x, levels.add_noise(*surroundings[part], t))
            answer = self._guided(modality, index, own, environment, estimate, part)
            x_0 = levels.to_x_0(answer, own, t)
            clean.append(x_0)
            alone.append((x_0, levels.noise_in(own, x_0, t)))
        self._surroundings[modality] = alone
        blended = regional.blend(clean)
        return levels.target(blended, levels.noise_in(x, blended, t), t)

    def _guided(
        self,
        modality: Modality,
        index: int,
        x: Tensor,
        environment: Environment | None,
        estimate: PartnerEstimate | None,
        part: int | None = None,
    ) -> Tensor:
        """Return the guided answer (B, ...) to all prompts of an output, or to the one of a part.

        All branches are one call of a denoiser that batches prompts. Any other is called once for the
        branches that attend to the partners, and once for those that do not.
        """
        guidance = self.guidance.get(modality, Guidance())
        given = [PROMPT.name] if modality in (self.null_contexts or {}) else []
        if environment is not None or estimate is not None:
            given.append(PARTNERS.name)
        progress = self.timeline.progress(modality, index)
        left = self._noise_left(modality, index) if guidance.guider.first_order else 0.0
        weights = guidance.weights(progress, given, left)
        plain = [b for b in weights if b != WEAKENED]
        attending = [b for b in plain if environment is not None and PARTNERS.name not in b]
        alone = [b for b in plain if b not in attending]
        denoiser = self.denoisers[modality]
        calls = [attending + alone] if denoiser.batches_prompts else [attending, alone]
        if denoiser.null_first:
            calls = [branches[::-1] for branches in calls]
        if denoiser.one_branch_per_call:
            calls = [[branch] for branches in calls for branch in branches]
        if WEAKENED in weights:
            calls.append([WEAKENED])
        answers: dict[Branch, Tensor] = {}
        for branches in filter(None, calls):
            attended = None if branches[0] in alone else environment
            answers |= self._answer(modality, index, x, branches, attended, estimate, part)
        return denoiser.combine(guidance, answers, weights, self._memories.setdefault((modality, part), {}))

    def _scaled(self, modality: Modality, index: int, x: Tensor) -> Tensor:
        """Return the latent as the scheduler gives it to a network at step `index`."""
        return scaled_input(self.schedulers[modality], x, self.timestep(modality, index))

    def _answer(
        self,
        modality: Modality,
        index: int,
        x: Tensor,
        branches: list[Branch],
        environment: Environment | None,
        estimate: PartnerEstimate | None,
        part: int | None = None,
    ) -> dict[Branch, Tensor]:
        """Return the denoiser's answers (B, ...) for some branches, without guidance, from one call."""
        batch = len(x)
        denoiser = self.denoisers[modality]
        prompt = self._prompt(modality, branches, x, estimate, part)
        # One row for each prompt of each branch: those of a branch that attends to the partners stay first.
        rows = [branch for branch in branches for _ in range(self._num_prompts(modality, branch, part))]
        x = x.to(self.contexts[modality].dtype)
        environment = None if environment is None else environment.to(x.dtype)
        attended = [None if PARTNERS.name in branch else environment for branch in rows]
        partners = PARTNERS.batch(rows, attended)
        if not denoiser.batches_prompts:  # then it takes as many samples as prompts
            x = x.repeat(len(rows), *[1] * (x.ndim - 1))
        given = self._inputs(modality, index, rows)
        if WEAKENED in branches:
            given["weakening"] = self._weakening(modality, index)
        output = self._denoised(modality, index, x, prompt, partners, **given)
        found: dict[Branch, list[Tensor]] = {branch: [] for branch in branches}
        for branch, answer in zip(rows, output.split(batch), strict=True):
            found[branch].append(answer)
        return {branch: self._blended(modality, answers) for branch, answers in found.items()}

    def _denoised(
        self, modality: Modality, index: int, x: Tensor, prompt: Any, partners: Any, **given: Any
    ) -> Tensor:
        """Return what an output's denoiser answers at step `index`, float32.

        Args:
            modality: the output.
            index: the step of the joint loop.
            x: the latents, as many as there are answers or, of a denoiser that batches prompts, samples.
            prompt: what the denoiser precomputed of the prompts.
            partners: what it attends to.
            **given: what else it takes, by keyword.

        Returns:
            (rows * B, ...), the answers to all prompts.
        """
        t = torch.as_tensor(self.timestep(modality, index)).expand(len(x))
        rate = self.rates.get(modality)
        return self.denoisers[modality](x, t, prompt, partners=partners, rate=rate, **given).float()

    def _num_prompts(self, modality: Modality, branch: Branch, part: int | None) -> int:
        """Return how many prompts an output has in a branch: one, but where regions have their own."""
        regional = part is None and PROMPT.name not in branch and modality in self.regions
        return self.regions[modality].num_prompts if regional else 1

    def _blended(self, modality: Modality, answers: list[Tensor]) -> Tensor:
        """Return the answer (B, ...) of a branch, of those to all its prompts."""
        return answers[0] if len(answers) == 1 else self.regions[modality].blend(answers)

    def _inputs(self, modality: Modality, index: int, rows: list[Branch]) -> dict[str, Any]:
        """Return what a denoiser takes of an output's conditions besides prompt and partners, by keyword."""
        denoiser = self.denoisers[modality]
        rows = rows[:1] if denoiser.batches_prompts else rows  # as many as there are latents
        progress = self.timeline.progress(modality, index)
        found: dict[str, Any] = {}
        for condition in self.conditions.get(modality, ()):
            for name, value in condition.inputs(progress).items():
                if name in denoiser.conditions:
                    found[name] = CONDITIONS[name].batch(rows, [value] * len(rows))
        return found

    def _weakening(self, modality: Modality, index: int) -> Weakening:
        """Return how an output's denoiser is made worse in the branch that asks for it."""
        found = self.guidance[modality].guider.weakening(self.timeline.progress(modality, index))
        assert found is not None
        return found[0]

    def _noise_left(self, modality: Modality, index: int) -> float:
        """Return what the coming step of an output leaves of its ratio of noise to signal, from 0 to 1."""
        own = self._own_step(modality, index)
        return noise_left(self.schedulers[modality], self._levels(modality), own)

    def _levels(self, modality: Modality) -> NoiseLevels:
        """Return the noise levels of an output's schedule."""
        if self.levels is not None:
            return self.levels[modality]
        return self._once(("levels", modality), [], lambda: NoiseLevels.of(self.schedulers[modality]))

    def _joint_step(self, index: int, inputs: Latents) -> JointStep:
        """Return a step of the joint loop as conditions see it, `inputs` being as the networks take them."""
        active = {}
        clean = dict(self.partners)
        for modality, x in inputs.items():
            t = self.timestep(modality, index)
            if modality in self.timeline.active(index):
                active[modality] = NoisyLatent(
                    x=x,
                    t=torch.as_tensor(t, device=x.device).expand(len(x)),
                    levels=self._levels(modality),
                    context=self._context(modality),
                    progress=self.timeline.progress(modality, index),
                )
            elif isinstance(t, int):
                clean[modality] = x
        answer = partial(self._answer_to, index)
        return JointStep(active=active, clean=clean, read=self._estimate_token, answer=answer)

    def _answer_to(self, index: int, modality: Modality, x: Tensor, prompt: Any) -> Tensor:
        """Return the answer (B, ...) of a denoiser to another latent and prompt, guided by nothing."""
        denoiser = self.denoisers[modality]
        x = x.to(self.contexts[modality].dtype)
        branches = [frozenset({PARTNERS.name})]

        def make() -> Any:
            return denoiser.precompute(PROMPT.batch(branches, [prompt]), x)

        cached = self._once(("other prompt", modality), [prompt], make)
        return self._denoised(modality, index, x, cached, PARTNERS.batch(branches, [None]))

    def _prompt(
        self,
        modality: Modality,
        branches: list[Branch],
        x: Tensor,
        estimate: PartnerEstimate | None,
        part: int | None = None,
    ) -> Any:
        """Return what the denoiser precomputes of the prompts of `branches`, one branch after another."""
        plain = self.contexts[modality]
        null = (self.null_contexts or {}).get(modality)
        # An estimate says what partners add to the prompt: no branch that drops one of the two uses it.
        if all(b & {PROMPT.name, PARTNERS.name} for b in branches):
            estimate = None

        def make() -> Any:
            fused = plain if estimate is None else self._fused(modality, plain, estimate)
            values: list[Any] = []
            for branch in branches:
                with_partners = plain if PARTNERS.name in branch else fused
                if PROMPT.name in branch:
                    values.append(null)
                elif modality in self.regions:
                    # Estimates speak of the whole output, and the prompt of a region of a part of it.
                    parts = self.regions[modality].values(with_partners)
                    values += parts if part is None else [parts[part]]
                else:
                    values.append(with_partners)
            return self.denoisers[modality].precompute(PROMPT.batch(branches, values), x)

        return self._once(("prompt", modality, part, *branches), [plain, null, estimate], make)

    def _fused(self, modality: Modality, plain: Any, estimate: PartnerEstimate) -> Any:
        """Return the prompt of an output, fused with what its partners seem to become."""
        token = self._context(modality)
        fused = fuse_prompt(token, estimate, self.partner_estimate_weight)
        return self.denoisers[modality].refit(plain, token, fused)

    def _once(self, name: Any, parts: list[Any], make: Callable[[], Any]) -> Any:
        """Return what `make` makes, and call it only where it has not been called for the same parts.

        The result is kept under `name`. It is made anew where one of `parts` is another object than before,
        or was changed in place.
        """
        state = [(id(part), _version(part)) for part in parts]
        if name not in self._kept or self._kept[name][0] != state:
            # The parts are kept as well: an object that is gone could leave its id to another.
            self._kept[name] = (state, parts, make())
        return self._kept[name][-1]

    def _read_visible(
        self,
        index: int,
        latents: Latents,
        encoders: Collection[Modality],
        read: Callable[[Modality, Tensor, Tensor | int], Any],
    ) -> dict[Modality, Any]:
        """Return what `read` makes of every visible latent and clean partner that has an encoder.

        Clean partners and finished outputs do not change, so they are read once.
        """
        visible: dict[Modality, tuple[Tensor, Any]] = {}
        for modality in self.timeline.visible(index):
            visible[modality] = (latents[modality], self.timestep(modality, index))
        visible |= {m: (x, CLEAN) for m, x in self.partners.items()}
        found = {}
        for modality, (x, t) in visible.items():
            if modality not in encoders:
                continue
            if isinstance(t, Tensor):
                found[modality] = read(modality, x, t)
            else:
                found[modality] = self._read_once(modality, x, read)
        return found

    def _read_once(
        self, modality: Modality, x: Tensor, read: Callable[[Modality, Tensor, Tensor | int], Any]
    ) -> Any:
        """Return what `read` makes of a clean latent, and read it only once."""
        name = (read.__name__, modality)
        return self._once(name, [x, self._context(modality)], lambda: read(modality, x, CLEAN))

    def _environment(
        self, modality: Modality, environments: Mapping[Modality, Environment]
    ) -> Environment | None:
        """Return all that an output attends to, in the fixed order of `Modality`; None when it is alone."""
        parts = _attended(modality, self.attends_to, environments)
        return Environment.cat(parts) if parts else None

    def _partner_estimate(
        self, modality: Modality, estimates: Mapping[Modality, PartnerEstimate]
    ) -> PartnerEstimate | None:
        """Return the mean estimate of an output's partners; None when it is alone.

        While the partners stand still it is the same object, so that what depends on it is made once.
        """
        parts = _attended(modality, self.estimates_from, estimates)
        if not parts:
            return None
        return self._once(("mean", modality), parts, lambda: PartnerEstimate.mean(parts))

    def _estimate(self, modality: Modality, x: Tensor, t: Tensor | int) -> PartnerEstimate:
        """Return what a latent seems to become, centred by its prior.

        A clean partner is certain and has no prior. It has no prompt of its own either, and is read with that
        of the first output.
        """
        context = self._said(modality)
        token = self._estimate_token(modality, x, t, context)
        if modality not in self._initial:
            return PartnerEstimate.clean(token)
        noise = self._initial[modality]
        first = self.schedulers[modality].timesteps[0]

        def make() -> Tensor:
            return self._estimate_token(modality, noise, first, context)

        prior = self._once(("prior", modality), [context], make)
        return centred_estimate(context, token, prior)

    def _context(self, modality: Modality) -> Tensor:
        """Return the prompt tokens of an output; of a clean partner, those of the first output."""
        tokens = self.contexts if self.tokens is None else self.tokens
        return tokens.get(modality, next(iter(tokens.values())))

    def _said(self, modality: Modality) -> Tensor:
        """Return the prompt tokens from which an output is made, of one with regions the mean of theirs."""
        whole = self._context(modality)
        regional = self.regions.get(modality)
        if regional is None or self.tokens is not None:  # regions of foreign models have no tokens
            return whole
        return self._once(("said", modality), [whole], partial(regional.mean, whole))

    def _noise_level(self, modality: Modality, x: Tensor, t: Tensor | int) -> Tensor:
        """Return what encoders are given as the timestep (B,) of a latent at its own timestep t."""
        if self.levels is not None and isinstance(t, Tensor):
            t = self.levels[modality].angle(t) * LEVEL_SCALE
        return torch.as_tensor(t, device=x.device).expand(len(x))

    def _estimate_token(self, modality: Modality, x: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        """Return the token (B, D) that a modality's noisy-latent encoder estimates, in its own precision."""
        encoder = self.noisy_latent_encoders[modality]
        dtype = encoder.dtype or context.dtype
        t = self._noise_level(modality, x, t)
        return encoder(x.to(dtype), t, context.to(dtype), rate=self.rates.get(modality))

    def _encode(self, modality: Modality, x: Tensor, t: Tensor | int) -> Environment:
        """Return the environment of a latent, in the encoder's precision."""
        encoder = self.environment_encoders[modality]
        x = x.to(encoder.dtype or self._context(modality).dtype)
        t = self._noise_level(modality, x, t)
        # Shapes stay the same throughout a generation, so that one cache serves all steps.
        if modality not in self._caches:
            self._caches[modality] = encoder.precompute(x)
        return encoder(x, t, rate=self.rates.get(modality), cache=self._caches[modality])

    def _advance(self, modality: Modality, index: int, answer: Tensor, x: Tensor) -> Tensor:
        """Return x (B, ...) after the scheduler's step, given the denoiser's answer."""
        scheduler = self.schedulers[modality]
        extra = {}
        if modality in self.generators and "generator" in inspect.signature(scheduler.step).parameters:
            extra["generator"] = self.generators[modality]
        return scheduler.step(answer, self.timestep(modality, index), x, **extra).prev_sample


def _attended(
    modality: Modality, table: Mapping[Modality, Collection[Modality]] | None, found: Mapping[Modality, Any]
) -> list[Any]:
    """Return what was found of the partners of a modality, in the fixed order of `Modality`.

    The partners are those that `table` lists, or all others where it is None.
    """
    attended = set(Modality) - {modality} if table is None else table.get(modality, ())
    return [found[m] for m in Modality if m in found and m in attended]


def _version(part: Any) -> int:
    """Return how often a tensor was changed in place; 0 for what does not count that."""
    return part._version if isinstance(part, Tensor) and not part.is_inference() else 0
