"""What outputs are given of themselves: read in every form, kept to the bit, refused in one line."""

import argparse
import json

import pytest
import torch
from PIL import Image

from codi import cli, jobs, read_record, vary
from codi.conditions import regions
from codi.conditions.regions import Geometry
from codi.edits import Edits, typed_boxes, typed_keyframes, typed_regions
from codi.types import InputError, Modality, ModalitySpec
from tests import tiny_pipeline

IMAGE, AUDIO, VIDEO, TEXT = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO, Modality.TEXT
SPECS = {
    TEXT: ModalitySpec(raw_shape=(), latent_shape=(16,)),
    IMAGE: ModalitySpec(raw_shape=(3, 32, 32), latent_shape=(4, 8, 8)),
    AUDIO: ModalitySpec(raw_shape=(8000,), latent_shape=(4, 50, 4), rate=16000.0, latent_rate=100.0),
    VIDEO: ModalitySpec(raw_shape=(4, 3, 32, 32), latent_shape=(4, 4, 8, 8), rate=8.0, latent_rate=8.0),
}
OUTPUTS = tuple(SPECS)
QUICK = dict(num_inference_steps=2, seed=0, output_type="pt")
STEPS = ("--steps", "2", "--device", "cpu", "--quiet")


def settled(**given) -> Edits:
    return Edits.from_arguments(**given).settled(OUTPUTS, SPECS)


def only(modality, **given):
    return settled(**given).by_output[modality]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline.pipeline()


@pytest.fixture(scope="module")
def media():
    draw = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8, generator=draw),
        "audio": torch.rand(8000, generator=draw) * 1.6 - 0.8,
        "video": torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8, generator=draw),
        "text": "a blue cube",
    }


# Reading ---------------------------------------------------------------


def test_every_form_of_a_region():
    forms = {
        "whole": True,
        "interval": (0, 1.2),
        "box": (0, 0, 0.5, 1),
        "frame": 3,
        "mask": torch.ones(32, 32, dtype=torch.bool),
    }
    for kind, value in forms.items():
        for given in (value, [value]):
            edits = Edits.from_arguments(start={"video": "a.mp4"}, keep={"video": given})
            assert [region.kind for region in edits.by_output[VIDEO].keep] == [kind]
    edits = Edits.from_arguments(
        start={"video": "a.mp4"}, keep={"video": [(0, 0.2), [0, 0, 1, 0.5], 3, "m.png"]}
    )
    assert [region.kind for region in edits.by_output[VIDEO].keep] == ["interval", "box", "frame", "mask"]


def test_strength_has_a_default_for_what_is_kept_and_for_what_is_not():
    both = settled(start={"image": "a.png", "audio": "a.wav"}, keep={"audio": (0, 0.2)})
    assert both.by_output[IMAGE].strength == 0.8 and both.by_output[AUDIO].strength == 1.0
    assert only(IMAGE, start={"image": "a.png"}, strength={"image": 0.3}).strength == 0.3
    assert only(IMAGE, start={"image": "a.png"}, strength=0).strength == 0.0


def test_frames_are_counted_from_either_end_or_by_seconds():
    pictures = {0: "a.png", -1: "b.png", 0.25: "c.png"}
    edit = only(VIDEO, keyframes={"video": pictures})
    assert [when for when, _ in edit.keyframes] == [0, 3, 2]
    texts = {"0": "a.png", "-1": "b.png", "0.25": "c.png"}
    assert only(VIDEO, keyframes={"video": texts}).keyframes == edit.keyframes
    assert [when for when, _ in only(VIDEO, keyframes={"video": {"0.125s": "a.png"}}).keyframes] == [1]


def test_a_prompt_stands_for_a_start_of_which_a_part_is_kept():
    edits = Edits.from_arguments(inputs={AUDIO: "a.wav"}, keep={"audio": (0, 1)})
    assert str(edits.by_output[AUDIO].source) == "a.wav"
    assert not Edits.from_arguments(inputs={AUDIO: "a.wav"}).by_output


