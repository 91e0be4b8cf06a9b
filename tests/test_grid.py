"""`codi grid`: settings and seeds as they are typed, cells that equal solo runs, sheets and pages."""

import json
import re

import pytest
import torch

from codi import cli, edits, grid_command, io, jobs
from codi.io.content import content_sha256
from codi.job_lines import files_of, options_for, split_values, value_of, whole_names
from codi.sheets import page, tiles
from codi.sheets.sheet import Sheet, draw
from codi.types import InputError
from tests import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """One file of each kind, with a name that HTML must escape."""
    folder = tmp_path_factory.mktemp("media")
    pixels = torch.randint(0, 255, (5, 3, 32, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    wave = 0.5 * torch.sin(torch.arange(8000) * 0.3)
    return [
        io.save_image(folder / 'a"<b>.png', pixels[0]),
        io.save_video(folder / "a.mp4", pixels, 8),
        io.save_audio(folder / "a.wav", wave, 16000),
        io.save_text(folder / "a.txt", "<script>alert(1)</script> a red ball\n"),
    ]


# Options ---------------------------------------------------------------


def parsed(*options):
    args = cli.build_parser().parse_args(["grid", "-o", "a.png", *options])
    args.owns_process = False
    return args


def test_what_belongs_into_lines_is_left_out_and_everything_else_counts(tmp_path):
    edited = ["--text", "a ball", "--negative-image", "n.png", "--region", "a ball @ box=0,0,1,1"]
    edited += ["--start-image", "a.png", "--strength", "0.5", "--keep", "image=all", "--source-prompt", "a"]
    edited += ["--keyframe", "0=a.png", "--canvas", "image=0,0,1,1", "--resample-steps", "3"]
    for option in edits.OPTIONS:
        assert getattr(parsed(*edited), option) != getattr(parsed(), option), "the list above lacks one"
    kept = ["--to", "image", "--steps", "7", "--lora", "folder", "--scheduler", "ddim", "--strict"]
    kept += ["--filter", "own.py:check", "--overwrite", "--control", "beats=0.3", "--lengths", "free"]
    asked = options_for(parsed(*edited, *kept), tmp_path / "jobs.jsonl", tmp_path)
    unasked = vars(cli.build_parser().parse_args(["generate", "-o", "."]))
    changed = {name for name, value in vars(asked).items() if value != unasked.get(name)}
    assert changed - {"run", "jobs", "out", "quiet", "batch", "owns_process"} == {
        *("to", "num_inference_steps", "written", "lora", "scheduler", "strict"),
        *("filter", "overwrite", "control", "lengths"),
    }
    jobs._check_alone(asked)


def test_every_edit_of_the_command_line_is_known_to_belong_into_lines():
    commands = cli.build_parser()._subparsers._group_actions[0].choices
    [group] = [g for g in commands["generate"]._action_groups if "starting from media" in str(g.title)]
    assert {action.dest for action in group._group_actions} == set(edits.OPTIONS)


# What is typed ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0,7,5-6", [0, 7, 5, 6]), ("1-2,2-3", [1, 2, 3])],
)
def test_seeds(text, expected):
    assert grid_command.parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "0-99999999", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(InputError, match="--seeds"):
        grid_command.parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("guidance=1,3,7", "guidance_scale", (1, 3, 7)),
        ("text=a red, round ball|a cube", "text", ("a red, round ball", "a cube")),
        ('guidance-scale={"image": 3, "audio": 2},4', "guidance_scale", ({"image": 3, "audio": 2}, 4)),
        ("auxiliary_caption=true,false", "auxiliary_caption", (True, False)),
        ("guider=cfg,apg", "guider", ("cfg", "apg")),
    ],
)
def test_settings(text, name, values):
    axis = grid_command.parse_axis(text)
    assert (axis.name, axis.values) == (name, values)


def test_values_between_commas_and_bars():
    assert split_values('[1,2],{"a": "b,c"},"d,e"') == ["[1,2]", '{"a": "b,c"}', '"d,e"']
    assert value_of("1e3") == 1000 and value_of("cfg++") == "cfg++" and value_of("null") is None


def test_names_of_files_become_whole(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    row = {"image": ["a.png::2", {"value": "a.png"}], "text": "a.png", "control": [{"x": "a.png"}], "n": 3}
    row |= {"id": "a.png", "negative_text": ["a.png"]}
    whole = str(tmp_path / "a.png")
    expected = {**row, "image": [f"{whole}::2", {"value": whole}], "control": [{"x": whole}]}
    assert whole_names(row, tmp_path) == expected


# The command -----------------------------------------------------------


def test_cells_equal_their_solo_runs_and_a_grid_that_grows_makes_only_what_is_new(model, tmp_path, capsys):
    sheet = tmp_path / "g" / "grid.png"
    sheet.parent.mkdir()
    call = ["grid", "--text", "a red ball", "--to", "image,audio,text", "--model", model, "--device", "cpu"]
    call += ["-o", str(sheet), "--seeds", "0-1", "--vary"]
    assert cli.main([*call, "steps=1,2"]) == 0
    captured = capsys.readouterr()
    assert (
        captured.out.split() == [str(sheet), str(sheet.with_suffix(".html"))]
        and "cells: 100%" in captured.err
    )
    cells = sheet.parent / "grid-cells"
    assert len(list(cells.glob("*.png"))) == 4
    [one] = cells.glob("seed-1-num-inference-steps-2-*.png")
    solo = [
        "generate",
        "--text",
        "a red ball",
        "--to",
        "image,audio,text",
        "--model",
        model,
        "--device",
        "cpu",
    ]
    assert cli.main([*solo, "--quiet", "--seed", "1", "--steps", "2", "-o", str(tmp_path / "solo")]) == 0
    for suffix in (".png", ".wav", ".txt"):
        solo_file = tmp_path / "solo" / f"000{suffix}"
        assert content_sha256(one.with_suffix(suffix)) == content_sha256(solo_file)
    before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir() if path.suffix == ".png"}
    assert cli.main([*call, "steps=1,2,3", "--quiet"]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in cells.iterdir() if path.suffix == ".png"}
    assert len(after) == 6 and all(after[name] == time for name, time in before.items())
    html = sheet.with_suffix(".html").read_text()
    assert html.count("<audio") == 6 and html.count("<img") == 12 and "6 of 6 cells" in html
    for source in re.findall(r'src="([^"]*)"', html):
        assert source.startswith("data:image/jpeg;base64,") or (sheet.parent / source).is_file()


