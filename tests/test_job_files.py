"""codi/job_files.py finds every name of a file in a line of jobs, and nothing else."""

import json

import pytest

from codi.job_files import files_of, with_files

LINE = {
    "id": "a",
    "text": ["https://not.a/file", {"value": "words.png", "weight": 2}],
    "image": "p1.png::0.5",
    "audio": [{"value": "s1.wav", "weight": 2}, "s2.wav"],
    "negative_video": "n1.mp4",
    "to": "image,video",
    "start": {"image": "st.png", "text": "a word.png"},
    "keep": {"image": ["mask.png", [0, 0, 0.5, 1], True], "video": 3, "audio": [0, 1.2]},
    "keyframes": {"video": {"0": "k0.png", "1.5s": "k1.png"}},
    "regions": [{"text": "x.png", "image": "r.png", "mask": "m.png", "box": [0, 0, 1, 1]}],
    "control": {
        "beats": "0.3,0.9",
        "sketch": {"value": "sk.png", "weight": 0.5},
        "video": {"layout": {"map": "l.png", "words": {"1": "a red ball"}}},
        "loudness": "0:-20,0.5:-6",
        "melody": "mel.wav",
    },
}
NAMES = "p1.png s1.wav s2.wav n1.mp4 st.png mask.png k0.png k1.png r.png m.png sk.png l.png mel.wav".split()


def test_every_name_of_a_file_is_found_and_nothing_else():
    assert sorted(files_of(LINE)) == sorted(NAMES)


def test_names_change_and_everything_else_stays():
    moved = with_files(LINE, lambda name: f"new/{name}")
    assert sorted(files_of(moved)) == sorted(f"new/{name}" for name in NAMES)
    assert moved["image"] == {"value": "new/p1.png", "weight": 0.5}
    assert (moved["text"], moved["to"], moved["id"]) == (LINE["text"], LINE["to"], "a")
    assert moved["start"] == {"image": "new/st.png", "text": "a word.png"}
    assert moved["control"]["beats"] == "0.3,0.9"
    assert moved["control"]["video"]["layout"]["words"] == {"1": "a red ball"}
    assert LINE["image"] == "p1.png::0.5"  # the line that was given is as it was


@pytest.mark.parametrize(
    ("control", "names"),
    [
        (["sketch=a.png::0.8@0-0.5", "beats=0.3,0.9", "video.loudness=take.wav"], ["a.png", "take.wav"]),
        ([{"output": None, "kind": "sketch", "value": {"path": "a.png", "sha256": "0"}}], ["a.png"]),
        ({"layout": "0.1,0.2,0.6,0.7 a red ball; 0,0,1,1 sea"}, []),
        ({"layout": "boxes.json"}, ["boxes.json"]),
        ({"melody": "0:A4,0.5:C5"}, []),
        ({"beats": [0.3, 0.9]}, []),
    ],
)
def test_forms_of_controls(control, names):
    assert files_of({"control": control}) == names
    moved = with_files({"control": control}, lambda name: f"b-{name}")
    assert files_of(moved) == [f"b-{name}" for name in names]


@pytest.mark.parametrize(
    "line",
    [
        {"image": 3, "start": 4, "keep": [], "keyframes": "x", "regions": 7, "control": 5},
        {"image": [None, {}, {"value": 3}], "start": {"image": {}}, "keyframes": {"video": 3}},
        {"regions": [3, None, {"mask": 3, "image": {}}], "control": [3, {}, "words"]},
    ],
)
def test_what_is_no_line_of_jobs_comes_back_as_it_was(line):
    assert with_files(line, lambda name: 1 / 0) == json.loads(json.dumps(line))


def test_an_address_is_a_name_too():
    assert files_of({"image": "https://a.example/x.png"}) == ["https://a.example/x.png"]


# Lines of jobs


def arguments(*words):
    from codi.cli import build_parser

    return build_parser().parse_args(["generate", "-o", "out", *words])


def read_back(line, folder):
    """The job that a line asks for, as a server reads it."""
    from codi import jobs

    file = folder / "jobs.jsonl"
    file.write_text(json.dumps({"id": "a", **line}))
    args = arguments("--jobs", str(file))
    (job,) = jobs.from_lines(args)
    return job


def told(job, folder):
    """All that decides what is made, without where files are."""
    from dataclasses import asdict

    left_out = ("id", "origin", "written", "places")
    values = {name: value for name, value in asdict(job).items() if name not in left_out}
    return json.loads(json.dumps(values, default=str).replace(f"{folder}/", ""))


@pytest.mark.parametrize(
    "words",
    [
        "--text ball --to image",
        "--text ball::0.5 --text night --negative-text snow --to image,video --samples 3 --seed 7 --steps 5",
        "--image a.png::2 --audio a.wav --to video --guidance video=2 --sync-guidance 1.5 --candidates 2",
        "--text a --to video,audio --start-offset audio=0.5 --fps 4 --num-frames 8 --seconds 1.5 --lengths free",
        "--text a --to image --height 32 --width 64 --guider apg:eta=0.2 --no-sync --no-auxiliary-caption",
        "--text a --to image,audio --guider image=apg,audio=zero-star",
        "--text a --to image --classifier-guidance prompt:scale=0.2:interval=0-0.5",
        "--text a --to image --start-image a.png --strength 0.4",
        "--text a --to audio --start-audio a.wav --keep audio=0:1.2 --resample-steps 2",
        "--text a --to image --start-image a.png --keep image=m.png --keep image=0,0,0.5,1",
        "--text a --to video --keyframe 0=a.png --keyframe=-1=b.png --keyframe 1.5s=c.png",
        "--text a --to image --start-image a.png --canvas image=0.25,0.25,0.75,0.75",
        "--text a --to video,audio --control beats=0.3,0.9 --control loudness=0:-20,0.5:-6::0.5@0-0.5",
        "--text a --to image --control 'layout=0.1,0.2,0.6,0.7 a red ball'",
        "--to image --region 'a red ball::2 @ box=0,0,0.5,1 feather=0.1 image=a.png mask=m.png to=image'",
    ],
)
def test_a_job_becomes_a_line_and_a_job_again(tmp_path, words):
    import shlex

    from codi import jobs
    from codi.job_files import line_of

    job = jobs.from_arguments(arguments(*shlex.split(words)))
    line = json.loads(json.dumps(line_of(job)))
    assert told(read_back(line, tmp_path), tmp_path) == told(job, tmp_path)


def test_a_drawn_seed_is_drawn_by_the_one_who_makes_it(tmp_path):
    from codi.job_files import line_of

    job = read_back({"text": "a", "to": "image", "seed": "random"}, tmp_path)
    assert line_of(job) == {"text": [{"value": "a", "weight": 1.0}], "to": ["image"], "seed": "random"}