def test_what_is_typed_means_the_same():
    texts = ["audio=0:1.2", "image=0,0,0.5,1", "video=3", "image=mask.png", "text=all"]
    assert typed_regions(texts) == {
        "audio": [(0.0, 1.2)],
        "image": [(0.0, 0.0, 0.5, 1.0), "mask.png"],
        "video": [3],
        "text": [True],
    }
    frames = typed_keyframes(["0=a.png", "video:-1=b=c.png", "1.5s=d.png"])
    assert frames == {"video": {"0": "a.png", "-1": "b=c.png", "1.5s": "d.png"}}
    assert typed_boxes(["image=0.25,0,0.75,1"]) == {"image": [0.25, 0.0, 0.75, 1.0]}


PHOTO = {"image": "a.png"}
CLIP = {"video": "a.mp4"}
SOUND = {"audio": "a.wav"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(start="a.png"), "start is a str: expected a dict such as"),
        (dict(start={"smell": "a"}), "unknown modality 'smell'"),
        (dict(strength=0.5), "strength was given without a start"),
        (dict(start=PHOTO, strength=1.5), "strength of image is 1.5: expected 0 to 1"),
        (dict(start=PHOTO, strength=-1), "strength of image is -1: expected a finite number"),
        (dict(start=PHOTO, strength={"audio": 0.5}), "strength names audio, which has no start"),
        (dict(keep={"image": (0, 0, 1, 0.5)}), "there is no image of which a part could be kept"),
        (dict(start=PHOTO, keep={"image": (0, 0, 2, 1)}), "keep of image is .*expected a box"),
        (dict(start=PHOTO, keep={"image": (0.5, 0, 0.5, 1)}), "expected a box"),
        (dict(start=PHOTO, keep={"image": []}), "keep of image is empty"),
        (dict(start=PHOTO, keep={"image": 0.5}), "keep of image is 0.5: expected True, seconds"),
        (dict(start=PHOTO, keep={"image": False}), "keep of image is False"),
        (dict(start=PHOTO, keep={"image": (0, 1)}), "of the kind interval: expected one of whole, box, mask"),
        (dict(start=PHOTO, keep={"image": 3}), "of the kind frame"),
        (dict(start={"text": "a ball"}, keep={"text": (0, 1)}), "expected one of whole$"),
        (dict(start=SOUND, keep={"audio": (0, 0, 1, 1)}), "of the kind box: expected one of whole, interval"),
        (dict(start=SOUND, keep={"audio": (0.3, 0.1)}), "expected seconds .begin, end., the first below"),
        (dict(start=SOUND, keep={"audio": (0, 0.1, 0.2)}), "expected seconds"),
        (dict(start=SOUND, keep={"audio": (0, 3)}), "ends at 3 s, beyond the end: it lasts 0.5 s"),
        (dict(start=CLIP, keep={"video": 4}), "frame 4 of video lies beyond the end: it has frames 0 to 3"),
        (dict(keyframes={"image": {0: "a.png"}}), "image has no frames"),
        (dict(keyframes={"video": "a.png"}), "keyframes of video is 'a.png': expected a dict"),
        (dict(keyframes={"video": {"x": "a.png"}}), "keyframes of video names 'x': expected the number"),
        (dict(keyframes={"video": {9: "a.png"}}), "frame 9 of video lies beyond the end"),
        (dict(keyframes={"video": {2.0: "a.png"}}), "2 s of video lies beyond the end"),
        (dict(keyframes={"video": {3: "a.png", -1: "b.png"}}), "keyframes of video overlap: two are frame 3"),
        (dict(keyframes={"video": {0: None}}), "the keyframe at 0 of video is missing"),
        (
            dict(start=CLIP, keep={"video": (0, 0.3)}, keyframes={"video": {1: "a"}}),
            "is a keyframe and is kept",
        ),
        (dict(start=CLIP, keep={"video": True}, keyframes={"video": {1: "a"}}), "is a keyframe and is kept"),
        (dict(keyframes={"video": {1: "a"}}, strength={"video": 0.5}), "strength names video"),
        (dict(start=SOUND, canvas={"audio": (0, 0, 1, 1)}), "canvas names audio, which has no places"),
        (dict(start=PHOTO, canvas={"image": (0, 0, 1)}), "canvas of image is .*expected a box"),
        (dict(start=PHOTO, canvas={"image": (0, 0, 0.5, 1)}, strength=0.5), "part of it starts from nothing"),
        (dict(start=PHOTO, resample_steps=2), "resample_steps was given and nothing is kept"),
        (dict(source_prompt="a ball"), "source_prompt was given without a start"),
        (dict(start=PHOTO, source_prompt=" "), "source_prompt of image is ' ': expected a sentence"),
        (dict(start=PHOTO, source_prompt={"image": 3}), "source_prompt of image is 3: expected a sentence"),
        (dict(start=PHOTO, source_prompt={"audio": "a"}), "source_prompt names audio, which has no start"),
        (
            dict(start=PHOTO, source_prompt="a ball", canvas={"image": (0, 0, 0.5, 1)}),
            "source_prompt of image beside a canvas",
        ),
        (dict(start=PHOTO, keep={"image": (0, 0, 1, 0.5)}, resample_steps=0), "a whole number from 1 to 100"),
    ],
)
def test_what_cannot_be_meant_is_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        settled(**given)
    assert "\n" not in str(caught.value)


