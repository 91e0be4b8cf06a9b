"""Joint sampling: several latents denoised in step, each hearing the others (CoDi, arXiv 2305.11846, section
3.4).

At every step the environment encoders read all latents before any of them is updated; then each denoiser
answers from its prompt and from the environments of the others, and each modality's own scheduler takes the
step. A clean partner is a latent that is heard at t = 0 and never updated. Noised towers say beside it what
the others seem to become, and that is added to the prompt (`codi.models.noised`). Noise levels need not be
equal (arXiv 2303.06555, 2407.01392): an output with a delay starts later, when the others are further on.
Denoisers, encoders and schedulers are passed in, keyed by modality; their contracts are in `codi.protocols`.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codi.diffusion.guidance import Branch, Guidance, Leaning, blend, leaning
from codi.diffusion.process import shift_level
from codi.diffusion.schedulers import even, uneven
from codi.protocols import Denoiser, Environment, EnvironmentEncoder, NoisedTower
from codi.types import Latents, Modality


def copy_schedulers(
    scheduler: Any,
    modalities: Iterable[Modality],
    num_inference_steps: int,
    device: Any = None,
    shift: float = 1.0,
) -> dict[Modality, Any]:
    """One scheduler per modality, each a copy with its own state, set to `num_inference_steps`; `scheduler`
    is left as it is.

    `shift` above one spends more of the steps at high noise, where a redundant latent is decided (see
    `shifted_timesteps`). Raises `InputError` for a kind of scheduler whose steps are even. Copies do not
    clip: `clip_sample` is for pixels in [-1, 1].
    """
    schedulers = {}
    for modality in modalities:
        schedulers[modality] = copy.deepcopy(scheduler)
        if scheduler.config.get("clip_sample"):
            schedulers[modality].register_to_config(clip_sample=False)
        if shift == 1.0:
            schedulers[modality] = even(schedulers[modality], num_inference_steps, device)
        else:
            timesteps = shifted_timesteps(scheduler.config.num_train_timesteps, num_inference_steps, shift)
            schedulers[modality] = uneven(schedulers[modality], timesteps, device)
    return schedulers


def shifted_timesteps(total: int, num_inference_steps: int, shift: float) -> list[int]:
    """Falling timesteps in [0, total), each once: levels 1 .. 1/n, moved by `shift_level`, and apart where
    they would meet.
    """
    timesteps, above = [], total
    for k in range(num_inference_steps):
        timestep = round(shift_level(1 - k / num_inference_steps, shift) * total) - 1
        above = max(min(timestep, above - 1), num_inference_steps - 1 - k)
        timesteps.append(above)
    return timesteps


def stream_seed(seed: int, modality: Modality) -> int:
    """Seed of one modality's random stream within the sample `seed`: another output in the same call changes
    nothing.
    """
    digest = hashlib.sha256(f"{seed}/{modality.value}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_noise(
    shape: Sequence[int], seeds: Sequence[int], modality: Modality
) -> tuple[Tensor, list[torch.Generator]]:
    """Standard normal noise (len(seeds), *shape), float32 on the CPU, and the generators it came from.

    Each sample is drawn from its own seed: its noise does not depend on the batch or on the device.
    """
    generators = [torch.Generator().manual_seed(stream_seed(seed, modality)) for seed in seeds]
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]), generators


def _version(part: Any) -> int:
    """How often a tensor was changed in place; 0 of what does not count that."""
    return part._version if isinstance(part, Tensor) and not part.is_inference() else 0


def repeat(x: Tensor, n: int) -> Tensor:
    """The batch n times, one after another."""
    return x.repeat(n, *[1] * (x.ndim - 1))


def repeat_environment(env: Environment, n: int, dtype: torch.dtype) -> Environment:
    """The batch n times, its tokens in this precision."""
    return Environment(tokens=repeat(env.tokens.to(dtype), n), times=repeat(env.times, n))


@dataclass(kw_only=True)
class JointSampler:
    """Everything one joint generation needs but the latents. `step` may be called once for each index below
    `num_steps`, in order.

    denoisers     one per generated modality. One that has `prepare(tokens, x)` is given what that makes of a
                  prompt, made once, and n prompts for each sample where there is guidance, so that it
                  computes once what comes before the first prompt; of an environment with fewer rows than
                  there are prompts, the first prompts hear it and the others nothing
    schedulers    one per generated modality, with its own state (`copy_schedulers`), all with equally many
                  steps
    contexts      prompt tokens (B, L, D) per generated modality; their dtype is the one the networks compute
                  in
    null_contexts the same shapes; None: there is no prompt to guide towards
    environments  encoders of the modalities that can be heard; none: the outputs are independent. One that
                  has `prepare(x)` is given what that makes of the latent's shape as `known`
    hears         whose environment each modality listens to; None: all the others'
    noised_towers of the modalities that say what they seem to become
    told_by       to whom, as in `hears`
    told_weight   of that, see `blend`; 0 is off
    delays        steps by which a generated modality starts after the first, or as soon as all those are
                  finished that start before it; it is not heard before it starts, and heard at t = 0 once
                  finished
    guidance      per generated modality; one that is missing is unguided
    partners      clean latents (B, ...), heard at t = 0
    rates         latent steps per second where they differ from the model's own
    generators    per modality one per sample, for schedulers that draw noise
    """

    denoisers: Mapping[Modality, Denoiser]
    schedulers: Mapping[Modality, Any]
    contexts: Mapping[Modality, Tensor]
    null_contexts: Mapping[Modality, Tensor] | None = None
    environments: Mapping[Modality, EnvironmentEncoder] = field(default_factory=dict)
    hears: Mapping[Modality, Collection[Modality]] | None = None
    noised_towers: Mapping[Modality, NoisedTower] = field(default_factory=dict)
    told_by: Mapping[Modality, Collection[Modality]] | None = None
    told_weight: float = 1.0
    delays: Mapping[Modality, int] = field(default_factory=dict)
    guidance: Mapping[Modality, Guidance] = field(default_factory=dict)
    partners: Latents = field(default_factory=dict)
    rates: Mapping[Modality, float] = field(default_factory=dict)
    generators: Mapping[Modality, list[torch.Generator]] = field(default_factory=dict)
    _noise: Latents = field(default_factory=dict, init=False, repr=False)
    _made: dict[Any, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False)  # see `_once`
    _known: dict[Modality, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = {m: len(s.timesteps) for m, s in self.schedulers.items()}
        assert len(set(lengths.values())) == 1, f"schedulers disagree about the number of steps: {lengths}"
        both = set(self.partners) & set(self.denoisers)
        assert not both, f"{sorted(both)} cannot be generated and stand as clean partners at once"

    @property
    def own_steps(self) -> int:
        """Steps of each modality."""
        return len(next(iter(self.schedulers.values())).timesteps)

    @property
    def num_steps(self) -> int:
        """Steps until the last modality is finished."""
        return self.own_steps + max(self.wait(m) for m in self.denoisers)

    def wait(self, modality: Modality) -> int:
        """Steps before `modality` starts; the first one starts at once, and nobody waits longer than those
        before it take.
        """
        late = lambda m: self.delays.get(m, 0)
        before = [m for m in self.denoisers if late(m) < late(modality)]
        if not before:
            return 0
        first = min(late(m) for m in before)
        return min(late(modality) - first, max(map(self.wait, before)) + self.own_steps)

    def level(self, modality: Modality, index: int) -> Tensor | int | None:
        """Timestep of a generated modality at step `index`: None before it starts, 0 once it is finished."""
        place = index - self.wait(modality)
        return (
            None if place < 0 else self.schedulers[modality].timesteps[place] if place < self.own_steps else 0
        )

    def acting(self, index: int) -> list[Modality]:
        """Who takes step `index`."""
        return [m for m in self.denoisers if 0 <= index - self.wait(m) < self.own_steps]

    def start(self, noise: Latents) -> Latents:
        """Standard normal noise (B, ...) -> what `step` starts from: some schedulers have it scaled."""
        return {m: x * self.schedulers[m].init_noise_sigma for m, x in noise.items()}

    def sample(self, latents: Latents) -> Latents:
        """All steps: noise (B, ...) per generated modality, from `start` -> x_0."""
        for index in range(self.num_steps):
            latents = self.step(index, latents)
        return latents

    def step(self, index: int, latents: Latents) -> Latents:
        """Latents after step `index`; those that came are left as they are."""
        acting = self.acting(index)
        scaled = {m: self.schedulers[m].scale_model_input(latents[m], self.level(m, index)) for m in acting}
        inputs = {m: scaled.get(m, x) for m, x in latents.items()}
        self._noise = self._noise or {
            m: self.schedulers[m].scale_model_input(x, self.level(m, self.wait(m)))
            for m, x in latents.items()
        }
        environments, leanings = self.listen(index, inputs), self.understand(index, inputs)
        answers = {
            m: self.predict(m, index, inputs[m], self._others(m, environments), self._told(m, leanings))
            for m in acting
        }
        return latents | {m: self._advance(m, index, answers[m], latents[m]) for m in acting}

    def listen(self, index: int, latents: Latents) -> dict[Modality, Environment]:
        """Environments of every participant that somebody else hears."""
        return self._read(index, latents, self.environments, self._encode)

    def understand(self, index: int, latents: Latents) -> dict[Modality, Leaning]:
        """What every participant seems to become, where somebody else can be told."""
        return self._read(index, latents, self.noised_towers, self._leaning) if self.told_weight > 0 else {}

    def _once(self, name: Any, parts: list[Any], make: Callable[[], Any]) -> Any:
        """What `make` made under this name while it is of these very objects: what stands still is read once,
        until it is changed.
        """
        state = [(id(part), _version(part)) for part in parts]
        if name not in self._made or self._made[name][0] != state:
            self._made[name] = (state, parts, make())  # parts are kept, lest others get their ids
        return self._made[name][-1]

    def _read(
        self, index: int, latents: Latents, readers: Collection[Modality], read: Callable[..., Any]
    ) -> dict[Modality, Any]:
        """What `read` makes of the participants among `readers`; of partners and finished outputs, which
        stand still, it is made once.
        """
        speaking = {m: (latents[m], self.level(m, index)) for m in self._speaking(index, latents)}
        speaking |= {m: (x, 0) for m, x in self.partners.items()}
        said = {}
        for modality, (x, level) in speaking.items():
            if modality not in readers:
                continue
            now, made_of = partial(read, modality, x, level), [x, self._context(modality)]
            said[modality] = (
                now() if isinstance(level, Tensor) else self._once((read.__name__, modality), made_of, now)
            )
        return said

    def _speaking(self, index: int, latents: Latents) -> list[Modality]:
        """Outputs that have started while somebody else acts."""
        acting = self.acting(index)
        return [
            m for m in latents if self.level(m, index) is not None and any(other is not m for other in acting)
        ]

    def predict(
        self, modality: Modality, index: int, x: Tensor, env: Environment | None, told: Leaning | None = None
    ) -> Tensor:
        """The guided answer (B, ...) in float32 for one latent. For a denoiser that can `prepare` prompts all
        branches are one call.
        """
        guidance = self.guidance.get(modality, Guidance())
        partners = env is not None or told is not None
        progress = (index - self.wait(modality)) / self.own_steps
        weights = guidance.weights(progress, self.null_contexts is not None, partners)
        hearing = [b for b in weights if b.hearing and env is not None]
        deaf = [b for b in weights if b not in hearing]  # they are given the prompt alone, whatever it tells
        if hasattr(self.denoisers[modality], "prepare"):
            answers = self._answer(modality, index, x, hearing, deaf, env, told)
        else:
            answers = self._answer(modality, index, x, hearing, [], env, told) | self._answer(
                modality, index, x, [], deaf, None, told
            )
        return guidance.combine(answers, weights)

    def _answer(
        self,
        modality: Modality,
        index: int,
        x: Tensor,
        hearing: list[Branch],
        deaf: list[Branch],
        env: Environment | None,
        told: Leaning | None = None,
    ) -> dict[Branch, Tensor]:
        """The denoiser's plain answers for branches that hear `env` and branches that do not, batched."""
        branches = [*hearing, *deaf]
        if not branches:
            return {}
        batch, denoiser, prompt = len(x), self.denoisers[modality], self._prompt(modality, branches, x, told)
        x = x.to(self.contexts[modality].dtype)
        env = repeat_environment(env, len(hearing), x.dtype) if hearing else None
        if not hasattr(denoiser, "prepare"):  # it takes as many samples as contexts
            x = repeat(x, len(branches))
        t = self.level(modality, index).expand(len(x))
        output = denoiser(x, t, prompt, env=env, rate=self.rates.get(modality))
        return dict(zip(branches, output.float().split(batch), strict=True))

    def _prompt(self, modality: Modality, branches: list[Branch], x: Tensor, told: Leaning | None) -> Any:
        """Prompt tokens of `branches`, one after another; for a denoiser that can `prepare` them, what it
        makes of them, made once.
        """
        plain, null = (
            self.contexts[modality],
            None if self.null_contexts is None else self.null_contexts[modality],
        )
        told = told if Branch.FULL in branches else None

        def make() -> Any:
            given = plain if told is None else blend(plain, told, self.told_weight)
            contexts = {
                Branch.FULL: given,
                Branch.NULL_PROMPT: null,
                Branch.NULL_PARTNERS: plain,
                Branch.NULL_BOTH: null,
            }
            tokens, prepare = (
                torch.cat([contexts[b] for b in branches]),
                getattr(self.denoisers[modality], "prepare", None),
            )
            return tokens if prepare is None else prepare(tokens, x)

        return self._once(("prompt", modality, *branches), [plain, null, told], make)

    def _others(self, modality: Modality, environments: Mapping[Modality, Environment]) -> Environment | None:
        """What `modality` hears, in the fixed order of `Modality`; None when it is alone."""
        parts = self._heard(modality, self.hears, environments)
        return Environment.cat(parts) if parts else None

    @staticmethod
    def _heard(
        modality: Modality,
        hears: Mapping[Modality, Collection[Modality]] | None,
        said: Mapping[Modality, Any],
    ) -> list[Any]:
        """What those say whom it listens to, in the fixed order of `Modality`."""
        heard = [m for m in Modality if m is not modality] if hears is None else hears.get(modality, ())
        return [said[m] for m in Modality if m in said and m in heard]

    def _told(self, modality: Modality, leanings: Mapping[Modality, Leaning]) -> Leaning | None:
        """The mean of what the others seem to become, one and the same while they stand still; None for who
        is alone.
        """
        heard = self._heard(modality, self.told_by, leanings)
        return self._once(("told", modality), heard, lambda: Leaning.mean(heard)) if heard else None

    def _leaning(self, modality: Modality, x: Tensor, t: Tensor | int) -> Leaning:
        """What `modality` seems to become, less what its prompt alone lets expect (`leaning`). A clean
        partner, being an input, is sure, and has the prompt of the outputs.
        """
        context = self._context(modality)
        told = self._read_token(modality, x, t, context)
        if modality not in self._noise:
            return Leaning.sure(told)
        noise, first = self._noise[modality], self.schedulers[modality].timesteps[0]
        expected = self._once(
            ("expected", modality), [context], lambda: self._read_token(modality, noise, first, context)
        )
        return leaning(context, told, expected)

    def _context(self, modality: Modality) -> Tensor:
        """Prompt tokens of an output; of a partner, those of the first output."""
        return self.contexts.get(modality, next(iter(self.contexts.values())))

    def _read_token(self, modality: Modality, x: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        t, tower = torch.as_tensor(t, device=x.device).expand(len(x)), self.noised_towers[modality]
        dtype = getattr(tower, "dtype", context.dtype)
        return tower(x.to(dtype), t, context.to(dtype), rate=self.rates.get(modality))

    def _encode(self, modality: Modality, x: Tensor, t: Tensor | int) -> Environment:
        t, encoder = torch.as_tensor(t, device=x.device).expand(len(x)), self.environments[modality]
        x = x.to(getattr(encoder, "dtype", self._context(modality).dtype))
        if hasattr(encoder, "prepare") and modality not in self._known:
            self._known[modality] = {"known": encoder.prepare(x)}
        return encoder(x, t, rate=self.rates.get(modality), **self._known.get(modality, {}))

    def _advance(self, modality: Modality, index: int, answer: Tensor, x: Tensor) -> Tensor:
        scheduler = self.schedulers[modality]
        extra = {}
        if modality in self.generators and "generator" in inspect.signature(scheduler.step).parameters:
            extra["generator"] = self.generators[modality]
        return scheduler.step(answer, self.level(modality, index), x, **extra).prev_sample
