"""The stage of noisy-latent encoders of composed models: what a foreign latent is becoming.

It is the stage `training.stages.noisy_latent` over latents of published models, which stay frozen: from a
noisy latent, its noise level on the one scale of all schedules and the token of its prompt to the text
model's token of the whole caption. That token and not the one of a tower of the medium, for the same reason
as there: a picture's token says nothing of motion, and a partner cannot tell that from the statement that
nothing moves. It also suits foreign models better, since translators turn tokens of captions into what their
networks take (`codi.compose.prompt_translators`). Each medium learns by itself, from pairs of media and
captions. Letters: B batch, D width of the prompt space.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi.compose.folder import is_composed, read, text_folder, verify_text
from codi.compose.noisy_latent import ForeignNoisyLatentEncoders
from codi.joint.sampler import LEVEL_SCALE
from codi.modalities import component_class, kind_of
from codi.models.conditioning import null_prompt
from codi.types import EMBEDDED, InputError, Modality
from data.batch import Batch
from data.source import Source
from training.config import Config, check_names, expect, strict
from training.dry_run import empty
from training.engine import to_device
from training.stages import Stage
from training.stages.common import load_part, planning
from training.stages.latents import Encoding
from training.stages.new_model import spread_angles
from training.stages.noisy_latent import PREVIEWED, draw_known, known_share
from training.stages.pairs import PairSource
from training.stages.prompts import Prompts
from training.stages.published import Published, check_sources, continued, export_parts

PART = "noisy_latent_encoders"
TEXT_TOWER = kind_of("text").tower
PREVIEW_LEVELS = 21  # noise levels in a preview, from clean to nothing but noise


@dataclass(frozen=True, kw_only=True)
class ComposedNoisyLatentOptions:
    """Options of the stage.

    Attributes:
        modalities: the media whose encoders train, such as [video, audio]. Empty for those of `sources`, or
            else all of the composed model.
        sources: the folder of each published pipeline, by what it makes. Without any they are those of the
            model folder, which is then a composed model (`codi compose`).
        calls: by modality the arguments of every call of its pipeline, as in `ComposedJointOptions`.
        text: the model of codi in whose prompt space the tokens lie: a folder, a hub id, or codi-tiny. None
            for that of the composed model, and for codi-tiny where there is none.
        scenes: the number of scenes in the latent caches.
        prompt_dropout: the share of samples without a prompt.
        prompt_noise: the length of the noise that is added to prompt tokens, which are of length one.
        timestep_shift: the shift of `spread_angles` by modality, such as {"video": 2.0}; 1 for one that is
            not named.
        continue_from: start from the encoders in the model folder.
    """

    modalities: list[str] = field(default_factory=list)
    sources: dict[str, Path] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    text: str | None = None
    scenes: int = 8192
    prompt_dropout: float = 0.1
    prompt_noise: float = 0.1
    timestep_shift: dict[str, float] = field(default_factory=dict)
    continue_from: bool = False

    def __post_init__(self) -> None:
        expect(0 <= self.prompt_dropout <= 1, "prompt_dropout", self.prompt_dropout, "a share in [0, 1]")
        expect(self.prompt_noise >= 0, "prompt_noise", self.prompt_noise, "0 or more")
        expect(self.scenes >= 1, "scenes", self.scenes, "1 or more")
        for name, shift in self.timestep_shift.items():
            Modality.parse(name)
            expect(shift > 0, "timestep_shift", self.timestep_shift, "numbers above 0")


class ComposedNoisyLatentStage(Stage):
    """The stage that trains the noisy-latent encoders of the models of a composed one."""

    identity = ("modalities", "sources", "calls", "text")

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(ComposedNoisyLatentOptions, config.options, where="options")
        check_names(config.part, [PART], "part")
        self.modalities = self._modalities()
        check_sources(self.options.sources, self.options.calls, {m.value for m in self.modalities})

    def _modalities(self) -> list[Modality]:
        """Return the media whose encoders train, each once, in order."""
        options, model = self.options, self.config.model
        names = options.modalities or list(options.sources)
        if not names:
            expect(
                is_composed(model), "sources", {}, f"pipelines by modality, or a composed model in {model}"
            )
            names = list(read(model).references)
        chosen = {Modality.parse(name) for name in names}
        return [m for m in Modality if m in chosen]

    def with_data(self, data: dict[str, Any]) -> Any:
        """Return this stage over other samples, as its published models are."""
        other: Any = super().with_data(data)
        other.published = replace(self.published, config=other.config)
        return other

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the name of the noisy-latent encoders."""
        return (PART,)

    # Frozen parts -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the text tower and the published models, and let each of their pipelines prepare one call."""
        options = self.options
        folder = self.text_folder()
        tower = load_part(component_class(TEXT_TOWER), folder / TEXT_TOWER, "its text tower reads captions")
        self.text = tower
        self.prompts = Prompts(tower, {"text": 1.0}, options.prompt_noise, options.prompt_dropout)
        self.published = Published.open(self.config, self.modalities, options.sources, options.calls)

    def text_folder(self) -> Path:
        """Return the folder of the model whose text tower reads captions.

        Returns:
            The folder.

        Raises:
            InputError: if it is another one than that of the composed model, whose prompts the encoders are
                given when it generates.
        """
        named, model = self.options.text, self.config.model
        own = read(model).text if is_composed(model) else None
        if own is None:
            return text_folder(EMBEDDED if named is None else named)
        folder = text_folder(own.source) if planning() else verify_text(own)
        if named is not None and text_folder(named).resolve() != folder.resolve():
            raise InputError(
                f"options: text is {named}, and {model} has its words from {own.source}: leave it out"
            )
        return folder

    def to(self, device: torch.device) -> None:
        """Move the text tower and the published models to `device`."""
        self.text.to(device)
        self.published.to(device)
        self.device = device

    # What trains ---------------------------------------------------------------------------------------

    def build(self) -> ForeignNoisyLatentEncoders:
        """Return new encoders, or with `continue_from` those in the model folder."""
        part = self.config.part.get(PART, {})
        latents = self.published.latents(part.get("latents", {}))
        dim = part.get("context_dim", self.text.dim)
        expect(dim == self.text.dim, "part: context_dim", dim, f"{self.text.dim}, as the text model has")
        fresh = ForeignNoisyLatentEncoders(**{**part, "latents": latents, "context_dim": dim})
        return continued(fresh, self.config.model / PART) if self.options.continue_from else fresh

    # Data ----------------------------------------------------------------------------------------------

    def encodings(self) -> list[Encoding]:
        """Return what is needed of media files: latents of each medium, and captions."""
        return [self.published.encoding([m], readers=[self.text]) for m in self.modalities]

    def data(self) -> PairSource:
        """Return a source of cached latents of each medium by itself, of scenes or of media files."""
        sources: dict[tuple[Modality, ...], Source] = {}
        for modality in self.modalities:
            found = self.published.data([modality], self.options.scenes, self.device, readers=[self.text])
            sources[(modality,)] = found
        return PairSource(sources, dict.fromkeys(sources, 1.0))

    # Loss ----------------------------------------------------------------------------------------------

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the squared distance to the caption's token, summed over media, and values for the log.

        Its minimum is the mean of all tokens that are possible, which is shorter than one where many are.
        """
        losses, levels = {}, []
        for modality in self.modalities:
            part = batch[modality.value]
            angle = spread_angles(len(part[modality.value]), generator, self._shift(modality))
            predicted = self.predicted(module, modality, part, angle, generator)
            losses[modality.value] = (predicted - self.tokens(part)).square().sum(-1)
            levels.append(angle)
        means = {name: each.mean() for name, each in losses.items()}
        extras: dict[str, Any] = {name: mean.detach() for name, mean in means.items()}
        extras["bins"] = (torch.cat(levels), torch.cat(list(losses.values())).detach())
        return torch.stack(list(means.values())).sum(), extras

    def _shift(self, modality: Modality) -> float:
        return self.options.timestep_shift.get(modality.value, 1.0)

    def predicted(
        self,
        module: ForeignNoisyLatentEncoders,
        modality: Modality,
        batch: Batch,
        angle: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return what an encoder estimates of samples at noise levels `angle` (B,), (B, D)."""
        context = self.prompts.tokens(self.prompting(batch), generator)
        return self.estimate(module, modality, batch[modality.value], angle, context, generator)

    def estimate(
        self,
        module: ForeignNoisyLatentEncoders,
        modality: Modality,
        x_0: Tensor,
        angle: Tensor,
        context: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return what an encoder estimates of latents, as sampling asks it.

        Args:
            module: what trains.
            modality: the medium.
            x_0: (B, ...) clean latents.
            angle: (B,) noise levels; the schedule's nearest are taken.
            context: (B, 1, D) prompts.
            generator: the source of the noise.

        Returns:
            (B, D).
        """
        levels = self.published.models[modality].levels
        eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        t = levels.timestep(angle)
        grid = self.published.prepared[modality].grid
        x_t = levels.add_noise(x_0, eps, t)
        return module.by_modality()[modality].estimate(x_t, levels.angle(t) * LEVEL_SCALE, context, grid)

    @staticmethod
    def prompting(batch: Batch) -> Batch:
        """Return the batch with the captions that prompt.

        Those of scenes leave facts out. Those of files are others of the same row, where it has any: a prompt
        that is the very caption to be predicted would leave nothing to read in the latent.
        """
        return batch if batch.scenes is not None else batch.with_named(text=batch.paraphrases())

    @torch.no_grad()
    def tokens(self, batch: Batch) -> Tensor:
        """Return the token (B, D) of each sample's whole caption, which is what encoders learn to predict."""
        return self.text.embed(batch.captions())

    def dummy_batch(self, module: Any, count: int) -> dict[str, Tensor]:
        """Return latents of every medium, under its name."""
        prepared = self.published.prepared
        return {m.value: empty(count, *prepared[m].start.shape[1:]) for m in self.modalities}

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Run the encoder of every medium once."""
        for modality, encoder in module.by_modality().items():
            x = batch[modality.value]
            grid = self.published.prepared[modality].grid
            encoder.estimate(x, empty(len(x)), empty(len(x), 1, self.text.dim), grid)

    # Results -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def preview(self, module: Any, folder: Path) -> None:
        """Write `known.png`: how much of a caption's token is known without a prompt, by noise level."""
        source = self.data()
        batch = to_device(source.fetch(list(range(PREVIEWED))), self.device)
        source.close()
        generator = torch.Generator(self.device).manual_seed(0)
        levels = torch.linspace(0, 1, PREVIEW_LEVELS, device=self.device)
        curves = {}
        for modality in self.modalities:
            x_0, token = batch[modality.value][modality.value], self.tokens(batch[modality.value])
            nothing = null_prompt(len(x_0), token.shape[-1], device=self.device)
            known = []
            for level in levels:
                at = level.expand(len(x_0))
                predicted = self.estimate(module, modality, x_0, at, nothing, generator)
                known.append(known_share(predicted, token))
            curves[modality.value] = known
        draw_known(folder / "known.png", levels.tolist(), curves, "noise level")

    def export(self, module: Any, folder: Path) -> None:
        """Write the encoders, and nothing of the published models; a composed model then names them."""
        export_parts({PART: module}, folder)