def test_what_is_not_made_has_no_start():
    with pytest.raises(InputError, match="audio is given a start.*but is not made: expected some of image"):
        Edits.from_arguments(start=SOUND).settled([IMAGE], SPECS)


@pytest.mark.parametrize(
    ("call", "text", "message"),
    [
        (typed_regions, "audio", "--keep 'audio': expected an output and its part"),
        (typed_regions, "smell=0:1", "unknown modality"),
        (typed_keyframes, "0=", "--keyframe '0=': expected a frame and a picture"),
        (typed_boxes, "image=a", "--canvas 'image=a': expected four fractions"),
    ],
)
def test_what_is_mistyped_is_one_line(call, text, message):
    with pytest.raises(InputError, match=message):
        call([text])


def test_a_frame_that_is_typed_twice_is_one_line():
    with pytest.raises(InputError, match="names 0 of video twice"):
        typed_keyframes(["0=a.png", "0=b.png"])


# Masks -----------------------------------------------------------------


def geometry(modality) -> Geometry:
    return Geometry(spec=SPECS[modality], spatial=modality in (IMAGE, VIDEO))


def test_masks_are_rounded_towards_remaking():
    assert regions.interval_mask(geometry(VIDEO), 0.1, 0.3).flatten(1).all(1).tolist() == [
        False,
        True,
        False,
        False,
    ]
    sound = regions.interval_mask(geometry(AUDIO), 0.0501, 0.1)
    assert sound.nonzero().min() == 802 and sound.nonzero().max() == 1599
    box = regions.box_mask(geometry(IMAGE), (0.01, 0, 0.99, 0.5))
    assert box[0].tolist() == [False] + [True] * 30 + [False] and not box[16:].any()


def test_an_element_of_the_latent_is_known_only_if_all_of_it_is_kept():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:, :15] = True  # elements are 4 x 4 pixels
    known = regions.latent_grid(mask, None, (8, 8))
    assert known.shape == (1, 8, 8) and known[0, 0].tolist() == [True] * 3 + [False] * 5
    sound = regions.interval_mask(geometry(AUDIO), 0.005, 0.1)  # columns are 0.01 s
    edges = regions.even_edges(geometry(AUDIO), 50)
    columns = regions.latent_grid(sound, edges, None)
    assert columns.shape == (50, 1, 1) and columns.flatten().nonzero().flatten().tolist() == list(
        range(1, 10)
    )
    assert regions.known_seconds(columns, edges, 16000.0) == ((0.01, 0.1),)
    assert regions.nearest_known(columns)[[0, 5, 40]].tolist() == [1, 5, 9]


def test_a_mask_is_cut_and_resized_like_its_picture():
    kept = torch.zeros(64, 96, dtype=torch.bool)
    kept[:, :48] = True
    fitted = regions.fitted_mask(kept, geometry(IMAGE))  # the central 64 x 64, halved
    assert fitted.shape == (32, 32) and fitted[:, :15].all() and not fitted[:, 16:].any()


