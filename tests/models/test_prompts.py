"""The prompt space: bridges, what is read of a sentence, time in the tower of clips, how prompts combine."""

import math

import pytest
import torch
from torch.nn import functional

from codi.models.conditioning import (
    Bridge,
    FrameSummary,
    TemporalAttention,
    TextTower,
    VisionTower,
    interpolate,
    null_prompt,
)
from codi.vocabulary import word_tokenizer
from tests import tiny_pipeline
from tests.models.shared import assert_near, depends_on, drawn, wake

WORDS = tiny_pipeline.WORDS
PIECES = ["r", "e", "d", "ed", "red", "b", "l", "u", "bl", "ue", "blue", " "]
SHAPE = dict(tiny_pipeline.TRANSFORMER, image_size=16, patch_size=8)


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    return {name: wake(tower.eval()) for name, tower in tiny_pipeline.towers().items()}


@pytest.fixture(scope="module")
def text(towers):
    return towers["text_tower"]


def vision(**options):
    torch.manual_seed(0)
    return VisionTower(SHAPE, max_frames=4, **options).eval()


def pieces_tokenizer():
    """A tokenizer of pieces of words, which reads any sentence of its letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *PIECES])}
    merges = [("e", "d"), ("r", "ed"), ("b", "l"), ("u", "e"), ("bl", "ue")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return tokenizer.to_str()


def test_tokens_are_of_length_one_and_centred_where_a_mean_was_measured():
    bridge, features = Bridge(4), drawn(50, 4) + 3
    assert torch.equal(bridge.center, torch.zeros(4))
    assert_near(bridge(features), functional.normalize(features, dim=-1))
    bridge.measure(features)
    assert_near(bridge.center, functional.normalize(features, dim=-1).mean(0))
    tokens = bridge(features)
    assert_near(tokens.norm(dim=-1), torch.ones(50))
    assert_near(bridge(7 * features), tokens)  # how long features are says nothing
    assert tokens.mean(0).norm() < 0.1 < 0.8 < functional.normalize(features, dim=-1).mean(0).norm()
    assert bridge(features.bfloat16()).dtype is torch.bfloat16


@torch.no_grad()
def test_a_sentence_has_one_token_whatever_stands_beside_it(text):
    sentences = ["a red ball", "blue cube bounces slowly at night", "sea"]
    tokens = text.embed(sentences)
    assert tokens.shape == (3, text.dim) and text.dim == tiny_pipeline.DIM and text.reads_words
    assert_near(tokens.norm(dim=-1), torch.ones(3))
    assert_near(tokens, torch.cat([text.embed([sentence]) for sentence in sentences]))
    assert_near(text.embed(["A red, shiny BALL!"]), tokens[:1])
    assert not torch.allclose(text.embed(["ball red a"]), tokens[:1], atol=1e-2)


@torch.no_grad()
def test_words_beyond_the_longest_sentence_are_not_read(text):
    longest = " ".join(WORDS[:7] * 2)  # 14 words and two ends are the 16 positions
    assert torch.equal(text.embed([f"{longest} sea night"]), text.embed([longest]))
    without_the_last = longest.rpartition(" ")[0]
    assert not torch.allclose(text.embed([without_the_last]), text.embed([longest]), atol=1e-3)
    assert text.read(longest).unread == () and text.read(f"{longest} sea night").unread == ("sea night",)
    reading = text.read("a red gizmo")
    assert (reading.num_words, reading.num_known, reading.num_read, reading.unread) == (3, 2, 2, ("gizmo",))


@torch.no_grad()
def test_a_tower_of_pieces_reads_every_word_and_says_what_is_too_long():
    torch.manual_seed(0)
    shape = dict(tiny_pipeline.TRANSFORMER, max_position_embeddings=5)
    tower = TextTower(shape, pieces_tokenizer()).eval()
    assert tower.vocabulary is None
    reading = tower.read("red blue red")
    assert (reading.num_words, reading.num_known, reading.num_read, reading.unread) == (3, 3, 3, ())
    assert tower.read("red blue red blue red").unread == ("blue red",)
    assert torch.equal(tower.embed(["red blue red blue red"]), tower.embed(["red blue red"]))
    assert_near(tower.embed(["red", "red blue red"])[:1], tower.embed(["red"]))


@torch.no_grad()
def test_attention_over_frames_is_torchs_and_starts_as_nothing():
    torch.manual_seed(0)
    layer, tokens = TemporalAttention(8, 2, max_frames=4), drawn(2, 3, 5, 8)
    assert torch.equal(layer(tokens), tokens)
    wake(layer)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.copy_(layer.to_qkv.weight)
    theirs.in_proj_bias.copy_(layer.to_qkv.bias)
    theirs.out_proj.load_state_dict(layer.to_out.state_dict())
    hidden = layer.norm(tokens) + layer.positions[:3]
    rows = hidden.transpose(1, 2).flatten(0, 1)  # one sequence of frames for each place
    assert_near(layer(tokens) - tokens, theirs(rows, rows, rows)[0].unflatten(0, (2, 5)).transpose(1, 2))


def test_a_place_sees_itself_in_all_frames_and_nothing_else():
    layer, tokens = wake(TemporalAttention(8, 2, max_frames=4)), drawn(2, 3, 5, 8)
    one = lambda tokens: layer(tokens)[:1, :1, 2]
    assert depends_on(one, tokens, axis=1) == [0, 1, 2]
    assert depends_on(one, tokens, axis=2) == [2] and depends_on(one, tokens, axis=0) == [0]


@torch.no_grad()
def test_a_summary_weighs_the_tokens_of_each_frame():
    torch.manual_seed(0)
    summary, tokens = FrameSummary(8, 2, 1, max_frames=4).eval(), drawn(2, 3, 5, 8)
    assert not summary(tokens).any()
    wake(summary)
    shares = summary.query(tokens).softmax(dim=2)
    pooled = [(shares[..., head, None] * tokens).sum(2) for head in range(2)]
    mixed = summary.layers(summary.mix(torch.cat(pooled, dim=-1)) + summary.positions[:3])
    assert_near(summary(tokens), summary.out(mixed.mean(1)))
    order = torch.tensor([4, 2, 0, 1, 3])
    assert_near(summary(tokens[:, :, order]), summary(tokens))  # tokens of a frame have no order
    assert not torch.allclose(summary(tokens.flip(1)), summary(tokens), atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1])
@torch.no_grad()
def test_an_untrained_clip_is_the_mean_of_its_pictures(layers):
    tower, clip = vision(summary_layers=layers), drawn(2, 3, 3, 16, 16).clamp(-1, 1)
    layer, frames = tower.vision.vision_model.post_layernorm, []
    hook = layer.register_forward_hook(lambda *call: frames.append(call[1][0]))
    tower.features(clip)
    for frame in clip.unbind(1):
        tower.features(frame)
    hook.remove()
    assert_near(frames[0], torch.stack(frames[1:]).mean(0))
    wake(tower)
    assert not torch.allclose(tower.features(clip), tower.features(clip.flip(1)), atol=1e-4)
    assert (tower.summary is None) == (layers == 0)


@torch.no_grad()
def test_a_picture_is_read_as_clip_reads_it():
    tower, pictures = vision(), drawn(2, 3, 16, 16).clamp(-1, 1)
    assert_near(tower.features(pictures), tower.vision(pixel_values=pictures).image_embeds)
    tower.bridge.center.fill_(0.1)
    tower.video_bridge.center.fill_(-0.1)
    features = tower.features(pictures)
    assert_near(tower.embed(pictures), tower.bridge(features))
    assert_near(tower.embed(pictures[:, None]), tower.video_bridge(features))
    assert not torch.allclose(tower.bridge(features), tower.video_bridge(features), atol=1e-2)


def test_learned_parts_of_clips_get_no_gradient_from_pictures():
    tower = wake(vision(summary_layers=1))
    tower.features(drawn(1, 3, 16, 16)).sum().backward()
    of_clips = [*tower.temporal.parameters(), *tower.summary.parameters()]
    assert all(parameter.grad is None for parameter in of_clips)
    tower.features(drawn(1, 2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in of_clips)


@torch.no_grad()
def test_a_sound_is_read_as_clap_reads_its_mel(towers):
    tower, sound = towers["audio_tower"], drawn(2, 8000).clamp(-1, 1)
    features = tower.audio(input_features=tower.log_mel(sound)[:, None], is_longer=None).audio_embeds
    assert_near(tower.features(sound), features)
    assert_near(tower.embed(sound), tower.bridge(features))
    assert_near(tower.embed(sound[1:]), tower.embed(sound)[1:])
    assert tower.dim == tiny_pipeline.DIM and not tower.reads_words


@torch.no_grad()
def test_shapes_for_a_dry_run_are_those_that_a_trunk_takes(towers):
    audio, vision_tower = towers["audio_tower"], towers["vision_tower"]
    assert audio.trunk_shape({"samples": 8000}) == (1, 100, 16) and audio.trunk_shape({}) == (1, 400, 16)
    assert vision_tower.trunk_shape({}) == (3, 32, 32) == vision_tower.trunk_shape({"frames": 9})
    assert vision_tower.trunk_shape({"frames": 3}, clips=True) == (3, 3, 32, 32)
    assert vision_tower.trunk_shape({}, clips=True) == (16, 3, 32, 32)
    assert vision_tower.trunk_shape({"frames": 1}, clips=True) == (3, 32, 32)
    for tower, shape in ((audio, (1, 100, 16)), (vision_tower, (3, 3, 32, 32))):
        assert tower.trunk(drawn(2, *shape)).shape == (2, tiny_pipeline.DIM)


@torch.no_grad()
def test_saved_and_loaded_towers_are_the_same(towers, tmp_path):
    raw = dict(
        text_tower=["a red ball"],
        vision_tower=drawn(1, 3, 3, 32, 32),
        audio_tower=drawn(1, 8000).clamp(-1, 1),
    )
    for name, tower in towers.items():
        tower.bridge.measure(drawn(9, tower.dim))
        tower.save_pretrained(tmp_path / name)
        again = type(tower).from_pretrained(tmp_path / name).eval()
        assert torch.equal(again.bridge.center, tower.bridge.center)
        assert_near(again.embed(raw[name]), tower.embed(raw[name]))
        tower.bridge.center.zero_()


def test_prompts_are_interpolated_by_their_share():
    a, b = functional.normalize(drawn(2, 3, 8), dim=-1)
    assert_near(interpolate([a, b], [1.0, 3.0]), (0.25 * a + 0.75 * b)[:, None])
    assert_near(interpolate([a, b], [2.0, 6.0]), interpolate([a, b], [1.0, 3.0]))
    assert torch.equal(interpolate([a], [5.0]), a[:, None]) and torch.equal(
        interpolate([a, b], [1, 0])[:, 0], a
    )
    brought_back = interpolate([a, b], [1.0, 1.0], normalise=True)
    assert_near(brought_back[:, 0], functional.normalize(a + b, dim=-1))
    angle = math.acos(float((a[0] * b[0]).sum()))
    assert interpolate([a, b], [1, 1])[0].norm().item() == pytest.approx(math.cos(angle / 2), abs=1e-5)
    with pytest.raises(ValueError, match="zip"):
        interpolate([a, b], [1.0])


def test_no_prompt_is_zeros_of_a_precision():
    null = null_prompt(2, 5, dtype=torch.bfloat16)
    assert null.shape == (2, 1, 5) and not null.any() and null.dtype is torch.bfloat16


def test_text_config_may_override_what_the_tokenizer_says():
    shape = dict(tiny_pipeline.TRANSFORMER, max_position_embeddings=8)
    own = TextTower(shape, word_tokenizer(WORDS)).text.config
    assert own.vocab_size == len(WORDS) + 4 and (own.pad_token_id, own.bos_token_id, own.eos_token_id) == (
        0,
        2,
        3,
    )
    assert TextTower(dict(shape, vocab_size=99), word_tokenizer(WORDS)).text.config.vocab_size == 99
