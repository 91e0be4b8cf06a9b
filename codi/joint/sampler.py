"""Joint sampling denoises several latents together, each of which attends to the others.

The scheme is that of CoDi (arXiv 2305.11846, section 3.4). At every step the environment encoders read all
visible latents before any of them is updated; then each denoiser answers from its conditions, and each
modality's own scheduler takes the step. A clean partner is a latent that is visible at timestep 0 and never
updated. Partner estimates are fused with the prompt (`codi.joint.partner_estimates`), and outputs may start
one after another (`codi.joint.start_offsets`). Networks and schedulers are passed in, keyed by modality;
their contracts are in `codi.protocols`.

Letters: B batch, L prompt tokens, D width of the prompt space. Latents are (B, *latent_shape) of their
modality.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from codi.conditions import CONTROL, PARTNERS, PROMPT
from codi.conditions.control import Steering
from codi.diffusion.guidance import Branch, Guidance
from codi.diffusion.levels import NoiseLevels
from codi.diffusion.schedulers import scaled_input
from codi.joint.partner_estimates import PartnerEstimate, centred_estimate, fuse_prompt
from codi.joint.start_offsets import EvenTimeline, LevelTimeline, Timeline
from codi.protocols import Denoiser, Environment, EnvironmentEncoder, NoisyLatentEncoder
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
        controls: what steers each generated modality beside its prompt (`codi.conditions.control`).
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
    controls: Mapping[Modality, Collection[Steering]] = field(default_factory=dict)
    _initial: Latents = field(default_factory=dict, init=False, repr=False)
    _kept: dict[Any, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False)  # see `_once`
    _caches: dict[Modality, Any] = field(default_factory=dict, init=False, repr=False)

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
            return LevelTimeline(levels=levels, start_offsets=self.start_offsets)
        steps = len(next(iter(self.schedulers.values())).timesteps)
        offsets = {m: int(offset) for m, offset in self.start_offsets.items()}
        return EvenTimeline(outputs=list(self.denoisers), steps=steps, start_offsets=offsets)

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
        return {m: x * self.schedulers[m].init_noise_sigma for m, x in noise.items()}

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
            self._initial = {m: self._scaled(m, starts[m], x) for m, x in latents.items()}
        environments = self.encode_environments(index, inputs)
        estimates = self.estimate_partners(index, inputs)
        answers = {}
        for modality in active:
            environment = self._environment(modality, environments)
            estimate = self._partner_estimate(modality, estimates)
            answers[modality] = self.predict(modality, index, inputs[modality], environment, estimate)
        return latents | {m: self._advance(m, index, answers[m], latents[m]) for m in active}

    def encode_environments(self, index: int, latents: Latents) -> dict[Modality, Environment]:
        """Return the environment of every visible latent and clean partner that has an encoder.

        Args:
            index: the step of the joint loop.
            latents: (B, ...) of the generated modalities, scaled as a network takes them.

        Returns:
            environments by modality.
        """
        return self._read_visible(index, latents, self.environment_encoders, self._encode)

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

        All branches are one call of a denoiser that batches prompts. Any other is called once for the
        branches that attend to the partners, and once for those that do not.

        Args:
            modality: the output whose denoiser answers.
            index: the step of the joint loop.
            x: (B, ...) its latent, scaled as a network takes it.
            environment: what it attends to; None without partners.
            estimate: what its partners seem to become; None without estimates.

        Returns:
            (B, ...) in float32.
        """
        guidance = self.guidance.get(modality, Guidance())
        given = [PROMPT.name] if modality in (self.null_contexts or {}) else []
        if environment is not None or estimate is not None:
            given.append(PARTNERS.name)
        progress = self.timeline.progress(modality, index)
        weights = guidance.weights(progress, given)
        attending = [b for b in weights if environment is not None and PARTNERS.name not in b]
        alone = [b for b in weights if b not in attending]
        denoiser = self.denoisers[modality]
        calls = [attending + alone] if denoiser.batches_prompts else [attending, alone]
        if denoiser.null_first:
            calls = [branches[::-1] for branches in calls]
        if denoiser.one_branch_per_call:
            calls = [[branch] for branches in calls for branch in branches]
        answers: dict[Branch, Tensor] = {}
        for branches in filter(None, calls):
            attended = environment if branches[0] in attending else None
            answers |= self._answer(modality, index, x, branches, attended, estimate)
        return denoiser.combine(guidance, answers, weights)

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
    ) -> dict[Branch, Tensor]:
        """Return the denoiser's answers (B, ...) for some branches, without guidance, from one call."""
        batch = len(x)
        denoiser = self.denoisers[modality]
        prompt = self._prompt(modality, branches, x, estimate)
        x = x.to(self.contexts[modality].dtype)
        environment = None if environment is None else environment.to(x.dtype)
        attended = [None if PARTNERS.name in branch else environment for branch in branches]
        partners = PARTNERS.batch(branches, attended)
        if not denoiser.batches_prompts:  # then it takes as many samples as prompts
            x = x.repeat(len(branches), *[1] * (x.ndim - 1))
        t = torch.as_tensor(self.timestep(modality, index)).expand(len(x))
        control = self._control(modality, index, branches)
        output = denoiser(x, t, prompt, partners=partners, rate=self.rates.get(modality), **control)
        return dict(zip(branches, output.float().split(batch), strict=True))

    def _control(self, modality: Modality, index: int, branches: list[Branch]) -> dict[str, Any]:
        """Return the argument that holds the controls which act now; none at all where there are none."""
        progress = self.timeline.progress(modality, index)
        acting = [each.control for each in self.controls.get(modality, ()) if each.acts(progress)]
        return {CONTROL.name: CONTROL.batch(branches, [acting] * len(branches))} if acting else {}

    def _prompt(
        self, modality: Modality, branches: list[Branch], x: Tensor, estimate: PartnerEstimate | None
    ) -> Any:
        """Return what the denoiser precomputes of the prompts of `branches`, one branch after another."""
        plain = self.contexts[modality]
        null = (self.null_contexts or {}).get(modality)
        # An estimate says what partners add to the prompt: no branch that drops one of the two uses it.
        if all(b & {PROMPT.name, PARTNERS.name} for b in branches):
            estimate = None

        def make() -> Any:
            fused = plain if estimate is None else self._fused(modality, plain, estimate)
            values = []
            for branch in branches:
                with_partners = plain if PARTNERS.name in branch else fused
                values.append(null if PROMPT.name in branch else with_partners)
            return self.denoisers[modality].precompute(PROMPT.batch(branches, values), x)

        return self._once(("prompt", modality, *branches), [plain, null, estimate], make)

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
        context = self._context(modality)
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