def test_a_setting_may_be_a_file_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    [cell] = grid_command.plan([grid_command.parse_axis("image=a.png")], [0], {"to": "image"})
    assert cell.line["image"] == str(tmp_path / "a.png") and "image-a.png" in cell.id


def test_two_settings_make_a_row_for_every_value_of_the_second_and_every_seed():
    axes = [grid_command.parse_axis("steps=1,2"), grid_command.parse_axis("guidance=1,3")]
    cells = list(grid_command.plan(axes, [4, 5], {"to": "image"}))
    found = [
        (cell.row, cell.column, *(cell.line[key] for key in cell.line if key not in ("id", "to")))
        for cell in cells
    ]
    assert found[:3] == [(0, 0, 1, 1, 4), (0, 1, 2, 1, 4), (1, 0, 1, 1, 5)]
    assert (cells[-1].row, cells[-1].column) == (3, 1) and len({cell.id for cell in cells}) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vary", "steps"], "expected a setting and its values"),
        (["--vary", "steps=1,,2"], "has an empty value"),
        (["--vary", "steps=1,1"], "has a value twice"),
        (["--vary", "stepz=1,2"], "no setting of a job"),
        (["--vary", "seed=1,2"], "expected --seeds 0-3"),
        ([], "--vary was given 0 times"),
        (["--vary", "steps=1", "--vary", "steps=2"], "--vary steps twice"),
        (["--vary", "steps=1,2", "--seed", "3"], "--seed and --samples beside a grid"),
        (["--vary", "steps=1,2", "--seeds", "x"], "--seeds 'x'"),
        (["--vary", "steps=1,2", "-o", "grid"], "expected the name of the sheet"),
    ],
)
def test_what_is_no_grid_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grid", "--text", "a", "--to", "image", "-o", "grid.png", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("codi: error: ") and said in error and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_value_that_no_job_takes_leaves_the_other_cells(model, tmp_path, capsys):
    call = [
        "grid",
        "--text",
        "a ball",
        "--to",
        "image",
        "--model",
        model,
        "-o",
        str(tmp_path / "g.png"),
        "--quiet",
    ]
    assert cli.main([*call, "--seeds", "0", "--vary", "steps=1,0"]) == 2
    captured = capsys.readouterr()
    assert "steps is 0" in captured.err and "1 of 2 jobs failed" in captured.err
    assert "1 of 2 cells" in (tmp_path / "g.html").read_text()


# Sheets and pages ------------------------------------------------------


def test_every_kind_of_medium_has_a_tile_of_the_width_that_was_asked_for(media):
    for path in media:
        assert tiles.tile(path, 160).width == 160
    assert [tiles.is_heard(path) for path in media] == [False, False, True, False]
    picture = tiles.tile(media[0], 96)  # 48 x 32, twice as large: every pixel is four
    assert picture.size == (96, 64) and picture.getpixel((0, 0)) == picture.getpixel((1, 1))
    assert tiles.wrapped("aaaa " * 3 + "b" * 200, 100, tiles.font(15))[0] == "aaaa aaaa"


def test_a_sheet_has_a_place_for_every_cell_and_gets_narrower_where_it_would_be_too_large(media, monkeypatch):
    cells = [[media, []], [media[:1], media[1:]]]
    sheet = Sheet(
        title="t", corner=("r", "c"), columns=["a", "b"], rows=["1", "a long label " * 5], cells=cells
    )
    whole = draw(sheet)
    assert whole.width > 2 * 192
    monkeypatch.setattr("codi.sheets.sheet.MOST_PIXELS", whole.width * whole.height - 1)
    assert draw(sheet).width < whole.width


def test_a_page_shows_and_plays_and_escapes(media):
    sheet = Sheet(title="t", corner=("<r>", "c"), columns=["<a>"], rows=["<b>&"], cells=[[media]])
    html = page.page("<t>", [page.paragraph("<p>"), page.sheet_table(sheet, media[0].parent)])
    for tag in ("<video", "<audio", "<blockquote", "<img"):
        assert tag in html
    for raw in ("<script>", "<t>", "<a>", "<b>", "<r>", '"<'):
        assert raw not in html
    assert 'src="a%22%3Cb%3E.png"' in html and "&lt;script&gt;" in html
    table = page.figures_table("m", ["A"], ["x<"], [["1.0"]])
    assert "x&lt;" in table and '<td class="number">1.0</td>' in table


def test_files_of_a_job_that_was_not_made_are_none(tmp_path):
    assert files_of(tmp_path, "a") == []
    (tmp_path / "a.json").write_text(json.dumps({"samples": []}))
    assert files_of(tmp_path, "a") == []
