"""Bridging alignment (CoDi, section 3.2): the tower of one modality is trained against the text tower.

The objective is contrastive (arXiv 2103.00020). The text-picture stage also makes the text tower, which is
frozen from then on. A caption may leave facts out and a picture shows no tempo, so a pair counts as matching
when nothing that the caption names and the medium shows disagrees; targets are spread over all matches.

Letters: N pairs in a batch, K captions of one medium, D width of the prompt space.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.metrics.retrieval import chance_of_hit, ranks_of_relevant, recall_at_1
from codi.modalities import component_class, in_files, kind_of
from codi.models.conditioning import Bridge, TextTower
from codi.types import InputError, Modality, ModalitySpec
from codi.world import ATTRIBUTES, RENDERERS, VISIBLE, Scene, caption
from data.batch import Batch
from data.damage import KINDS, damage_some
from data.world import random_facts, scene_at
from training.config import Config, check_names, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages import Source, Stage
from training.stages.common import export_part, load_part
from training.stages.files import (
    check_words,
    known_geometry,
    open_media,
    world_or_files,
)
from training.stages.latents import as_unit
from training.stages.rows import num_rows
from training.stages.tokenizers import read_tokenizer_options, tokenizer_of

RHYTHM = ("motion", "tempo")  # the facts that take time to show
TEXT_TOWER = kind_of("text").tower
FIRST_ALIGNMENT = kind_of("text").made_by[TEXT_TOWER]
CONTINUE = "train it first without continue_from"


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Options of the align stages.

    Attributes:
        modality: the modality to bridge.
        alike: how many scenes in a row look the same, see `data.world.scene_at`. Scenes that differ in motion
            alone are rare in a batch of independent ones, and so the contrast would hardly ever be about
            motion.
        paraphrase: the weight of the contrast between two wordings of a caption. It keeps facts in the text
            tower that a picture cannot show, and acts only while that tower trains. On files it sees the
            captions of rows without a picture as well (`WithSentences`), so that the tower can tell apart
            what is said of sounds and clips, for which it is frozen later.
        rhythm: the weight of the contrast of each clip or sound with the captions of the scenes that are like
            its own but for how they move: hard negatives made by changing words (arXiv 2210.01936). Like
            `alike` it has no effect on files, which cannot be moved anew.
        validation_scenes: the number of scenes or files on which retrieval is measured.
        continue_from: start from the tower in the model folder; for sounds alone.
        tokenizer: what a new text tower reads, such as {"kind": "bpe", "size": 4096}
            (`training.stages.tokenizers.TokenizerOptions`).
        damage: the share of media that ordinary damage has befallen (`data.damage`); captions stay.
        damage_kinds: the kinds of damage that are drawn from; empty for all that befall the modality.
    """

    modality: str
    alike: int = 1
    paraphrase: float = 1.0
    rhythm: float = 0.0
    validation_scenes: int = 256
    continue_from: bool = False
    tokenizer: dict[str, Any] = field(default_factory=dict)
    damage: float = 0.0
    damage_kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(self.rhythm >= 0, "rhythm", self.rhythm, "0 or more")
        expect(0 <= self.damage <= 1, "damage", self.damage, "0 to 1")
        check_names(self.damage_kinds, KINDS, "options.damage_kinds")
        kind = kind_of(self.modality)
        able = kind.aligned == (kind.tower,) or not self.continue_from
        expect(
            able, "continue_from", True, "false: pictures start anew, clips from the tower that pictures made"
        )
        for name in ("alike", "validation_scenes"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class Contrast(nn.Module):
    """The towers of a stage and the learned temperature; frozen towers stay outside of it.

    Args:
        towers: what trains, by name.
    """

    def __init__(self, towers: dict[str, nn.Module]):
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, left: Tensor, right: Tensor, match: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Return the symmetric cross-entropy between two sides of N pairs.

        Args:
            left: tokens of one side, (N, D).
            right: tokens of the other side, (N, D).
            match: (N, N) float, one where a left and a right one belong together.
            ignored: (N, N) boolean, where a left and a right one are neither a match nor a negative; None for
                nowhere.

        Returns:
            A scalar.
        """
        logits = self.scale * left @ right.T
        if ignored is not None:
            # lower than any other, and finite, since it is multiplied by a target of zero
            logits = logits.masked_fill(ignored, torch.finfo(logits.dtype).min)
        return 0.5 * (self._one_way(logits, match) + self._one_way(logits.T, match.T))

    def hard_negatives(self, media: Tensor, captions: Tensor, right: Tensor) -> Tensor:
        """Return the cross-entropy of media among captions of their own, of which one is right.

        Args:
            media: tokens of the media, (N, D).
            captions: tokens of the captions of each medium, (N, K, D).
            right: the place of the right caption, (N,).

        Returns:
            A scalar.
        """
        return functional.cross_entropy(self.scale * torch.einsum("nd,nkd->nk", media, captions), right)

    @property
    def scale(self) -> Tensor:
        """The inverse of the temperature, at most 50."""
        return self.logit_scale.clamp(max=math.log(50.0)).exp()

    @staticmethod
    def _one_way(logits: Tensor, match: Tensor) -> Tensor:
        # several captions may be right for a medium: each is an equal part of the target
        target = match / match.sum(1, keepdim=True)
        return -(target * logits.log_softmax(1)).sum(1).mean()


class AlignStage(Stage):
    """The stage that aligns one modality with text."""

    identity = ("modality",)

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(AlignOptions, config.options, where="options")
        self.modality = Modality.parse(self.options.modality)
        self.kind = kind_of(self.modality)
        able = in_files() if config.data else tuple(RENDERERS)
        if self.modality not in able:
            raise InputError(f"options: modality is {self.options.modality!r}: expected {', '.join(able)}")
        self.makes_text = TEXT_TOWER in self.kind.aligned
        self.tokenizer = read_tokenizer_options(self.options.tokenizer, config, self.makes_text)
        self.text: TextTower | None = None
        expect(
            not (self.makes_text and self.options.rhythm),
            "rhythm",
            self.options.rhythm,
            "0 for pictures, which do not move",
        )

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the towers in `part`; clips build none, they add to the tower of pictures."""
        return kind_of(str(config.options.get("modality"))).aligned

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the towers that are written."""
        return cls.builds(config) or (kind_of(str(config.options.get("modality"))).tower,)

    def part_of(self, module: Contrast, name: str) -> nn.Module:
        """Return the tower of this name."""
        return module.towers[name]

    def build(self) -> Contrast:
        """Return the towers that train, with the learned temperature.

        Pictures train the text and the vision tower, sounds the audio tower, clips the temporal layers of the
        vision tower.

        Returns:
            All in one module.

        Raises:
            InputError: if `part` lacks a tower's arguments, or has others.
        """
        needed = self.builds(self.config)
        check_names(self.config.part, needed, "part")
        if missing := [
            name for name in needed if name not in self.config.part and not self.options.continue_from
        ]:
            raise InputError(f"part: missing {missing[0]}: expected the arguments of {' and '.join(needed)}")
        name = self.kind.tower
        cls = component_class(name)
        if self.makes_text:
            tokenizer = tokenizer_of(self.config, self.tokenizer)
            text = TextTower(**self.config.part[TEXT_TOWER], tokenizer=tokenizer)
            return Contrast({TEXT_TOWER: text, name: cls(**self.config.part[name])})
        self.text = load_text_tower(self.config.model)
        if name in needed and not self.options.continue_from:
            return Contrast({name: cls(**self.config.part[name])})
        why = CONTINUE if name in needed else f"run {FIRST_ALIGNMENT} first"
        tower = load_part(cls, self.config.model / name, why)
        for trained in self.kind.trained_parts(tower):
            trained.requires_grad_(True)
        return Contrast({name: tower})

    def to(self, device: torch.device) -> None:
        """Move the frozen text tower to `device`."""
        if self.text is not None:
            self.text.to(device)

    def data(self, offset: int = 0) -> Source:
        """Return a source of media with captions, of scenes or of files.

        Scenes come with two wordings of the same part of their facts.

        Args:
            offset: added to the seed; another offset gives other samples.

        Returns:
            A source of batches as `render` makes them.
        """
        media = [self.modality, Modality.TEXT]
        source = world_or_files(
            self.config, self.render, media, self.geometry(), self.pairs, offset, self.options.alike
        )
        if not self.config.data:
            return source
        if self.text is not None and not offset:
            check_words(source.source, [self.text], self.config.model)
        if self.makes_text and num_rows(self.config.data, [Modality.TEXT]) > num_rows(
            self.config.data, media
        ):
            captions = open_media(self.config, [Modality.TEXT], seed=self.config.seed + offset)
            return WithSentences(source, captions)
        return source

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Return the geometry of the media, as far as the model has it.

        That of pictures is what the tower takes, that of sounds what the audio autoencoder takes, if there is
        one. Only the data know that of clips.
        """
        known = known_geometry(self.config.model).get(self.modality)
        spec = self.kind.aligned_geometry(known, self.config.part.get(self.kind.tower, {}))
        return {} if spec is None else {self.modality: spec}

    @cached_property  # every step asks for it, and the files of parts say it
    def rate(self) -> float | None:
        """The rate of the media in their own steps per second, where a part states it."""
        spec = self.geometry().get(self.modality)
        return None if spec is None else spec.rate

    def pairs(self, batch: Batch) -> dict[str, Any]:
        """Return a batch of files in the form that `render` gives a batch of scenes.

        A caption matches its own medium. With the media of samples that have the same caption it is not
        contrasted: they are no negatives.
        """
        own = torch.eye(len(batch["text"]))
        equal = batch.equal_captions() & (own == 0)
        return {
            "media": batch[self.modality.value],
            "moved": [],
            "captions": batch["text"],
            "paraphrases": batch.paraphrases() if self.makes_text else [],
            "match": own,
            "same": own,
            "ignored": equal if equal.any() else None,
        }

    def render(self, scenes: list[Scene], rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return a batch of scenes: media, captions, and which pairs match.

        Args:
            scenes: the scenes.
            rngs: the random generator of each.

        Returns:
            A dict of "media", "captions", "paraphrases" (other wordings of the same facts, where the text
            tower trains), "moved" (captions of other motions, with the option `rhythm`), "match" (N, N),
            which captions agree with which media, "same" (N, N), which captions say the same, and "ignored",
            nothing, since scenes say which pairs match.
        """
        named = [random_facts(tuple(ATTRIBUTES), 0.5, rng) for rng in rngs]
        facts = fact_table(scenes)
        said = torch.tensor([[name in names for name in ATTRIBUTES] for names in named])
        shown = torch.tensor([name in VISIBLE[self.modality] for name in ATTRIBUTES])
        moving = (
            [moved(s, names, rng) for s, names, rng in zip(scenes, named, rngs)]
            if self.options.rhythm
            else []
        )
        return {
            "media": RENDERERS[self.modality](scenes),
            "moved": moving,
            "captions": [caption(s, names, rng) for s, names, rng in zip(scenes, named, rngs)],
            "paraphrases": [caption(s, names, rng) for s, names, rng in zip(scenes, named, rngs)]
            if self.makes_text
            else [],
            "match": matches(facts, said & shown),
            "same": same_sentence(facts, said),
            "ignored": None,
        }

    def loss(
        self, module: Contrast, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the contrastive loss of media and captions, and values for the log.

        Where the text tower trains, the contrast of wordings is added; else that with captions of other
        motions, if it is on.
        """
        text = module.towers[TEXT_TOWER] if self.makes_text else self.text
        options = self.options
        media = damage_some(batch["media"], options.damage, generator, options.damage_kinds, self.rate)
        captions, media = text.embed(batch["captions"]), self.tower(module).embed(self.prepare(media))
        bridged = module(captions, media, batch["match"], batch["ignored"])
        if not self.makes_text:
            extras = {"scale": module.scale.detach()}
            if batch["moved"]:
                ways = text.embed([said for each in batch["moved"] for said in each]).unflatten(
                    0, (len(media), -1)
                )
                rhythm = module.hard_negatives(
                    media, ways, torch.zeros(len(media), dtype=torch.long, device=media.device)
                )
                bridged, extras["rhythm"] = bridged + self.options.rhythm * rhythm, rhythm.detach()
            return bridged, extras
        reworded = module(captions, text.embed(batch["paraphrases"]), batch["same"], batch["ignored"])
        extras = {"bridged": bridged.detach(), "reworded": reworded.detach()}
        total = bridged + self.options.paraphrase * reworded
        if "sentences" in batch:
            sentences, rewordings = text.embed(batch["sentences"]), text.embed(batch["rewordings"])
            others = module(sentences, rewordings, torch.eye(len(sentences)).to(sentences), batch["alike"])
            total = total + self.options.paraphrase * others
            extras["sentences"] = others.detach()
        return total, extras

    def dummy_batch(self, module: Contrast, count: int) -> dict[str, Tensor] | None:
        """Return media, and captions of the greatest length where their tower trains."""
        geometry = (self.config.data.get("geometry") or {}).get(self.modality.value, {})
        shape = self.tower(module).trunk_shape(geometry, clips="frames" in self.kind.geometry_keys)
        if shape is None:
            return None
        batch = {"media": empty(count, *shape)}
        if self.makes_text:
            text = module.towers[TEXT_TOWER].text
            batch["ids"] = whole_numbers(count, text.config.max_position_embeddings)
        return batch

    def dry_pass(self, module: Contrast, batch: dict[str, Tensor]) -> None:
        """Run the towers that train."""
        if self.makes_text:
            module.towers[TEXT_TOWER].text(input_ids=batch["ids"])
        self.tower(module).trunk(batch["media"])

    def tower(self, module: Contrast) -> nn.Module:
        """Return the tower of this stage's modality."""
        return module.towers[self.kind.tower]

    def prepare(self, media: Tensor) -> Tensor:
        """Return rendered media as the towers take them, pixels in [-1, 1]."""
        return as_unit(media)

    def bridges(self, module: Contrast) -> dict[str, Bridge]:
        """Return the bridges whose mean this stage measures, by modality."""
        tower = self.tower(module)
        own = {str(self.modality): getattr(tower, self.kind.bridge)}
        return own | ({"text": module.towers[TEXT_TOWER].bridge} if self.makes_text else {})

    @torch.no_grad()
    def validate(self, module: Contrast, num_scenes: int, measure: bool = False) -> dict[str, float]:
        """Measure retrieval both ways, on fresh scenes or on files in another order.

        Args:
            module: the towers.
            num_scenes: the number of samples.
            measure: whether the bridges' means are first set from these samples.

        Returns:
            Recall at one of both directions, and the mean cosine of pairs.
        """
        device = module.logit_scale.device
        text, tower, bridges = (
            module.towers[TEXT_TOWER] if self.makes_text else self.text,
            self.tower(module),
            self.bridges(module),
        )
        facts, media, words = [], [], []
        for raw, captions, known in self.examples(num_scenes):
            facts += known
            media.append(tower.features(self.prepare(raw.to(device))))
            words.append(text.features(captions))
        media, words = torch.cat(media), torch.cat(words)
        if measure:
            bridges[str(self.modality)].measure(media)
            if self.makes_text:
                text.bridge.measure(words)
        left, right = text.bridge(words), bridges[str(self.modality)](media)
        names = tuple(facts[0]) if self.config.data else VISIBLE[self.modality]
        return {
            f"text->{self.modality}": recall_at_1(left, right, facts, facts, names),
            f"{self.modality}->text": recall_at_1(right, left, facts, facts, names),
            "cosine": functional.cosine_similarity(left, right).mean().item(),
        }

    @torch.no_grad()
    def scores(self, module: Contrast, batches: Sequence[Any]) -> dict[str, float]:
        """Return how often held-out captions and media find each other among all that are held out.

        Args:
            module: the towers.
            batches: batches of held-out samples.

        Returns:
            Both ways recall at one and at five, and what picking at random would reach. The right answers to
            a sample are its own, and those of samples with the same caption.
        """
        text = module.towers[TEXT_TOWER] if self.makes_text else self.text
        tower = self.tower(module)
        device = module.logit_scale.device
        media, words, captions = [], [], []
        for batch in batches:
            media.append(tower.embed(self.prepare(batch["media"].to(device))))
            words.append(text.embed(batch["captions"]))
            captions += batch["captions"]
        numbers = {caption: number for number, caption in enumerate(captions)}
        said = torch.tensor([numbers[caption] for caption in captions], device=device)
        right = said[:, None] == said
        sides = {"text": torch.cat(words), str(self.modality): torch.cat(media)}
        found = {}
        for (query, queries), (key, keys) in itertools.permutations(sides.items()):
            ranks = ranks_of_relevant(queries, keys, right)
            for k in (1, 5):
                found[f"{query}->{key} R@{k}"] = float((ranks <= k).double().mean())
        for k in (1, 5):
            found[f"chance R@{k}"] = chance_of_hit(right.cpu(), k)
        return found

    def examples(self, count: int) -> Iterator[tuple[Tensor, list[str], list[dict[str, str]]]]:
        """Yield media, captions and facts of samples apart from the training's order, 64 at a time.

        Args:
            count: the number of samples.

        Yields:
            Media, B captions, and B dicts of facts. The only fact of a file is its caption.
        """
        source = self.data(offset=1) if self.config.data else None
        for start in range(0, count, 64):
            places = list(range(start, min(start + 64, count)))
            if source is None:
                scenes = [scene_at(self.config.seed + 1, i) for i in places]
                yield (
                    RENDERERS[self.modality](scenes),
                    [caption(s) for s in scenes],
                    [s.facts for s in scenes],
                )
            else:
                batch = source.fetch(places)
                yield batch["media"], batch["captions"], [{"caption": said} for said in batch["captions"]]
        if source is not None:
            source.close()

    def preview(self, module: Contrast, folder: Path) -> None:
        """Write recall at one on fresh scenes to `retrieval.json`."""
        (folder / "retrieval.json").write_text(
            json.dumps(self.validate(module, self.options.validation_scenes)) + "\n", encoding="utf-8"
        )

    def export(self, module: Contrast, folder: Path) -> None:
        """Measure the bridges' means, then write the towers."""
        self.validate(module, 4 * self.options.validation_scenes, measure=True)
        for name, tower in module.towers.items():
            export_part(tower, folder / name)


class WithSentences(Source):
    """A source of media with captions, with beside them as many captions of any rows, in two wordings.

    The other wording is another caption of the row. Of a row with one caption it is that caption without some
    of its words (CLEAR, arXiv 2012.15466).

    Args:
        pairs: the media with captions, in the form of `AlignStage.pairs`.
        captions: the captions of all rows that have some.
    """

    DROPPED = 0.2  # of the words of a caption that has no other wording

    def __init__(self, pairs: Source, captions: Source):
        self.pairs = pairs
        self.captions = captions
        self.infinite = pairs.infinite

    def __len__(self) -> int:
        return len(self.pairs)

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of media, with "sentences" and "rewordings".

        In "alike" (B, B) stands which of different samples say the same, and so are no negatives.
        """
        batch = self.captions.fetch(indices)
        rewordings = []
        for index, said, other in zip(indices, batch["text"], batch.paraphrases(), strict=True):
            rewordings.append(shortened(said, index) if other == said else other)
        equal = batch.equal_captions()
        alike = equal & ~torch.eye(len(equal), dtype=torch.bool)
        more = {"sentences": batch["text"], "rewordings": rewordings, "alike": alike}
        return self.pairs.fetch(indices) | more

    @property
    def bad(self) -> int:  # type: ignore[override]
        """The number of bad samples met so far, media and captions."""
        return self.pairs.bad + self.captions.bad

    def close(self) -> None:
        """End the decoding processes of both."""
        self.pairs.close()
        self.captions.close()


def shortened(sentence: str, seed: int) -> str:
    """Return a sentence without a share of its words, drawn by a seed; at least one word stays."""
    words = sentence.split()
    kept = np.random.default_rng((seed, len(words))).random(len(words)) >= WithSentences.DROPPED
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays) or sentence


def load_text_tower(model: Path) -> TextTower:
    """Return the frozen text tower of a model. Raises `InputError` where it is missing."""
    return load_part(TextTower, model / TEXT_TOWER, f"run {FIRST_ALIGNMENT} first")


def moved(scene: Scene, named: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Return captions of a scene in which it moves in every possible way, its own first.

    All use the same words otherwise.

    Args:
        scene: the scene.
        named: the facts that its own caption names; how it moves is added.
        rng: the source of the wording.

    Returns:
        As many captions as there are ways to move.
    """
    facts, wording = {*named, *RHYTHM}, rng.integers(2**31)
    ways = [dict(zip(RHYTHM, values)) for values in itertools.product(*(ATTRIBUTES[name] for name in RHYTHM))]
    # its own first, which is where the loss expects the right one
    ways.sort(key=lambda way: any(getattr(scene, name) != value for name, value in way.items()))
    return [caption(dataclasses.replace(scene, **way), facts, np.random.default_rng(wording)) for way in ways]


def fact_table(scenes: list[Scene]) -> Tensor:
    """Return the positions of the facts of N scenes in their tables, (N, 5)."""
    return torch.tensor(
        [[values.index(getattr(s, name)) for name, values in ATTRIBUTES.items()] for s in scenes]
    )


def matches(facts: Tensor, asked: Tensor) -> Tensor:
    """Return which captions agree with which media.

    Args:
        facts: positions of the facts of each scene, (N, 5).
        asked: (N, 5) boolean, the facts that the caption names and the medium shows.

    Returns:
        (N, N) float, one where caption i agrees with medium j on every fact in `asked`.
    """
    agree = facts[:, None] == facts[None]
    return (agree | ~asked[:, None]).all(-1).float()


def same_sentence(facts: Tensor, said: Tensor) -> Tensor:
    """Return which captions name the same facts with the same values.

    Args:
        facts: positions of the facts of each scene, (N, 5).
        said: (N, 5) boolean, the facts that the caption names.

    Returns:
        (N, N) float, one where captions i and j say the same.
    """
    # -1 stands for a fact that is left out, which is alike only to one left out as well
    table = torch.where(said, facts, -1)
    return (table[:, None] == table[None]).all(-1).float()
