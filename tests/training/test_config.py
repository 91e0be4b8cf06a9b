"""A configuration is read strictly: what is wrong with it is named."""

from pathlib import Path

import pytest

from codi.types import InputError
from training.config import load_config
from training.main import main


def test_values_and_kinds(bench):
    config = bench().config("lr=3e-4", "betas=[0.8, 0.95]", "part.width=8", "part.names=[a, b]")
    assert (
        config.lr == 3e-4 and config.betas == (0.8, 0.95) and config.part == {"width": 8, "names": ["a", "b"]}
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sample=3", "unknown key 'sample'.*did you mean 'samples'"),
        ("lr=fast", "lr is 'fast': expected a finite number"),
        ("lr=.nan", "lr"),
        ("samples=1.5", "samples is 1.5: expected a whole number"),
        ("samples=0", "samples is 0: expected more than 0"),
        ("compile=1", "compile is 1: expected true or false"),
        ("seed=true", "seed is True"),
        ("precision=fp8", "precision is 'fp8': expected one of no, bf16, fp16"),
        ("betas=[0.9]", "betas.*2 values"),
        ("ema=1", "ema is 1.0"),
        ("accumulate=3", "batch_size is 8: expected a multiple of accumulate"),
        ("options=3", "options is 3: expected a mapping"),
        ("max_minutes=-1", "max_minutes"),
        ("just words", "expected key=value"),
        ("a=[", "not YAML"),
        ("lr.x=1", "lr is '1e-2', which has nothing inside: set lr as a whole"),
    ],
)
def test_mistakes_are_named(bench, override, words):
    with pytest.raises(InputError, match=words):
        bench().config(override)


def test_missing_keys_are_named(bench):
    case = bench()
    case.file.write_text("stage: line\nsamples: 3\n")
    with pytest.raises(InputError, match="missing model, batch_size, lr"):
        case.config()


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "\ud800"])
def test_files_that_are_no_config(bench, content):
    case = bench()
    case.file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=str(case.file)):
        case.config()


def test_small_is_laid_over_and_keeps_away_from_the_real_run(bench):
    case = bench()
    case.file.write_text(case.file.read_text() + "part: {width: 4, other: 1}\n".replace("small", ""))
    small = load_config(case.file, small=True, overrides=["part.width=2"])
    assert small.samples == 16 and small.part == {"width": 2, "other": 1}
    assert small.output != case.config().output and small.model != case.config().model


def test_small_is_as_strict(bench):
    case = bench()
    case.file.write_text(case.file.read_text().replace("small: {samples", "small: {sampels"))
    with pytest.raises(InputError, match="small: unknown key 'sampels'.*'samples'"):
        load_config(case.file, small=True)


def test_stage_and_its_options_are_checked_too(bench, capsys):
    case = bench()
    assert main(case.command("stage=lime")) == 2
    assert "did you mean 'line'" in capsys.readouterr().err
    assert main(case.command("options.lenght=4")) == 2
    assert "did you mean 'length'" in capsys.readouterr().err
    assert main(["--config", str(case.folder / "none.yaml")]) == 2


def test_a_bare_no_is_a_precision(bench):
    """YAML reads it as false."""
    assert bench().config("precision=no").precision == "no"


def test_a_file_is_laid_over_the_one_that_it_extends(tmp_path):
    """Through two files, one of them in another folder; what a file says wins, mappings key by key."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "all.yaml").write_text(
        "stage: line\nmodel: m\nsamples: 8\nlr: 1\npart: {width: 4, depth: 2}\nsmall: {samples: 1}\n"
    )
    (tmp_path / "wide.yaml").write_text("extends: base/all.yaml\nbatch_size: 4\npart: {width: 16}\n")
    (tmp_path / "last.yaml").write_text("extends: wide.yaml\nlr: 2\nsmall: {batch_size: 1}\n")
    config = load_config(tmp_path / "last.yaml")
    assert (config.samples, config.batch_size, config.lr) == (8, 4, 2.0)
    assert config.part == {"width": 16, "depth": 2}
    assert config.output == Path("runs/last")
    small = load_config(tmp_path / "last.yaml", small=True, overrides=["part.width=1"])
    assert (small.samples, small.batch_size, small.part) == (1, 1, {"width": 1, "depth": 2})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"a": "b.yaml", "b": "c.yaml", "c": "a.yaml"},
            r"circle \(a.yaml -> b.yaml -> c.yaml -> a.yaml\)",
        ),
        ({"a": "b.yaml", "b": "b.yaml"}, r"circle \(a.yaml -> b.yaml -> b.yaml\)"),
        ({"a": "../{folder}/a.yaml"}, "circle"),
        ({"a": "nowhere.yaml"}, "cannot read config .*nowhere.yaml: No such file"),
        ({"a": "[b.yaml, c.yaml]"}, "extends is .*expected the name of one YAML file"),
        ({"a": "3"}, "extends is 3: expected the name of one YAML file"),
        ({"a": "''"}, "extends is '': expected the name of one YAML file"),
    ],
)
def test_what_cannot_be_extended_is_one_line(files, words, tmp_path):
    for name, base in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base.format(folder=tmp_path.name)}\nstage: line\n")
    with pytest.raises(InputError, match=words) as caught:
        load_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
