"""Textual inversion (Gal et al., arXiv 2208.01618): a new word of the text tower from a few pictures.

The new rows of the embedding table are all that trains; everything else is frozen. The denoiser of pictures
says how well a sentence with the word explains them. Because prompts of all kinds share one space here, the
sentence is also drawn to where the vision tower puts the pictures themselves.

Letters: B batch, N pictures, H W height and width, k vectors of the word, W width of the text tower, D width
of the prompt space.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.adapters.files import save_words
from codi.io import fit_image, load_image, to_unit
from codi.models.words import Vectors, add_words, known_vectors
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, VISIBLE, Scene, caption, render_images
from data.world import scene_at
from training.config import Config, strict
from training.stages import Source, Stage
from training.stages.common import write_png
from training.stages.denoise import DenoiseStage
from training.stages.latents import autoencoder_of, tower_of

FOLDER = "words"  # below the model folder, one folder per run
SENTENCES = ("a {}", "the {}", "there is a {}")
SEARCHED = 20_000  # how many scenes are looked through for those with the wanted facts


@dataclass(frozen=True, kw_only=True)
class InversionOptions:
    """Options of the stage.

    Attributes:
        word: the word as it will be written in prompts, such as "<gizmo>".
        start: a known word whose embedding it starts from.
        vectors: the number k of rows that the word gets.
        pictures: the number of pictures to learn from.
        images: a folder of pictures (png, jpg, webp) of the thing, of which the first `pictures` by name are
            taken; None where `facts` are given.
        facts: facts of scenes of the world that are taken instead, such as {"shape": "star", "colour":
            "purple"}.
        alignment: the weight of the cosine distance between the sentence's token and those of the pictures; 0
            leaves the paper's objective alone.
        timestep_shift: how far timesteps move towards noise, see `training.stages.denoise.spread_timesteps`.
    """

    word: str
    start: str = "thing"
    vectors: int = 1
    pictures: int = 8
    images: Path | None = None
    facts: dict[str, str] = field(default_factory=dict)
    alignment: float = 1.0
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        for name in ("vectors", "pictures"):
            if getattr(self, name) < 1:
                raise InputError(f"options: {name} is {getattr(self, name)}: expected 1 or more")
        if self.timestep_shift <= 0:
            raise InputError(f"options: timestep_shift is {self.timestep_shift}: expected more than 0")
        if (self.images is None) == (not self.facts):
            raise InputError(
                "options: expected one of images (a folder) and facts (of the world), and not both"
            )
        visible = VISIBLE[Modality.IMAGE]
        for name, value in self.facts.items():
            if name not in visible or value not in ATTRIBUTES[name]:
                raise InputError(
                    f"options: facts has {name}: {value}: expected {', '.join(visible)} with values of the "
                    "world"
                )


class InversionStage(Stage):
    """The stage that learns one word."""

    identity = ("word", "facts", "images")

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(InversionOptions, config.options, where="options")
        for name, given in (("part", config.part), ("data", config.data)):
            if given:
                raise InputError(
                    f"{name}: {', '.join(given)}: expected none; pictures come from options: images, or facts"
                )
        prompts = {
            "modality": "image",
            "prompts": {"text": 1.0},
            "timestep_shift": self.options.timestep_shift,
            "continue_from": True,
        }
        self.inner = DenoiseStage(dataclasses.replace(config, options=prompts))

    def load(self) -> None:
        """Load the inner stage's frozen parts, of which the text tower learns the word."""
        self.inner.load()
        self.tower = self.inner.prompts.text

    def build(self) -> Vectors:
        """Return the rows of the word, (k, W), as a module, and teach the text tower the word.

        Rows after the first start near it, not at it, or they would all learn the same.
        """
        self.denoiser = self.inner.build().requires_grad_(False)
        start = known_vectors(self.tower, self.options.start)
        noise = torch.randn(self.options.vectors, start.shape[1]) * start.std() * 0.1
        noise[0] = 0
        return add_words(self.tower, {self.options.word: start + noise})

    def to(self, device: torch.device) -> None:
        """Move the text tower and the denoiser to `device`."""
        self.tower.to(device)
        self.denoiser.to(device)

    @torch.no_grad()
    def data(self) -> "Pictures":
        """Return the pictures, encoded once, as an endless source."""
        model = self.config.model
        autoencoder = autoencoder_of(model, Modality.IMAGE)
        tower = tower_of(model, Modality.IMAGE)
        pixels, scenes = self.pictures(autoencoder.config.image_size)
        return Pictures(autoencoder.encode(pixels), tower.embed(pixels), scenes, self)

    def pictures(self, size: int) -> tuple[Tensor, list[Scene] | None]:
        """Return the pictures to learn from.

        Args:
            size: the side in pixels to which pictures of a folder are brought; those of the world have a size
                of their own.

        Returns:
            The pictures (N, 3, H, W) in [-1, 1], and their scenes if they are of the world, else None.

        Raises:
            InputError: if there are none.
        """
        options = self.options
        if options.images is None:
            scenes: list[Scene] = []
            for index in range(SEARCHED):
                scene = scene_at(self.config.seed, index)
                if all(getattr(scene, name) == value for name, value in options.facts.items()):
                    scenes.append(scene)
                if len(scenes) == options.pictures:
                    break
            if not scenes:
                raise InputError(
                    f"options: no training scene has the facts {options.facts}: their pair of shape and "
                    "colour is held out"
                )
            return to_unit(render_images(scenes)), scenes
        suffixes = (".png", ".jpg", ".jpeg", ".webp")
        files = sorted(path for path in options.images.glob("*") if path.suffix.lower() in suffixes)
        if not files:
            raise InputError(
                f"options: images is {options.images}: expected a folder with {', '.join(suffixes)} files"
            )
        pixels = [fit_image(load_image(file), size) for file in files[: options.pictures]]
        return torch.stack(pixels), None

    def sentence(self, scene: Scene | None, rng: np.random.Generator) -> str:
        """Return a sentence with the word, for a picture.

        Args:
            scene: the scene of the picture, if it is of the world. Its place is named in half of the
                sentences, so that the word need not stand for it.
            rng: the source of the draws.

        Returns:
            The sentence.
        """
        word = self.options.word
        if scene is None:
            return SENTENCES[rng.integers(len(SENTENCES))].format(word)
        left = []
        if "place" in VISIBLE[Modality.IMAGE] and "place" not in self.options.facts:
            left.append("place")
        named = left if rng.random() < 0.5 else ()
        return caption(scene, named, rng).replace("something", f"a {word}")

    def loss(
        self, module: Vectors, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of denoising pictures with their sentences as prompts, and values for the log.

        The cosine distance between sentences and pictures in prompt space is added, `alignment` times.
        """
        tokens = self.tower.embed(batch["sentences"])
        losses, t = self.inner.denoising(self.denoiser, batch["latents"], tokens[:, None], generator)
        # prompts of all kinds share a space, so the pictures' own tokens say where the word should lead
        apart = 1 - functional.cosine_similarity(tokens, batch["tokens"]).mean()
        bins = (t / self.inner.process.num_train_timesteps, losses.detach())
        return losses.mean() + self.options.alignment * apart, {
            "bins": bins,
            "cosine_distance": apart.detach(),
        }

    @torch.no_grad()
    def preview(self, module: nn.Module, folder: Path) -> None:
        """Write pictures of the word alone and in every place of the world.

        `agreement.json` says in how many of them the probes find the facts that the word stands for.
        """
        from codi.world import read_images
        from training.stages.samples import make_pipeline

        places = ("", "at night", "in the snow", "on the grass", "on the sand")
        pipe = make_pipeline(self.config.model, {Modality.IMAGE: self.denoiser})
        prompts = [f"a {self.options.word} {place}".strip() for place in places]
        context = self.tower.embed(prompts)[:, None]
        out = pipe(outputs="image", num_samples=len(places), seed=0, prompt_embeds=context, output_type="pt")
        images = torch.stack(out.images)
        write_png(folder / "images.png", images, len(places))
        found = [reading.facts for reading in read_images(images)]
        scores = {}
        for name, value in self.options.facts.items():
            scores[name] = sum(facts.get(name) == value for facts in found) / len(found)
        (folder / "agreement.json").write_text(json.dumps(scores) + "\n", encoding="utf-8")

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the folder words/<run> of the word."""
        return (f"{FOLDER}/{config.output.name}",)

    @classmethod
    def reads(cls, config: Config) -> list[str]:
        """Return the folder of pictures, or the world."""
        pictures = config.options.get("images")
        return [str(pictures)] if pictures else super().reads(config)

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write words/<run>/learned_embeds.safetensors into the model folder."""
        save_words(folder / self.produces(self.config)[0], self.tower, base=folder.resolve().name)


class Pictures(Source):
    """An endless source of a few pictures, each time with another sentence.

    Args:
        latents: the pictures' latents, (N, ...).
        tokens: their tokens by the vision tower, (N, D).
        scenes: their scenes, if they are of the world.
        stage: the stage, which makes the sentences.
    """

    def __init__(self, latents: Tensor, tokens: Tensor, scenes: list[Scene] | None, stage: InversionStage):
        self.latents = latents
        self.tokens = tokens
        self.scenes = scenes
        self.stage = stage

    def __len__(self) -> int:
        return 2**40  # endless, as far as the loop can tell

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """Return a batch in which sample i shows picture i modulo N; its sentence depends on i alone."""
        rows = [index % len(self.latents) for index in indices]
        sentences = []
        for index, row in zip(indices, rows):
            # the last number keeps these draws apart from those that make scenes
            rng = np.random.default_rng((self.stage.config.seed, index, 2))
            scene = None if self.scenes is None else self.scenes[row]
            sentences.append(self.stage.sentence(scene, rng))
        return {
            "index": list(indices),
            "latents": self.latents[rows],
            "tokens": self.tokens[rows],
            "sentences": sentences,
        }