def test_a_sound_is_put_back_with_a_crossfade_on_the_remade_side():
    mask = regions.interval_mask(geometry(AUDIO), 0.1, 0.3)
    source, made = torch.ones(1, 8000), torch.zeros(2, 8000)
    out = regions.pasted(made, source, mask, geometry(AUDIO))
    assert (out[:, mask] == 1).all()
    fade = round(regions.CROSSFADE * 16000)
    assert (out[:, 4800 + fade :] == 0).all() and (out[:, : 1600 - fade] == 0).all()
    assert (out[0, 4800 : 4800 + fade].diff() < 0).all()


def test_the_seam_of_a_picture_lies_inside_and_hides_a_difference():
    mask = regions.box_mask(geometry(IMAGE), (0, 0, 0.5, 1))
    source = torch.full((1, 3, 32, 32), 0.5)
    made = source + 0.2  # the autoencoder's error
    out = regions.pasted(made, source, mask, geometry(IMAGE))
    assert torch.equal(out[..., :16], source[..., :16])
    steps = out[0, 0, 0].diff()
    assert steps.max() < 0.05 and torch.allclose(
        out[..., 16 + regions.SEAM :], made[..., 16 + regions.SEAM :]
    )


def test_frames_of_which_nothing_is_kept_are_left_as_they_are():
    mask = regions.frame_mask(geometry(VIDEO), 1)
    source, made = torch.zeros(1, 4, 3, 32, 32), torch.full((1, 4, 3, 32, 32), 0.5)
    out = regions.pasted(made, source, mask, geometry(VIDEO))
    assert (out[:, 1] == 0).all() and (out[:, [0, 2, 3]] == 0.5).all()


# From Python -----------------------------------------------------------


def test_at_strength_1_a_call_is_what_it_is_without_a_start(pipe, media):
    outputs = ["video", "audio", "image", "text"]
    plain = pipe(text="a red ball", outputs=outputs, **QUICK)
    given = pipe(text="a red ball", outputs=outputs, start=media, strength=1, **QUICK)
    assert plain.texts == given.texts
    for name in ("images", "audios", "videos"):
        assert torch.equal(getattr(plain, name)[0], getattr(given, name)[0])


