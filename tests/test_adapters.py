"""LoRA and learned words in a pipeline and at the command: what is loaded acts as trained, what is unloaded
leaves no trace to the bit.
"""

import json
import sys

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from codi import cli, io
from codi.adapters.files import LORA_FILE, WORDS_FILE, read_lora, save_lora, save_words
from codi.models import lora, words
from codi.models.released.towers import ReleasedTextTower
from codi.types import InputError, Modality
from codi.version import __version__
from tests import tiny_pipeline

CALL = dict(text="a red ball", outputs=list(Modality), num_inference_steps=2, seed=0, output_type="latent")
PARTS = ("text_denoiser", "vision_denoiser", "audio_denoiser")
GIZMO = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))


def latents(pipe, **changed):
    return pipe(**{**CALL, **changed}).latents


def same(a, b):
    return all(torch.equal(a[m], b[m]) for m in a)


def trained(pipe, part, joint=False, rank=2, seed=0):
    """A LoRA as after training: half-precision numbers in both halves."""
    denoiser = getattr(pipe, part)
    module = lora.add_lora(
        denoiser, lora.find_layers(denoiser, lora.ATTENTION, joint), rank=rank, alpha=2 * rank
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(0.2).half())
    return module


def write(pipe, folder, parts=PARTS):
    denoisers = {part: getattr(pipe, part) for part in parts}
    return save_lora(folder, denoisers, rank=2, alpha=4, base="tiny", targets=lora.ATTENTION)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, a LoRA of all its denoisers and one of the joint attention, two words, and what
    the first LoRA does.
    """
    folder = tmp_path_factory.mktemp("made")
    pipe = tiny_pipeline.pipeline()
    pipe.save_pretrained(folder / "model")
    for part in PARTS:
        trained(pipe, part)
    write(pipe, folder / "all")
    does = latents(pipe)
    joint = tiny_pipeline.pipeline()
    trained(joint, "vision_denoiser", joint=True, seed=1)
    write(joint, folder / "joint", ["vision_denoiser"])
    words.add_words(joint.text_tower, {"<gizmo>": GIZMO})
    save_words(folder / "words", joint.text_tower, base="tiny")
    return folder, does


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline.pipeline()


@pytest.fixture
def clean(pipe):
    yield pipe
    pipe.unload_lora_weights()
    pipe.unload_textual_inversion()


def error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# LoRA ------------------------------------------------------------------


def test_loaded_equals_trained_and_unloaded_equals_never_loaded(made, clean):
    folder, does = made
    before = {part: {k: v.clone() for k, v in getattr(clean, part).state_dict().items()} for part in PARTS}
    alone = latents(clean)
    assert clean.load_lora_weights(folder / "all") == "all"
    loaded = latents(clean)
    assert not same(loaded, alone) and all(torch.allclose(loaded[m], does[m], atol=1e-5) for m in does)
    clean.set_adapters("all", 0.0)
    assert same(latents(clean), alone) and clean.get_active_adapters() == []
    clean.set_adapters("all")
    assert same(latents(clean), loaded)
    clean.unload_lora_weights()
    assert same(latents(clean), alone)
    for part, state in before.items():
        now = getattr(clean, part).state_dict()
        assert list(now) == list(state) and all(torch.equal(now[name], state[name]) for name in state)


def test_loras_add_up_and_scales_act(made, clean):
    folder, _ = made
    alone = latents(clean)
    clean.load_lora_weights(folder / "joint", adapter_name="ear", scale=0.5)
    heard = latents(clean)
    apart = latents(clean, outputs=["image"])
    assert torch.equal(apart[Modality.IMAGE], latents(clean, outputs=["image"])[Modality.IMAGE])
    clean.load_lora_weights(folder / "all", scale=0.0)
    assert same(latents(clean), heard) and not same(heard, alone) and clean.get_active_adapters() == ["ear"]
    clean.set_adapters(["ear", "all"], [0.5, 0.3])
    both = latents(clean)
    assert not same(both, heard)
    clean.delete_adapters("all")
    assert same(latents(clean), heard)
    assert "no LoRA named 'all'" in error(clean.set_adapters, "all")
    clean.unload_lora_weights()
    assert same(latents(clean), alone)


def test_a_lora_of_the_joint_attention_does_nothing_to_a_modality_alone(made, clean):
    folder, _ = made
    alone = latents(clean, outputs=["image"])
    clean.load_lora_weights(folder / "joint", scale=3.0)
    assert same(latents(clean, outputs=["image"]), alone)


def test_convolutions_can_have_one_too(clean, tmp_path):
    donor = tiny_pipeline.pipeline()
    module = lora.add_lora(
        donor.audio_denoiser, lora.find_layers(donor.audio_denoiser, ["conv1"], joint=False), rank=2, alpha=4
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.125)
    write(donor, tmp_path, ["audio_denoiser"])
    alone = latents(clean, outputs=["audio"])
    clean.load_lora_weights(tmp_path)
    loaded, does = (latents(p, outputs=["audio"])[Modality.AUDIO] for p in (clean, donor))
    assert torch.allclose(loaded, does, atol=1e-5) and not torch.allclose(
        loaded, alone[Modality.AUDIO], atol=1e-3
    )


def test_the_file_is_small_and_says_what_it_is(made):
    path = made[0] / "all" / LORA_FILE
    with safe_open(path, framework="pt") as file:
        header, names = file.metadata(), list(file.keys())
    assert header["base_model"] == "tiny" and (header["rank"], header["alpha"], header["codi_version"]) == (
        "2",
        "4",
        __version__,
    )
    assert json.loads(header["target_modules"]) == sorted(lora.ATTENTION)
    config = json.loads(header["lora_adapter_metadata"])
    assert config["audio_denoiser.r"] == 2 and {name.split(".")[0] for name in names} == set(PARTS)
    assert (
        all(tensor.dtype == torch.float16 for tensor in load_file(path).values())
        and path.stat().st_size < 1 << 20
    )


def test_a_lora_fits_its_model_in_any_precision_and_no_other(made, clean, tmp_path):
    folder, _ = made
    half = tiny_pipeline.pipeline().to(torch.bfloat16)
    half.load_lora_weights(folder / "all")
    other = tiny_pipeline.pipeline(seed=1)
    message = error(other.load_lora_weights, folder / "all")
    assert "trained on the model 'tiny'" in message and "other weights" in message
    assert other.get_active_adapters() == [] and not hasattr(other.vision_denoiser, "peft_config")
    other.load_lora_weights(folder / "all", any_base=True)
    clean.text_denoiser, kept = None, clean.text_denoiser
    assert "'text_denoiser'" in error(clean.load_lora_weights, folder / "all")
    clean.text_denoiser = kept


def test_a_damaged_lora_is_named(made, clean, tmp_path):
    source = made[0] / "all" / LORA_FILE
    with safe_open(source, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(source)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    cases = {
        "cut": (source.read_bytes()[:-100], "promises"),
        "nan": ({**tensors, name: tensors[name] * float("nan")}, "not finite"),
        "half": ({n: t for n, t in tensors.items() if n != name}, "lora_B"),
        "shape": ({**tensors, name: tensors[name][:-1].contiguous()}, "would fit"),
    }
    for case, (content, expected) in cases.items():
        path = tmp_path / case / LORA_FILE
        path.parent.mkdir()
        path.write_bytes(content) if isinstance(content, bytes) else save_file(content, path, metadata=header)
        assert expected in error(clean.load_lora_weights, path.parent)
    save_file(tensors, tmp_path / "bare.safetensors")
    assert "no adapter of codi" in error(clean.load_lora_weights, tmp_path / "bare.safetensors")
    assert LORA_FILE in error(clean.load_lora_weights, tmp_path) and clean.get_active_adapters() == []


def test_a_place_that_cannot_be_written(tmp_path):
    pipe = tiny_pipeline.pipeline()
    trained(pipe, "text_denoiser")
    (tmp_path / LORA_FILE).mkdir()
    assert "cannot write" in error(write, pipe, tmp_path, ["text_denoiser"])


def test_without_peft_it_says_what_to_install(made, clean, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install 'peft>=0.21.2'" in error(clean.load_lora_weights, made[0] / "all")


def test_a_model_is_not_saved_with_adapters_in_it(made, clean, tmp_path):
    clean.load_lora_weights(made[0] / "all")
    assert "unload_lora_weights" in error(clean.save_pretrained, tmp_path / "a")
    clean.unload_lora_weights()
    clean.load_textual_inversion(made[0] / "words")
    assert (
        "unload_textual_inversion" in error(clean.save_pretrained, tmp_path / "a")
        and not (tmp_path / "a").exists()
    )


# As diffusers has it ---------------------------------------------------


def weights(pipe):
    """The tensors of all denoisers without those of a LoRA, by name, as they are now."""
    state = {
        f"{part}.{name}": tensor
        for part in PARTS
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in state.items()
        if ".lora_" not in name
    }


def close(a, b):
    return all(torch.allclose(a[m], b[m], atol=1e-5) for m in a)


def test_fused_equals_loaded_and_unfused_is_the_original_to_the_bit(made, clean):
    alone, before = latents(clean), weights(clean)
    clean.load_lora_weights(made[0] / "all", scale=0.7)
    loaded = latents(clean)
    clean.fuse_lora()
    assert clean.fused_loras == {"all"} and clean.num_fused_loras == 1
    assert close(latents(clean), loaded) and not close(alone, loaded)
    assert not all(torch.equal(before[name], now) for name, now in weights(clean).items())
    clean.unfuse_lora()
    assert all(torch.equal(before[name], now) for name, now in weights(clean).items())
    assert same(latents(clean), loaded) and clean.num_fused_loras == 0
    clean.unload_lora_weights()
    assert same(latents(clean), alone)


def test_fused_and_unloaded_is_a_model_of_its_own(made, tmp_path):
    fresh = tiny_pipeline.pipeline()
    fresh.load_lora_weights(made[0] / "all", adapter_name="a")
    loaded = latents(fresh)
    fresh.fuse_lora()
    assert "call unfuse_lora() before it is saved" in error(
        fresh.save_pretrained, tmp_path / "m"
    ) and not list(tmp_path.iterdir())
    fused = latents(fresh)
    fresh.unload_lora_weights()
    assert same(latents(fresh), fused) and close(fused, loaded) and fresh.get_list_adapters() == {}
    assert "load the model again" in error(fresh.unfuse_lora)
    fresh.save_pretrained(tmp_path / "m")
    again = type(fresh).from_pretrained(tmp_path / "m")
    again.set_progress_bar_config(disable=True)
    assert all(torch.equal(now, weights(fresh)[name]) for name, now in weights(again).items())
    assert close(latents(again), fused)


def test_some_are_fused_into_some_parts_and_the_others_go_on(made, clean):
    clean.load_lora_weights(made[0] / "all", "a", scale=0.5)
    clean.load_lora_weights(made[0] / "joint", "ear", scale=0.5)
    both = latents(clean)
    clean.fuse_lora(components=["vision_denoiser"], adapter_names=["a"])
    assert close(latents(clean), both) and clean.fused_loras == {"a"}
    clean.unfuse_lora(components="vision_denoiser")
    assert same(latents(clean), both)
    before = weights(clean)
    clean.fuse_lora(components=["audio_denoiser"] * 2, adapter_names=["a", "a"])
    assert close(latents(clean), both)
    clean.unfuse_lora()
    assert all(torch.equal(before[name], now) for name, now in weights(clean).items())
    clean.fuse_lora(lora_scale=0.5)
    half = latents(clean)
    clean.unfuse_lora()
    clean.set_adapters(["a", "ear"], [0.25, 0.25])
    assert close(half, latents(clean)) and not close(half, both)


def test_what_is_fused_is_left_alone_until_it_is_unfused(made, clean):
    clean.load_lora_weights(made[0] / "all", "a")
    clean.fuse_lora()
    calls = [clean.fuse_lora, clean.disable_lora, clean.enable_lora]
    for call in (*calls, lambda: clean.set_adapters("a", 0.1), lambda: clean.delete_adapters("a")):
        assert "LoRA a is fused: call unfuse_lora() before" in error(call)
    assert "is fused" in error(clean.load_lora_weights, made[0] / "joint")
    clean.unfuse_lora()
    clean.set_adapters("a", 0.0)
    assert "no LoRA is active" in error(clean.fuse_lora) and "not active" in error(
        clean.fuse_lora, adapter_names="a"
    )
    clean.set_adapters("a")
    assert "'vision_tower'" in error(clean.fuse_lora, components=["vision_tower"])
    before = weights(clean)
    assert "not finite" in error(clean.fuse_lora, lora_scale=1e39)
    assert (
        all(torch.equal(before[name], now) for name, now in weights(clean).items()) and not clean.fused_loras
    )


def test_disabled_and_enabled_again(made, clean):
    alone = latents(clean)
    clean.load_lora_weights(made[0] / "all", "a", scale=0.5)
    loaded = latents(clean)
    assert clean.get_list_adapters() == {part: ["a"] for part in PARTS} and clean.get_active_adapters() == [
        "a"
    ]
    clean.disable_lora()
    assert (
        same(latents(clean), alone)
        and clean.get_active_adapters() == []
        and len(clean.get_list_adapters()) == 3
    )
    clean.enable_lora()
    assert same(latents(clean), loaded)


def test_files_of_other_names(made, clean, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.safetensors").write_bytes((made[0] / "all" / LORA_FILE).read_bytes())
    (tmp_path / "sub" / "w.safetensors").write_bytes((made[0] / "words" / WORDS_FILE).read_bytes())
    folder = str(tmp_path / "sub")
    assert clean.load_lora_weights(folder, weight_name="x.safetensors", adapter_name="a") == "a"
    assert clean.load_lora_weights(str(tmp_path), subfolder="sub", weight_name="x.safetensors") == "x"
    assert (
        clean.load_lora_weights(tmp_path / "sub" / "x.safetensors", "b", weight_name="x.safetensors") == "b"
    )
    assert clean.load_textual_inversion(folder, "<thing>", weight_name="w.safetensors") == ["<thing>"]
    assert "no y.safetensors at" in error(clean.load_lora_weights, folder, weight_name="y.safetensors")
    assert "another name" in error(
        clean.load_lora_weights, tmp_path / "sub" / "x.safetensors", weight_name="y.safetensors"
    )
    assert "dict instead of a folder" in error(clean.load_lora_weights, {"a": 1})
    assert "list instead of a folder" in error(clean.load_textual_inversion, [folder])


def test_scales_are_one_number_for_a_lora(made, clean):
    clean.load_lora_weights(made[0] / "all", "a", scale=numpy.float32(0.5))
    loaded = latents(clean)
    clean.set_adapters("a", numpy.float64(0.5))
    assert same(latents(clean), loaded)
    clean.set_adapters(["a"], torch.tensor([0.5]))
    assert same(latents(clean), loaded)
    for scales in ({"vision_denoiser": 0.5}, [{"vision_denoiser": 0.5}]):
        assert "expected a finite number for all of it" in error(clean.set_adapters, "a", scales)


@pytest.mark.parametrize("again", ["from_pipe", "components"])
def test_pipelines_of_the_same_parts_have_the_same_adapters(made, clean, tmp_path, again):
    """Adapters belong to the parts, however the second pipeline was made of them."""
    before = latents(clean)
    clean.load_lora_weights(made[0] / "all", scale=0.7)
    clean.load_lora_weights(made[0] / "joint", scale=0.0)
    clean.load_textual_inversion(made[0] / "words")
    other = type(clean).from_pipe(clean) if again == "from_pipe" else type(clean)(**clean.components)
    assert other.get_active_adapters() == ["all"] and same(latents(other), latents(clean))
    for pipe in (clean, other):
        assert (
            "unload_lora_weights" in error(pipe.save_pretrained, tmp_path / "a")
            and not (tmp_path / "a").exists()
        )
        assert "not in use (in use: all, joint)" in error(
            pipe.load_lora_weights, made[0] / "all", adapter_name="all"
        )
    other.set_adapters(["joint", "all"], [0.5, 0.3])
    assert clean.get_active_adapters() == ["all", "joint"]
    clean.delete_adapters("all")
    assert other.get_active_adapters() == ["joint"] and "no LoRA named 'all'" in error(
        other.set_adapters, "all"
    )
    heard = latents(other)
    assert clean.load_lora_weights(made[0] / "all", scale=0.0) == "all"
    assert same(latents(other), heard)  # what one loads leaves the scales of what the other loaded
    other.unload_lora_weights()
    assert clean.get_active_adapters() == []
    assert "unload_textual_inversion" in error(clean.save_pretrained, tmp_path / "a")
    clean.unload_textual_inversion()
    assert same(latents(other), before)
    other.save_pretrained(tmp_path / "a")
    assert type(clean).from_pretrained(tmp_path / "a").get_active_adapters() == []


def test_a_pipeline_with_another_part_has_the_adapters_of_the_others(made, clean):
    clean.load_lora_weights(made[0] / "all")
    other = type(clean).from_pipe(clean, vision_denoiser=tiny_pipeline.pipeline().vision_denoiser)
    other.load_lora_weights(made[0] / "joint")
    assert other.get_active_adapters() == ["all", "joint"] or other.get_active_adapters() == ["joint", "all"]
    assert clean.get_active_adapters() == ["all"]
    other.unload_lora_weights()
    assert clean.get_active_adapters() == ["all"] and list(clean.vision_denoiser.peft_config) == ["all"]
    assert not getattr(clean.text_denoiser, "peft_config", None)


def test_a_lora_that_was_put_into_a_part_by_other_means_is_seen(clean, tmp_path):
    trained(clean, "vision_denoiser")
    assert clean.get_active_adapters() == [lora.TRAINED]
    assert "unload_lora_weights" in error(clean.save_pretrained, tmp_path / "a")


# Words -----------------------------------------------------------------


def test_a_word_acts_where_it_stands_and_nowhere_else(made, clean):
    tower = clean.text_tower
    plain, unknown = tower.embed(["a red ball"]), tower.embed(["a <gizmo> ball"])
    assert clean.load_textual_inversion(made[0] / "words") == ["<gizmo>"]
    assert torch.equal(tower.embed(["a red ball"]), plain)
    assert not torch.allclose(tower.embed(["a <gizmo> ball"]), unknown)
    assert torch.equal(tower.embed(["A <Gizmo> ball"]), tower.embed(["a <gizmo> ball"]))
    ids = tower.tokenizer(["a <gizmo>, <gizmo>"]).input_ids[0]
    count = tower.text.config.vocab_size
    assert [i for i in ids if i >= count] == [count, count + 1] * 2
    rows = tower.text.get_input_embeddings()(torch.tensor([[count, count + 1]]))[0]
    assert torch.equal(rows, GIZMO)
    clean.unload_textual_inversion()
    assert torch.equal(tower.embed(["a <gizmo> ball"]), unknown)


def test_words_may_be_renamed_and_joined_but_not_known_already(made, clean):
    clean.load_textual_inversion(made[0] / "words", token="sparkle")
    clean.load_textual_inversion(made[0] / "words")
    tower = clean.text_tower
    assert torch.allclose(tower.embed(["a sparkle ball"]), tower.embed(["a <gizmo> ball"]), atol=1e-6)
    assert "known to this model already" in error(clean.load_textual_inversion, made[0] / "words")
    assert "known to this model already" in error(
        clean.load_textual_inversion, made[0] / "words", token="Ball"
    )
    assert "(k, 32)" in error(words.add_words, tower, {"<wide>": torch.zeros(1, 33)})
    assert "one word" in error(words.add_words, tower, {"two words": torch.zeros(1, 32)})
    other = tiny_pipeline.pipeline(seed=1)
    assert "trained on the model 'tiny'" in error(other.load_textual_inversion, made[0] / "words")


def test_the_released_tower_reads_a_sentence_with_a_new_word_at_its_end():
    """Its rule, the place of the largest token id, would read it at the new word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["a", "red", "ball", "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = [("<|startoftext|>", 3), ("<|endoftext|>", 4)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=frame
    )
    torch.manual_seed(0)
    shape = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=8
    )
    tower = ReleasedTextTower(dict(shape, vocab_size=5, max_position_embeddings=8), tokenizer.to_str()).eval()
    plain = tower.embed(["a red ball"])
    words.add_words(tower, {"<gizmo>": tower.text.get_input_embeddings().weight[2:3].detach().clone()})
    assert torch.equal(tower.embed(["a red ball"]), plain)
    assert torch.allclose(tower.embed(["a red <gizmo>"]), plain, atol=1e-6)
    words.remove_words(tower)
    assert torch.equal(tower.embed(["a red ball"]), plain)


