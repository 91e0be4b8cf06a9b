"""Prompts in training: kinds by their shares, two at once, noise, none."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from codi import pretrained
from codi.types import InputError
from codi.world import parse
from data.batch import Batch
from data.manifest import write_manifest
from data.world import scene_at
from tests.training.media import make_media
from training.config import load_config
from training.stages import open_stage
from training.stages.prompts import Prompts

WIDTH = 32


class Words:
    """A tower that gives every fact a direction of its own."""

    def embed(self, sentences: list[str]) -> torch.Tensor:
        tokens = torch.full((len(sentences), WIDTH), 0.01)
        for row, sentence in enumerate(sentences):
            for number, (_, value) in enumerate(parse(sentence).items()):
                if value is not None:
                    tokens[row, 6 * number + sum(map(ord, value)) % 6] = 1.0
        return functional.normalize(tokens, dim=-1)


def drawn(**settings) -> torch.Tensor:
    scenes = [scene_at(0, index) for index in range(300)]
    sound = functional.normalize(torch.eye(WIDTH)[-1:].expand(300, -1), dim=-1)
    prompts = Prompts(Words(), **{"shares": {"text": 1.0}, "noise": 0.0, "dropout": 0.0, **settings})
    batch = Batch(scenes=scenes, named={"audio_token": sound})
    return prompts.tokens(batch, torch.Generator().manual_seed(0))[:, 0]


def test_tokens_are_of_length_one_but_for_those_of_nobody():
    length = drawn(dropout=0.2, noise=0.3, interpolation=0.5).norm(dim=-1)
    nobody = length == 0
    assert 30 < nobody.sum() < 90
    torch.testing.assert_close(length[~nobody], torch.ones(len(length))[~nobody])


def test_a_share_is_of_another_kind():
    of_sound = drawn(shares={"text": 0.7, "audio": 0.3})[:, -1] == 1.0
    assert 60 < of_sound.sum() < 120


def test_kinds_are_said_with_the_tokens():
    prompts = Prompts(Words(), {"text": 0.7, "audio": 0.3}, noise=0.0, dropout=0.0)
    named = {
        "audio_token": torch.eye(WIDTH)[-1:].expand(300, -1),
        "audio_mask": torch.arange(300) >= 100,  # the first have no sound, and keep their captions
    }
    batch = Batch(scenes=[scene_at(0, index) for index in range(300)], named=named)
    tokens, kinds = prompts.draw(batch, torch.Generator().manual_seed(0))
    assert [kind == "audio" for kind in kinds] == (tokens[:, 0, -1] == 1.0).tolist()
    assert set(kinds) == {"text", "audio"} and set(kinds[:100]) == {"text"}


def test_a_noisy_latent_encoder_meets_sentences_and_its_own_kind():
    """Whose caption it is to tell: a third medium of the same scene is none that training may see."""
    config = load_config(CONFIGS / "noisy_latent_encoders.yaml", overrides=[f"model={pretrained.resolve()}"])
    met = {str(m): sorted(map(str, prompts.names)) for m, prompts in open_stage(config).prompts.items()}
    pairs = {name: sorted(["text", name]) for name in ("image", "audio", "video")}
    assert met == {"text": ["audio", "image", "text", "video"], **pairs}


def test_a_share_gets_a_caption_beside_its_own_prompt():
    """Sounds whose token has nothing of a caption: where there are two prompts it has, and the first is never
    drowned.
    """
    beside = drawn(shares={"audio": 1.0}, interpolation=0.25)
    both = beside[:, -1] < 1.0
    assert 45 < both.sum() < 105
    assert beside[both, :-1].amax(1).mean() > 0.2 and beside[both, -1].min() > 0.35


CONFIGS = Path(__file__).parents[2] / "configs" / "world"
BY_SOUND = "options.prompts={audio+video: {audio: 0.5, video: 0.5}}"


@pytest.fixture(scope="module")
def silent_rows(tmp_path_factory):
    """A manifest of sounds and clips that nobody has said anything of."""
    folder = tmp_path_factory.mktemp("files")
    make_media(folder / "media", 2)
    rows = [
        {"id": name, "audio": f"media/{name}.wav", "video": f"media/{name}.mp4"}
        for name in ("scene-0", "scene-1")
    ]
    write_manifest(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def stage_of(name, rows, *overrides):
    places = (
        f"model={pretrained.resolve()}",
        f"output={rows.parent}/run",
        f"data={{manifests: [{rows}], workers: 0}}",
    )
    config = load_config(
        CONFIGS / f"{name}.yaml", overrides=[*places, "options.continue_from=true", *overrides]
    )
    return open_stage(config)


def test_captions_are_asked_for_where_prompts_are_sentences(silent_rows):
    """A pair whose prompts are its own two sides learns from rows without a caption."""
    stage = stage_of("joint_audio", silent_rows, BY_SOUND, "options.attending={audio+video: [audio]}")
    module = stage.build()
    stage.to(torch.device("cpu"))
    source = stage.data()
    batch = source.fetch([0, 1])
    source.close()
    assert set(batch["ids"]) == {"scene-0", "scene-1"} and "text" not in batch["audio+video"]
    assert stage.loss(module, batch, torch.Generator().manual_seed(0))[0].isfinite()


@pytest.mark.parametrize("name", ["denoise_image", "align_audio", "autoencoder_text"])
def test_words_that_finished_text_parts_do_not_know_are_counted(tmp_path, capsys, name):
    """Of three words one, then two: what is mostly unknown is not trained on."""
    for file in ("x.png", "x.wav"):
        (tmp_path / file).touch()
    for said, ends in (("a red dog", False), ("a barking dog", True)):
        write_manifest(
            tmp_path / "rows.jsonl", [{"id": "x", "image": "x.png", "audio": "x.wav", "caption": said}]
        )
        stage = stage_of(name, tmp_path / "rows.jsonl")
        stage.build()
        stage.to(torch.device("cpu"))
        if ends:
            with pytest.raises(
                InputError,
                match=r"67% of the words in the .* unknown to the Text\w+ in .* \(barking, dog, ...\)",
            ):
                stage.data()
        else:
            stage.data().close()
            assert "33% of the words in the captions are unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "overrides", "media"),
    [
        ("joint_audio", (), ["audio", "video"]),
        ("joint_audio", ("options.prompts={audio+video: {text: 1.0}}",), ["audio", "video", "text"]),
        (
            "denoise_audio",
            (
                "options.prompts={audio: 1.0}",
                "options.prompt_interpolation=0",
                "options.partner_estimates={}",
            ),
            ["audio"],
        ),
        (
            "denoise_audio",
            (
                "options.prompts={audio: 1.0}",
                "options.prompt_interpolation=0.5",
                "options.partner_estimates={}",
            ),
            ["audio", "text"],
        ),
    ],
)
def test_who_reads_captions_asks_for_them(silent_rows, name, overrides, media):
    Path(silent_rows.parent / "said.jsonl").write_text(
        silent_rows.read_text().replace('"audio"', '"caption": "a ball", "audio"')
    )
    (encoding,) = stage_of(name, silent_rows.parent / "said.jsonl", *overrides).encodings()
    with encoding.files() as source:
        assert [str(medium) for medium in source.media] == media