def test_at_strength_0_a_call_is_the_round_trip_through_the_autoencoder(pipe, media):
    out = pipe(
        outputs=["image", "text"], start={"image": media["image"], "text": media["text"]}, strength=0, **QUICK
    )
    image, text = pipe.image_autoencoder, pipe.text_autoencoder
    raw = media["image"][None].float() / 127.5 - 1
    expected = image.decode(image.encode(raw))
    assert torch.equal(out.images[0], ((expected[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    assert out.texts == text.decode(text.encode([media["text"]]))


def test_what_is_kept_comes_back_to_the_bit(pipe, media):
    keep = {"image": (0, 0, 0.5, 1), "audio": [(0, 0.2)], "video": [0, 1]}
    start = {name: media[name] for name in keep}
    out = pipe(text="a red ball", outputs=list(keep), start=start, keep=keep, num_samples=2, **QUICK)
    for k in range(2):
        assert torch.equal(out.images[k][..., :16], media["image"][..., :16])
        assert torch.equal(out.audios[k][:3200], media["audio"][:3200])
        assert torch.equal(out.videos[k][:2], media["video"][:2])
        assert not torch.equal(out.videos[k][2:], media["video"][2:])
    assert not torch.equal(out.images[0], out.images[1])


def test_what_is_kept_as_a_whole_stands_in_the_loop_and_comes_back(pipe, media):
    start = {"video": media["video"]}
    with pytest.warns(UserWarning, match="everything of video is kept: it comes back untouched"):
        out = pipe(text="a ball", outputs=["audio", "video"], start=start, keep={"video": True}, **QUICK)
    assert torch.equal(out.videos[0], media["video"])
    clean = pipe.encode_partners({VIDEO: [type("P", (), {"value": media["video"]})()]}, [VIDEO])
    beside = pipe(text="a ball", outputs=["audio"], partner_latents=clean, **QUICK)
    assert torch.equal(out.audios[0], beside.audios[0])
    with pytest.warns(UserWarning, match="everything of image is kept"):
        alone = pipe(
            outputs="image", start={"image": media["image"]}, keep={"image": torch.ones(32, 32)}, **QUICK
        )
    assert torch.equal(alone.images[0], media["image"])


def test_keyframes_are_frames(pipe, media):
    frames = {0: media["image"], -1: media["image"].flip(-1)}
    out = pipe(text="a ball", outputs="video", keyframes={"video": frames}, **QUICK).videos[0]
    assert torch.equal(out[0], frames[0]) and torch.equal(out[3], frames[-1])
    assert not torch.equal(out[1], frames[0])


def test_a_start_lies_on_a_canvas(pipe, media):
    out = pipe(
        outputs="image", start={"image": media["image"]}, canvas={"image": (0.25, 0.25, 0.75, 0.75)}, **QUICK
    )
    small = pipe.model.specs[IMAGE]
    assert small.raw_shape == (3, 32, 32)
    from codi.io import fit_image, from_unit

    assert torch.equal(out.images[0][:, 8:24, 8:24], from_unit(fit_image(media["image"], 16)))


def test_an_output_without_a_start_hears_one_that_has_one(pipe, media):
    """Another start changes what is made beside it, from noise of the same seed."""
    made = []
    for start in (media["video"], media["video"].flip(0)):
        out = pipe(text="a ball", outputs=["audio", "video"], start={"video": start}, strength=0.5, **QUICK)
        made.append(out.audios[0])
    assert not torch.equal(*made)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(20, 30), "the mask of image is 20 x 30: expected 32 x 32 or 40 x 52 pixels"),
        (torch.ones(2, 32, 32), "the mask of image is 2 x 32 x 32"),
        (torch.zeros(32, 32), "dark everywhere and keeps nothing"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(pipe, mask, message):
    photo = torch.zeros(3, 40, 52, dtype=torch.uint8)
    with pytest.raises(InputError, match=message):
        pipe(outputs="image", start={"image": photo}, keep={"image": mask}, **QUICK)


def test_words_of_the_source_are_a_prompt_of_its_own(pipe, media):
    given = dict(
        outputs="image", start={"image": media["image"]}, output_type="latent", seed=0, num_inference_steps=4
    )
    trip = pipe("a ball", strength=0.0, **given).latents[IMAGE]
    back = pipe("a ball", strength=0.9, source_prompt="a ball", guidance_scale=1.0, **given).latents[IMAGE]
    other = pipe("a ball", strength=0.9, source_prompt={"image": "a blue cube"}, guidance_scale=1.0, **given)
    assert torch.allclose(back, trip, atol=1e-4)
    assert not torch.allclose(other.latents[IMAGE], trip, atol=1e-2)


def test_a_region_smaller_than_a_pixel_keeps_nothing(pipe, media):
    with pytest.raises(InputError, match="keep of image keeps nothing"):
        pipe(outputs="image", start=dict(image=media["image"]), keep={"image": (0, 0, 0.01, 1)}, **QUICK)


# From the command line -------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, media):
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(media["image"].permute(1, 2, 0).numpy()).save(folder / "photo.png")
    half = torch.zeros(32, 32, dtype=torch.uint8)
    half[:, :16] = 255
    Image.fromarray(half.numpy()).save(folder / "mask.png")
    tiny_pipeline.saved(folder / "model")
    return folder


def pixels(path) -> torch.Tensor:
    return torch.frombuffer(bytearray(Image.open(path).convert("RGB").tobytes()), dtype=torch.uint8).view(
        32, 32, 3
    )


def test_a_file_says_what_it_started_from_and_is_made_again(files, tmp_path, capsys):
    arguments = ["--start-image", str(files / "photo.png"), "--keep", f"image={files / 'mask.png'}"]
    arguments += ["--strength", "image=0.5", "--text", "a ball", "--to", "image,audio"]
    arguments += ["--source-prompt", "a blue ball"]
    model = ["--model", str(files / "model")]
    assert cli.main(["generate", "-o", str(tmp_path / "a"), *arguments, *model, *STEPS]) == 0
    first = tmp_path / "a" / "000.png"
    assert torch.equal(pixels(first)[:, :16], pixels(files / "photo.png")[:, :16])
    record = read_record(first)
    assert [(row["as"], row["use"]) for row in record.sources] == [("image", "start"), ("image", "keep")]
    assert all(len(row["sha256"]) == 64 for row in record.sources)
    assert record.resolved["strength"] == {"image": 0.5}
    assert record.resolved["source_prompt"] == {"image": "a blue ball"}
    assert cli.main(["generate", "--from", str(first), "-o", str(tmp_path / "b"), "--quiet"]) == 0
    for name in ("000.png", "000.wav"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_lines_of_jobs_say_it_too_and_are_resumed(files, tmp_path, capsys):
    line = {"id": "a", "text": "a ball", "to": "video,image", "start": {"image": "photo.png"}}
    line |= {"keep": {"image": [[0, 0, 0.5, 1]]}, "keyframes": {"video": {"0": "photo.png"}}}
    path = files / "jobs.jsonl"
    path.write_text(json.dumps(line) + "\n")
    command = ["generate", "--jobs", str(path), "-o", str(tmp_path), "--model", str(files / "model"), *STEPS]
    assert cli.main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["resolved"]["keep"] == {"image": [[0.0, 0.0, 0.5, 1.0]]}
    assert [row["use"] for row in record["sources"]] == ["start", "keyframe"]
    assert cli.main(command) == 0 and capsys.readouterr().out == ""
    path.write_text(json.dumps(line | {"keep": {"image": [[0, 0, 1, 0.5]]}}) + "\n")
    assert cli.main(command) == 2 and "was not made by this request" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "photo.png"}, "start is .*expected an object by output"),
        ({"start": {"image": 3}}, "start names 3: expected words or the name of a file"),
        ({"keep": {"image": [[0, 3]]}}, "of the kind interval"),
        ({"strength": 2}, "strength of image is 2: expected 0 to 1"),
        ({"start": {"image": "no.png"}}, "no such file"),
    ],
)
def test_lines_that_cannot_be_meant_name_the_line(files, tmp_path, capsys, change, message):
    path = files / "bad.jsonl"
    line = {"id": "a", "to": "image", "start": {"image": "photo.png"}} | change
    path.write_text(json.dumps(line) + "\n")
    command = ["generate", "--jobs", str(path), "-o", str(tmp_path), "--model", str(files / "model"), *STEPS]
    assert cli.main([*command, "--fail-fast"]) == 2
    assert pytest.importorskip("re").search(f"bad.jsonl line 1: .*{message}", capsys.readouterr().err)


def test_options_beside_a_file_of_jobs_are_refused(files):
    empty = {name: [] for name in jobs.prompt_keys()}
    empty |= dict(
        start={"image": "a.png"},
        strength=None,
        keep=[],
        keyframe=[],
        canvas=[],
        resample_steps=None,
        source_prompt=None,
        region=[],
    )
    args = argparse.Namespace(**empty, jobs="jobs.jsonl")
    with pytest.raises(InputError, match="--start beside --jobs"):
        jobs.from_file(args)


# Variations ------------------------------------------------------------


def test_variations_of_a_file_come_with_a_sheet_and_their_seeds(files, tmp_path, capsys):
    command = ["vary", str(files / "photo.png"), "-o", str(tmp_path), "--samples", "2", "--seed", "5"]
    assert cli.main([*command, "--model", str(files / "model"), "--text", "a red ball", *STEPS]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.rsplit("/", 1)[1] for line in printed] == ["000.png", "001.png", "sheet.png"]
    assert Image.open(tmp_path / "sheet.png").size == (2 * vary.TILE, vary.TILE + vary.LINE)
    record = read_record(tmp_path / "001.png")
    assert record.samples[0]["seed"] == 6 and record.resolved["strength"] == {"image": vary.STRENGTH}


def varied(*typed) -> list[str]:
    return vary.arguments(cli.build_parser().parse_args(["vary", *typed, "-o", "out"]))


def test_what_varies_starts_from_the_file_or_has_it_as_a_prompt(files):
    photo = str(files / "photo.png")
    assert varied(photo)[:6] == ["--start-image", photo, "--to", "image", "--strength", "0.7"]
    assert varied(photo, "--by", "prompt")[:5] == ["--image", photo, "--to", "image", "-o"]
    with pytest.raises(InputError, match="--strength beside --by prompt"):
        varied(photo, "--by", "prompt", "--strength", "0.5")
    with pytest.raises(InputError, match="no such file"):
        varied("nothing.png")


def blended(*typed) -> list[dict]:
    args = cli.build_parser().parse_args(["vary", *typed, "-o", "out"])
    return [json.loads(line) for line in vary.blend_lines(args)]


def test_a_blend_passes_from_one_file_to_the_other(files, tmp_path, capsys):
    photo, other = str(files / "photo.png"), str(tmp_path / "other.png")
    Image.new("RGB", (32, 32), "blue").save(other)
    rows = blended(photo, other, "--blend", "3", "--seed", "4", "--text", "a ball")
    assert [[item["weight"] for item in row["image"]] for row in rows] == [[1.0], [0.5, 0.5], [1.0]]
    assert [row["image"][-1]["value"] for row in rows] == [photo, other, other]
    assert {row["seed"] for row in rows} == {4} and all(row["text"] == ["a ball"] for row in rows)
    out = tmp_path / "out"
    command = ["vary", photo, other, "--blend", "3", "-o", str(out), "--model", str(files / "model"), *STEPS]
    assert cli.main(command) == 0
    printed = [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert printed[-1] == "sheet.png" and sorted(printed[:-1]) == [f"blend-{k:03d}.png" for k in range(3)]
    assert Image.open(out / "sheet.png").width == 3 * vary.TILE
    assert read_record(out / "blend-001.png").inputs[0]["weight"] == 0.5


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["photo.png", "--blend", "3"], "--blend and 1 files: expected two of a kind"),
        (["photo.png", "photo.png", "--blend", "1"], "--blend is 1: expected a whole number from 2"),
        (["photo.png", "photo.png", "--blend", "3", "--strength", "0.5"], "--strength beside --blend"),
        (["photo.png", "photo.png", "--blend", "3", "--seed", "x"], "--seed is 'x'"),
    ],
)
def test_what_cannot_be_blended_is_one_line(files, monkeypatch, typed, expected):
    monkeypatch.chdir(files)
    with pytest.raises(InputError, match=expected):
        blended(*typed)
    with pytest.raises(InputError, match="2 files: expected one, or two and --blend"):
        varied("photo.png", "photo.png")


