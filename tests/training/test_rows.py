"""Rows that lack media: what is counted, what is kept, and what a sample without a partner is given."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codi.io import save_image
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.types import InputError, Modality
from data.batch import Batch
from data.cache import CachedSource, build_cache
from data.sources import count_rows, open_source
from training.stages.align import WithSentences, shortened
from training.stages.common import export_part
from training.stages.noisy_latent import with_others
from training.stages.partner_estimates import PartnerEstimates
from training.stages.reconstruction import PatchPCA, num_pictures, psnr
from training.stages.rows import has_rows, held_out, num_rows, rows_in_words, with_partners

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO


@pytest.fixture
def data(tmp_path):
    """Two pictures with captions, a caption, a clip that may have a sound, and one that has none."""
    for number in range(2):
        picture = torch.full((3, 8, 8), 100 * number, dtype=torch.uint8)
        save_image(tmp_path / f"{number}.png", picture)
    rows = [{"image": f"{number}.png", "captions": [f"number {number}", "a number"]} for number in range(2)]
    rows += [{"caption": "words alone"}, {"video": "a.mp4"}, {"video": "b.mp4", "silent": True}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"manifests": [str(path)], "check_files": False}


def test_rows_are_counted_by_their_media(data):
    assert [num_rows(data, media) for media in ([TEXT], [TEXT, IMAGE], [VIDEO], [AUDIO, VIDEO])] == [
        3,
        2,
        2,
        1,
    ]
    assert has_rows(data, [AUDIO, VIDEO]) and not has_rows(data, [IMAGE, AUDIO])
    expected = "5 rows: text 3, image 2, audio 1, video 2, text+image 2, audio+video 1; none has text+audio"
    assert rows_in_words(data).startswith(expected)
    # scenes show what the world lets them show together
    assert has_rows({}, [TEXT, AUDIO]) and not has_rows({}, [IMAGE, AUDIO])
    assert has_rows({**data, "world": {}}, [TEXT, AUDIO]) and rows_in_words({}) == ""


def test_a_manifest_that_was_written_again_is_read_again(data):
    path = data["manifests"][0]
    assert count_rows(data) == 5
    with open(path, "a") as stream:
        stream.write('{"caption": "one more"}\n')
    assert count_rows(data) == 6


def test_held_out_samples_share_all_settings_but_their_own(data):
    own = {"manifests": ["other.jsonl"], "workers": 1, "samples": 7}
    section = {
        **data,
        "workers": 5,
        "timeout": 9.0,
        "augment": {"flip": True},
        "world": {},
        "validation": own,
    }
    found, samples = held_out(section)
    assert samples == 7
    assert found == {"manifests": ["other.jsonl"], "workers": 1, "timeout": 9.0, "check_files": False}


def test_prompts_of_which_there_are_none_are_left_out_and_said(data, capsys):
    config = SimpleNamespace(data=data)
    shares = {"text": 0.5, "image": 0.3, "audio": 0.2}
    assert with_partners(config, TEXT, shares, "prompts") == {"text": 0.5, "image": 0.3}
    assert "no row has text and audio: left out of prompts" in capsys.readouterr().err
    assert with_partners(SimpleNamespace(data={}), TEXT, shares, "prompts") == shares


def test_a_cache_keeps_which_samples_have_a_medium(data, tmp_path):
    options = {**data, "media": ["image", "text"], "require": ["text"], "workers": 0, "shuffle": False}
    with open_source({**options, "geometry": {"image": {"size": 8}}}, seed=0) as source:
        encode = lambda batch: {"image": batch["image"].float().mean((2, 3))}
        build_cache(tmp_path / "cache", source, encode, 3, identity={}, shard_size=2)
        rows = {
            row["id"]: bool(has)
            for row, has in zip(*(source.fetch([0, 1, 2])[k] for k in ("rows", "image_mask")))
        }
    cached = CachedSource(tmp_path / "cache", ["image"], seed=0, facts=()).fetch(list(range(6)))
    assert {row["id"]: bool(has) for row, has in zip(cached.rows, cached["image_mask"])} == rows
    assert cached["image_mask"].dtype is torch.bool and sum(rows.values()) == 2
    assert "words alone" in cached["text"]


class Certain(torch.nn.Module):
    """An encoder that is certain of a token of its own at little noise, and of nothing at much."""

    def forward(self, x, t, context):
        return torch.where(t[:, None] < 900, torch.eye(4)[1], torch.zeros(4))


def test_a_sample_without_its_partner_keeps_its_prompt():
    from codi.diffusion import NoiseProcess
    from tests.tiny_pipeline import scheduler

    encoders = SimpleNamespace(by_modality=lambda: {IMAGE: Certain()})
    process = NoiseProcess.from_scheduler(scheduler())
    estimates = PartnerEstimates(TEXT, {"image": 1.0}, encoders, process, 1.0, None)
    context = torch.eye(4)[:1].expand(6, 1, 4)
    has = torch.tensor([True, False, True, False, True, False])
    fused = estimates(
        context,
        torch.zeros(6, dtype=torch.long),
        [TEXT] * 6,
        lambda partner, rows: torch.zeros(len(rows), 2),
        torch.Generator().manual_seed(0),
        lambda partner: has,
    )
    changed = (fused != context).flatten(1).any(1)
    assert changed.tolist() == has.tolist()


LATENTS = {
    "text": {"latent_shape": [8], "latent_rate": None, "tokens_per_step": 2},
    "audio": {"latent_shape": [2, 6, 2], "latent_rate": 5.0, "tokens_per_step": 1},
}


def encoders_of(*names, dim=16):
    torch.manual_seed(dim)
    made = NoisyLatentEncoders({name: LATENTS[name] for name in names}, context_dim=8, dim=dim, num_layers=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def test_noisy_latent_encoders_of_several_runs_come_together_in_one_folder(tmp_path):
    place = tmp_path / "noisy_latent_encoders"
    first, second = encoders_of("text"), encoders_of("text", "audio", dim=32)
    # nothing is there: what was built and did not train is left out
    alone = with_others(second, {AUDIO}, place)
    assert [*alone.towers] == ["audio"]
    assert with_others(first, {TEXT}, place) is first
    export_part(first, place, torch.float32)
    both = with_others(second, {AUDIO}, place)
    export_part(both, place, torch.float32)
    found = NoisyLatentEncoders.from_pretrained(place)
    assert set(found.towers) == {"text", "audio"}
    for name, origin in (("text", first), ("audio", second)):
        mine, theirs = (each.towers[name].state_dict() for each in (found, origin))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


class Captions:
    """A source of rows of captions."""

    infinite = True
    bad = 0
    rows = ({"id": "0", "captions": ["a dog barks loudly"]}, {"id": "1", "captions": ["rain", "it rains"]})

    def __len__(self):
        return 2

    def fetch(self, indices):
        rows = [self.rows[index % 2] for index in indices]
        return Batch(index=indices, named={"text": [row["captions"][0] for row in rows]}, rows=rows)

    def close(self):
        pass


def test_captions_without_pictures_come_in_two_wordings():
    pairs = SimpleNamespace(
        infinite=True, bad=0, fetch=lambda indices: {"captions": ["x"]}, __len__=lambda: 2
    )
    batch = WithSentences(pairs, Captions()).fetch([0, 1, 2, 3])
    assert batch["captions"] == ["x"] and batch["sentences"] == ["a dog barks loudly", "rain"] * 2
    assert batch["rewordings"][1::2] == ["it rains"] * 2
    for said in batch["rewordings"][::2]:
        assert set(said.split()) <= set("a dog barks loudly".split())
    others = np.tile(np.eye(2), (2, 2)) - np.eye(4)  # the same row once more, which is no negative
    assert batch["alike"].tolist() == others.astype(bool).tolist()
    shorter = [shortened("one two three four", seed) for seed in range(50)]
    assert len(set(shorter)) > 3 and all(shorter) and shorter[0] == shortened("one two three four", 0)
    assert {shortened("one", seed) for seed in range(20)} == {"one"}


def test_a_linear_autoencoder_of_patches():
    torch.manual_seed(0)
    pictures = torch.rand(5, 3, 8, 6) * 2 - 1
    whole = PatchPCA(pictures, (3 * 4 * 3, 2, 2))  # as many numbers as there are in a patch
    assert torch.allclose(whole.reconstruct(pictures), pictures, atol=1e-5)
    # patches that lie on a line need one number each
    flat = torch.rand(6, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
    assert torch.allclose(PatchPCA(flat, (1, 2, 2)).reconstruct(flat), flat, atol=1e-5)
    errors = [
        (PatchPCA(pictures, (d, 2, 2)).reconstruct(pictures) - pictures).square().mean() for d in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2] > 1e-3
    assert psnr(torch.full((4,), 0.04)) == pytest.approx(20.0)
    assert num_pictures((4, 16, 16)) == 256 and num_pictures((4, 512, 512)) == 16


def test_a_row_that_says_something_else_of_its_sound_is_an_error(data, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"video": "a.mp4", "silent": "yes"}\n')
    with pytest.raises(InputError, match="row 1: silent is 'yes': expected true"):
        count_rows({"manifests": [str(path)], "check_files": False})