# The command -----------------------------------------------------------


def generate(folder, out, *more):
    steps = ("--steps", "2", "--device", "cpu", "--quiet", "--model", str(folder / "model"))
    return cli.main(["generate", "--text", "a <gizmo> ball", "--to", "image", "-o", str(out), *steps, *more])


def test_the_command_takes_loras_and_words(made, tmp_path, capsys):
    folder, _ = made
    given = [
        "--lora",
        f"{folder / 'all'}::0.5",
        "--lora",
        str(folder / "joint"),
        "--words",
        str(folder / "words"),
    ]
    assert generate(folder, tmp_path / "with", *given) == 0 and generate(folder, tmp_path / "without") == 0
    model = json.loads((tmp_path / "with" / "manifest.json").read_text())["model"]
    assert [row["scale"] for row in model["loras"]] == [0.5, 1.0] and model["words"][0]["path"].endswith(
        WORDS_FILE
    )
    assert "loras" not in json.loads((tmp_path / "without" / "manifest.json").read_text())["model"]
    assert not torch.equal(*(io.load_image(tmp_path / name / "000.png") for name in ("with", "without")))


@pytest.mark.parametrize(
    "given, expected",
    [
        (["--lora", "nowhere"], "pytorch_lora_weights.safetensors at nowhere"),
        (["--lora", "nowhere::much"], "folder::scale"),
        (["--words", "nowhere"], "learned_embeds.safetensors at nowhere"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(made, tmp_path, capsys, given, expected):
    assert generate(made[0], tmp_path / "out", *given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and expected in lines[0] and not [*(tmp_path / "out").glob("*")]


def test_jobs_are_made_again_with_another_lora(made, tmp_path, capsys):
    folder, _ = made
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"id": "a", "text": "a red ball", "to": "image"}\n')
    arguments = [
        "--jobs",
        str(jobs),
        "-o",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--quiet",
        "--model",
        str(folder / "model"),
    ]

    def makes(*given):
        capsys.readouterr()
        assert cli.main(["generate", *arguments, *given]) == 0
        return bool(capsys.readouterr().out.strip())

    weak, strong = (("--lora", f"{folder / 'all'}::{scale}") for scale in (0.5, 1))
    assert [makes(*weak), makes(*weak)] == [True, False]
    assert (
        cli.main(["generate", *arguments, *strong]) == 2
        and "was not made by this request" in capsys.readouterr().err
    )
    assert [makes(*strong, "--overwrite"), makes("--overwrite"), makes()] == [True, True, False]


def test_a_record_brings_its_adapters(made, tmp_path, capsys):
    given = ("--lora", f"{made[0] / 'all'}::0.5", "--text", "a red ball", "--to", "image")
    arguments = ["--steps", "2", "--quiet", "--model", str(made[0] / "model")]
    assert cli.main(["generate", *given, *arguments, "-o", str(tmp_path / "a")]) == 0
    assert (
        cli.main(
            ["generate", "--from", str(tmp_path / "a" / "000.png"), "-o", str(tmp_path / "b"), "--quiet"]
        )
        == 0
    )
    assert (tmp_path / "a" / "000.png").read_bytes() == (tmp_path / "b" / "000.png").read_bytes()
    row = json.loads(io.read_text(tmp_path / "a" / "000.png"))
    row["model"]["loras"][0]["sha256"] = "0" * 64
    (tmp_path / "x.json").write_text(json.dumps(row))
    capsys.readouterr()
    assert (
        cli.main(["generate", "--from", str(tmp_path / "x.json"), "-o", str(tmp_path / "b"), "--quiet"]) == 0
    )
    assert "pytorch_lora_weights.safetensors has changed since" in capsys.readouterr().err


def test_what_was_read_is_what_was_written(made):
    found = read_lora(made[0] / "all")
    assert set(found.parts) == set(PARTS) and found.rank == 2 and found.alpha == 4
