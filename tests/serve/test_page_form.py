"""Fields become a request that the checks of job lines take, and a request becomes fields."""

import json

import pytest
from PIL import Image

from codi import jobs
from codi.serve.masks import write_mask
from codi.serve.page import form
from codi.serve.page.readers import FormError

SIZES = {
    "text": {},
    "image": {"height": 64, "width": 64},
    "audio": {"audio_length_in_s": 2.0},
    "video": {"height": 64, "width": 64, "num_frames": 16, "fps": 8.0},
}
PLAIN = {"text": "a red ball", "outputs": ["image"]}


@pytest.fixture
def media(tmp_path):
    """A picture, a sound's name and a clip's name, as uploads lie on disk."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.PNG")
    for name in ("take.wav", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(folder, **values):
    return form.read({**PLAIN, **values}, folder, SIZES, write_mask)


def key(folder, **values):
    with pytest.raises(FormError) as caught:
        read(folder, **values)
    return caught.value.key


def as_job(folder, request):
    """The request as a line of `codi generate --jobs` is read."""
    return jobs.from_line(json.dumps({"id": "a", **request}), folder, "a: ")


def test_a_sentence_and_a_tick_are_a_request(tmp_path):
    asked = read(tmp_path)
    assert asked.request == {"to": ["image"], "text": [{"value": "a red ball", "weight": 1.0}], "seed": 0}
    assert asked.files == {} and asked.model is None


def test_every_kind_of_prompt_has_its_weight_and_its_side(media):
    values = {
        "slots": ["text", "image", "audio", "video", "drawing", None],
        "prompt0.text": "at night",
        "prompt0.negative": True,
        "prompt1.image": str(media / "photo.PNG"),
        "prompt1.weight": 0.5,
        "prompt2.audio": str(media / "take.wav"),
        "prompt3.video": str(media / "clip.mp4"),
        "prompt3.negative": True,
        "prompt4.drawing": {"background": None, "layers": ["l.png"], "composite": str(media / "photo.PNG")},
        "prompt4.weight": 2,
        "prompt5.text": "not asked for",
        "negative": "in the snow",
    }
    asked = read(media, **values)
    assert asked.request["negative_text"] == [
        {"value": "in the snow", "weight": 1.0},
        {"value": "at night", "weight": 1.0},
    ]
    assert asked.request["image"] == [
        {"value": "prompt1.png", "weight": 0.5},
        {"value": "prompt4.png", "weight": 2},
    ]
    assert asked.request["audio"] == [{"value": "prompt2.wav", "weight": 1.0}]
    assert asked.request["negative_video"] == [{"value": "prompt3.mp4", "weight": 1.0}]
    assert set(asked.files) == {"prompt1.png", "prompt2.wav", "prompt3.mp4", "prompt4.png"}
    job = as_job(media, asked.request)
    assert [item.weight for item in job.items] == [1, 0.5, 2, 1]


def test_colons_in_a_sentence_are_no_weight(tmp_path):
    job = as_job(tmp_path, read(tmp_path, text="a ball::0.3").request)
    assert job.items[0].value == "a ball::0.3" and job.items[0].weight == 1


def test_settings_are_those_of_what_is_made_and_empty_fields_the_models_own(tmp_path):
    values = {
        "outputs": ["video", "audio"],
        "samples": 3,
        "candidates": 2,
        "steps": "12",
        "seed": 7,
        "audio.guidance_scale": "2,5",
        "image.guidance_scale": "9",
        "video.start_offset": "1",
        "video.guider": "apg",
        "size.fps": "12",
        "size.height": "",
        "sync": False,
        "lengths": "free",
    }
    request = read(tmp_path, **values).request
    assert request["to"] == ["audio", "video"] and request["seed"] == 7
    assert request["num_samples"] == 3 and request["candidates"] == 2 and request["num_inference_steps"] == 12
    assert request["guidance_scale"] == {"audio": 2.5} and request["start_offset"] == {"video": 1}
    assert request["guider"] == {"video": "apg"} and request["fps"] == 12 and "height" not in request
    assert request["sync"] is False and request["lengths"] == "free"
    job = as_job(tmp_path, request)
    assert job.guidance_scale == {"audio": 2.5} and job.sizes == {"fps": 12.0}


def test_steps_of_one_output_stand_beside_those_of_all(tmp_path):
    values = {"outputs": ["image", "audio"], "steps": "10", "image.num_inference_steps": "20"}
    assert read(tmp_path, **values).request["num_inference_steps"] == {"image": 20, "audio": 10}


def test_a_seed_that_is_drawn(tmp_path):
    assert as_job(tmp_path, read(tmp_path, random=True, seed=4).request).drawn


def test_a_start_has_a_strength_and_a_kept_part_has_none(media):
    start = {"image.start": str(media / "photo.PNG"), "image.strength": 0.6}
    request = read(media, **start).request
    assert request["start"] == {"image": "start-image.png"} and request["strength"] == {"image": 0.6}
    request = read(media, **start, **{"image.keep": "everything"}).request
    assert request["keep"] == {"image": True} and "strength" not in request
    request = read(media, outputs=["text"], **{"text.start": "a ball", "text.strength": 0}).request
    assert request["start"] == {"text": "a ball"} and request["strength"] == {"text": 0}


@pytest.mark.parametrize(("selected", "inside", "outside"), [("remake", 0, 255), ("stay", 255, 0)])
def test_a_painted_mask_is_bright_where_the_picture_is_kept(media, selected, inside, outside):
    for name, box in (("one.png", (0, 0, 8, 8)), ("two.png", (8, 0, 16, 8))):
        layer = Image.new("RGBA", (64, 64))
        layer.paste((229, 72, 77, 190), box)
        layer.save(media / name)
    values = {
        "image.start": str(media / "photo.PNG"),
        "image.keep": "part",
        "image.selected": selected,
        "image.paint": {"background": "b", "layers": [str(media / "one.png"), str(media / "two.png")]},
    }
    asked = read(media, **values)
    assert asked.request["keep"] == {"image": ["mask-image.png"]}
    mask = Image.open(asked.files["mask-image.png"])
    assert mask.mode == "L" and mask.size == (64, 64)
    assert mask.getpixel((12, 4)) == mask.getpixel((2, 2)) == inside and mask.getpixel((40, 40)) == outside
    as_job(media, asked.request)


@pytest.mark.parametrize(
    ("selected", "interval", "kept"),
    [
        ("stay", [0.5, 1.2], [[0.5, 1.2]]),
        ("remake", [0.5, 1.2], [[0.0, 0.5], [1.2, 2.0]]),
        ("remake", "0,1.5", [[1.5, 2.0]]),
        ("remake", [1, 2], [[0.0, 1.0]]),
    ],
)
def test_a_selected_interval_stays_or_is_made_anew(media, selected, interval, kept):
    values = {"audio.keep": "part", "audio.selected": selected, "audio.interval": interval}
    asked = read(media, outputs=["audio"], **{"audio.start": str(media / "take.wav")}, **values)
    assert asked.request["keep"] == {"audio": kept}
    as_job(media, asked.request)


@pytest.mark.parametrize(
    ("selected", "kept"),
    [
        ("stay", [[0.25, 0.5, 1, 1], [0, 1]]),
        ("remake", [[0, 0, 1, 0.5], [0, 0.5, 0.25, 1], [1, 2]]),
    ],
)
def test_a_box_and_an_interval_of_a_clip_stay_or_what_is_in_both_is_made_anew(media, selected, kept):
    values = {"video.keep": "part", "video.selected": selected, "video.box": "0.25,0.5,1,1"}
    start = {"video.start": str(media / "clip.mp4"), "video.interval": [0, 1]}
    asked = read(media, outputs=["video"], **values, **start)
    assert asked.request["keep"] == {"video": kept}
    as_job(media, asked.request)


def test_what_is_made_anew_goes_to_the_end_of_the_length_that_is_asked_for(media):
    values = {"audio.start": str(media / "take.wav"), "audio.keep": "part", "audio.interval": [0, 1]}
    assert read(media, outputs=["audio"], **values, **{"size.audio_length_in_s": "1.5"}).request["keep"] == {
        "audio": [[1.0, 1.5]]
    }
    values = {name.replace("audio", "video"): value for name, value in values.items()}
    request = read(media, outputs=["video"], **values, **{"size.num_frames": "12"}).request
    assert request["keep"] == {"video": [[1.0, 1.5]]}


def test_keyframes_stand_at_the_ends_and_at_a_second(media):
    picture = str(media / "photo.PNG")
    values = {"video.frame0": picture, "video.frame1": picture, "video.frame2": picture}
    asked = read(media, outputs=["video"], **values, **{"video.frame2.second": "1.5"})
    assert asked.request["keyframes"] == {
        "video": {"0": "frame0.png", "-1": "frame1.png", "1.5s": "frame2.png"}
    }
    as_job(media, asked.request)
    assert key(media, outputs=["video"], **values) == "error.no_second"


def test_regions_and_controls(media):
    values = {
        "outputs": ["video", "audio"],
        "region0.text": "a blue ball",
        "region0.box": [0, 0, 0.5, 1],
        "region0.interval": "0,1",
        "region0.soft": 0.1,
        "region2.text": "at night",
        "region2.interval": [1, 2],
        "region2.weight": 2,
        "control0.kind": "beats",
        "control0.value": "0.3,0.9",
        "control1.kind": "loudness",
        "control1.file": str(media / "take.wav"),
        "control1.output": "audio",
        "control1.weight": 0.5,
    }
    asked = read(media, **values)
    first, second = asked.request["regions"]
    assert first == {
        "text": "a blue ball",
        "box": [0, 0, 0.5, 1],
        "feather": 0.1,
        "interval": [0, 1],
        "fade": 0.1,
    }
    assert second == {"text": "at night", "interval": [1, 2], "weight": 2}
    (media / "control1.wav").write_bytes(b"x")
    job = as_job(media, asked.request)
    assert [each["kind"] for each in job.control] == ["beats", "loudness"] and job.control[1][
        "output"
    ] == "audio"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"outputs": []}, "error.no_output"),
        ({"outputs": ["smell"]}, "error.no_output"),
        ({"text": "  "}, "error.no_prompt"),
        ({"slots": ["image"]}, "error.empty_prompt"),
        ({"slots": ["drawing"], "prompt0.drawing": {"layers": [], "composite": None}}, "error.empty_drawing"),
        ({"steps": "many"}, "error.no_number"),
        ({"steps": "nan"}, "error.no_number"),
        ({"steps": "1e999"}, "error.no_number"),
        ({"region0.text": "at night"}, "error.region_nowhere"),
        ({"region0.text": "at night", "region0.box": [0.5, 0, 0.5, 1]}, "error.empty_box"),
        ({"region0.text": "at night", "region0.interval": [1, 0.5]}, "error.empty_interval"),
        ({"region0.text": "at night", "region0.box": "1,2"}, "error.no_number"),
        ({"control0.kind": "beats"}, "error.empty_control"),
    ],
)
def test_what_the_page_itself_says_is_wrong(tmp_path, values, expected):
    assert key(tmp_path, **values) == expected


def test_a_part_that_is_to_stay_must_be_marked(media):
    start = {"image.start": str(media / "photo.PNG"), "image.keep": "part"}
    assert key(media, **start) == "error.nothing_selected"
    Image.new("RGBA", (64, 64)).save(media / "empty.png")
    assert (
        key(media, **start, **{"image.paint": {"layers": [str(media / "empty.png")]}})
        == "error.nothing_selected"
    )
    sound = {"audio.start": str(media / "take.wav"), "audio.keep": "part", "audio.interval": [0, 2]}
    assert key(media, outputs=["audio"], **sound) == "error.all_selected"


def test_a_start_of_what_is_not_made_is_not_passed_over(media):
    assert key(media, outputs=["image"], **{"audio.start": str(media / "take.wav")}) == "error.not_made"


def test_a_box_of_everything_leaves_nothing_to_stay(media):
    values = {"video.start": str(media / "clip.mp4"), "video.keep": "part", "video.box": [0, 0, 1, 1]}
    assert key(media, outputs=["video"], **values) == "error.all_selected"


def test_layers_that_are_no_pictures_or_of_two_sizes_are_refused(media):
    values = {"image.start": str(media / "photo.PNG"), "image.keep": "part"}
    assert key(media, **values, **{"image.paint": {"layers": [str(media / "take.wav")]}}) == "error.no_mask"
    layers = []
    for side in (8, 9):
        layers.append(str(media / f"{side}.png"))
        Image.new("RGBA", (side, side), "red").save(layers[-1])
    assert key(media, **values, **{"image.paint": {"layers": layers}}) == "error.no_mask"


def test_a_start_lies_in_a_box_of_what_goes_on_around_it(media):
    values = {"image.start": str(media / "photo.PNG"), "image.strength": 0.5, "image.keep": "canvas"}
    request = read(media, **values, **{"image.canvas": "0.25,0,0.75,1"}, resample_steps="2").request
    assert request["canvas"] == {"image": [0.25, 0, 0.75, 1]} and request["resample_steps"] == 2
    assert "strength" not in request and "keep" not in request
    as_job(media, request)
    assert key(media, **values) == "error.no_canvas"
    assert form.keeps_of(form.picture())[-1] == "canvas" and "canvas" not in form.keeps_of(form.words_kind())


def test_a_clip_goes_on_with_its_sound_whatever_is_ticked(media):
    values = {"continue.video.source": str(media / "clip.mp4"), "continue.seconds": "8", "text": ""}
    values |= {"outputs": ["text", "image"], "resample_steps": "2"}
    asked = read(
        media, **values, **{"continue.sound": True, "continue.way": "both", "continue.overlap": "0.5"}
    )
    assert asked.request["to"] == ["audio", "video"] and asked.request["resample_steps"] == 2
    goes_on = {"files": ["source-video.mp4"], "seconds": 8, "direction": "both", "overlap": 0.5}
    assert asked.request["continue"] == goes_on
    assert as_job(media, asked.request).continued.direction == "both"
    fields = form.fields_of(asked.request)
    assert (fields["continue.way"], fields["continue.seconds"]) == ("both", 8)
    assert read(media, **values).request["to"] == ["video"]
    assert read(media, **values, **{"continue.way": "loop"}).request["continue"]["loop"] is True
    gap = {**values, "continue.way": "gap"}
    assert key(media, **gap) == "error.no_end"
    asked = read(media, **gap, **{"continue.video.end": str(media / "clip.mp4")})
    assert asked.request["continue"]["files"] == ["source-video.mp4", "end-video.mp4"]
    assert form.fields_of(asked.request)["continue.way"] == "gap"
    assert key(media, **{**values, "continue.seconds": ""}) == "error.no_seconds"


def test_names_of_parts_come_from_the_page_and_not_from_the_upload(tmp_path):
    path = tmp_path / "..strange name;.JPEG<b>"
    path.write_bytes(b"x")
    asked = read(tmp_path, slots=["image"], **{"prompt0.image": str(path)})
    assert list(asked.files) == ["prompt0"]


def test_a_request_fills_the_fields_that_made_it(tmp_path):
    values = {
        "outputs": ["image", "audio"],
        "negative": "at night",
        "samples": 2,
        "steps": 9,
        "seed": 5,
        "random": False,
        "image.guidance_scale": 4,
        "audio.guider": "apg",
        "size.height": 32,
    }
    request = read(tmp_path, **values).request
    fields = form.fields_of(request)
    assert fields == {"text": "a red ball", **values}
    assert read(tmp_path, **fields).request == request
    assert form.fields_of({"to": "image", "seed": "random"})["random"] is True