def test_what_is_hidden_is_told_of_by_nothing_and_what_is_kept_goes_on():
    mask = regions.box_mask(geometry(IMAGE), (0, 0, 0.5, 1))
    raw = torch.linspace(-1, 1, 32).view(1, 1, 32, 1).expand(1, 3, 32, 32).clone()
    hidden = regions.without_unknown(raw, mask, geometry(IMAGE))
    other = raw.clone()
    other[..., 16:] = 0.77
    assert torch.equal(hidden, regions.without_unknown(other, mask, geometry(IMAGE)))
    assert torch.equal(hidden[..., :16], raw[..., :16])
    beside = hidden[0, 0, :, 16:20]
    assert (
        (beside.diff(dim=0) >= 0).all() and (beside[0] < -0.2).all() and (beside[-1] > 0.2).all()
    )  # it goes on
    clip = regions.frame_mask(geometry(VIDEO), 1)
    frames = regions.without_unknown(torch.ones(1, 4, 3, 32, 32), clip, geometry(VIDEO))
    assert (frames[:, 1] == 1).all() and (frames[:, [0, 2, 3]] == 0).all()
    sound = regions.interval_mask(geometry(AUDIO), 0, 0.1)
    silent = regions.without_unknown(torch.ones(1, 8000), sound, geometry(AUDIO))
    assert (silent[:, :1600] == 1).all() and (silent[:, 1600:] == 0).all()
