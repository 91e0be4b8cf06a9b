"""Everything that the page says stands in the table, in both languages; what people wrote is escaped."""

import string
from pathlib import Path

import pytest

from codi.serve.page import cards, frame
from codi.serve.page.words import LANGUAGES, TABLE, Words
from codi.serve.values import JobView

MODEL = {
    "name": "codi-tiny",
    "outputs": ["text", "image", "audio", "video"],
    "prompts": ["text", "image", "audio", "video"],
    "defaults": {"image": {"num_inference_steps": 20}},
    "sizes": {"audio": {"audio_length_in_s": 2.0}},
    "words": {
        "colours": ["red"],
        "shapes": ["ball"],
        "motions": ["hops"],
        "tempi": ["fast"],
        "places": ["at night"],
    },
    "controls": [["audio", "beats"]],
}
WICKED = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"


class Marked(Words):
    """Words that say which of them were used, and from where they are."""

    def __init__(self):
        super().__init__()
        self.used = set()

    def __call__(self, key, **gaps):
        self.used.add(key)
        return f"⟦{super().__call__(key, **gaps)}⟧"


class Models:
    """The little of a service that a page asks before anybody has come."""

    def models(self):
        return [MODEL]


def view(**changes):
    files = [
        {"name": f"a{suffix}", "modality": name, "sample": 0, "type": kind, "bytes": 1, "sha256": "0"}
        for suffix, name, kind in (
            (".txt", "text", "text/plain"),
            (".png", "image", "image/png"),
            (".wav", "audio", "audio/wav"),
            (".mp4", "video", "video/mp4"),
        )
    ]
    values = {
        "id": "a",
        "owner": "local",
        "state": "done",
        "model": WICKED,
        "request": {"text": WICKED, "to": ["image"]},
        "created": 0.0,
        "files": files,
        "record": {"samples": [{"seed": 3}], "note": WICKED},
        "notes": [WICKED],
    }
    return JobView(**{**values, **changes})


def gaps(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_both_languages_have_every_sentence_with_the_same_gaps():
    assert list(LANGUAGES) == ["en", "de"]
    for key, said in TABLE.items():
        assert len(said) == 2 and all(each.strip() for each in said), key
        assert gaps(said[0]) == gaps(said[1]), key
    same = [key for key, (english, german) in TABLE.items() if english == german]
    assert set(same) <= {"prompt.hint", "negative.hint", "kind.text", "world.tempi"}


def test_no_label_of_the_page_stands_outside_the_table():
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'codi[serve]'")
    from codi.serve import page

    words = Marked()
    config = page.build(Models(), lambda request: "local", words).get_config_file()
    numbers = {"20", "2", "4", "1"}  # the model's own, in fields that are empty
    for component in config["components"]:
        props = component["props"]
        for name in ("label", "info", "placeholder"):
            text = props.get(name)
            assert not text or "⟦" in text or text in numbers, (component["type"], name, text)
        if component["type"] == "button":
            assert "⟦" in props["value"], props["value"]
        for choice in props.get("choices") or ():
            assert "⟦" in choice[0] or choice[0] == choice[1], choice
    assert "⟦" in config["title"]
    spoken = {
        key
        for key in TABLE
        if not key.startswith(("error", "state", "tag", "progress", "history", "control."))
    }
    later = {
        "used",
        "prompt.number",
        "filled",
        "empty.title",
        "empty.text",
        "preview",
        "preview.alt",
        "preview.none",
        "world",
    }
    render(words)
    assert not (left := sorted(spoken - words.used - later)), left


def render(words):
    """Everything that is shown of jobs."""
    shown = [cards.result(view(), words, {"a.txt": WICKED})]
    shown.append(cards.history([view(), view(request={"image": "x.png", "to": "text"})], words, more=True))
    shown.append(cards.bars(words, ["image", "audio"], {"steps": 4, "outputs": {"image": [2, 4]}}))
    shown.append(cards.error(words, WICKED))
    shown.append(cards.note(WICKED))
    previews = {
        "image": {"type": "image/png", "data": WICKED},
        "text": {"type": "text/plain", "data": WICKED},
    }
    shown.append(cards.previews(words, ["image", "text", "audio"], {0: previews}))
    shown.append(cards.previews(words, ["image"], {0: {"image": {"type": "text/html", "data": "x"}}}))
    shown.append(frame.examples(words, [WICKED]))
    shown.append(frame.world(words, {"colours": [WICKED]}))
    shown.append(
        cards.result(view(id=WICKED, files=[{"name": WICKED, "modality": "image", "sample": 0}]), words, {})
    )
    return shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_people_wrote_is_text_everywhere(language):
    for shown in render(Words(language)):
        assert "<script" not in shown and "<img src=x" not in shown
    assert "&lt;script&gt;" in render(Words(language))[0]


def test_a_result_says_what_it_is_to_those_who_cannot_see_it():
    shown = cards.result(
        view(request={"text": "a red ball", "to": ["image"]}), Words(), {"a.txt": "a red ball"}
    )
    assert 'alt="Picture made from: a red ball"' in shown
    assert 'aria-label="Clip made from: a red ball"' in shown and 'aria-label="Download a.png"' in shown
    assert "seed 3" in shown and shown.index("<video") < shown.index("<audio")
    assert shown.count("<codi-player") == 2, "a clip with its sound, and the sound"
    silent = [file for file in view().files if file["modality"] != "audio"]
    assert "<codi-player" not in cards.result(view(files=silent), Words(), {})


def test_states_and_errors_are_spoken():
    words = Words("de")
    assert 'role="status" aria-live="polite"' in cards.status(words, "running")
    assert 'role="alert"' in cards.error(words, "x")


def test_seeds_come_from_records():
    assert cards.seed_of({"samples": [{"seed": 3}, {"seed": 9}]}, 1) == 9
    assert cards.seed_of(None, 0) is None and cards.seed_of({"samples": []}, 0) is None


def test_long_prompts_are_cut_and_requests_without_words_say_so():
    words = Words()
    assert len(cards.title_of({"text": "a" * 500}, words)) == 90
    assert cards.title_of({"audio": [{"value": "x.wav"}]}, words) == "Sound (without words)"
    goes_on = {"continue": {"files": ["a.mp4"], "seconds": 8}, "to": "video, audio"}
    assert cards.title_of(goes_on, words) == "Clip, Sound: goes on to 8 s"


def test_what_was_painted_is_handed_on_without_being_decoded(tmp_path):
    gr = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'codi[serve]'")
    from gradio.components.image_editor import EditorData, EditorDataBlobs
    from gradio.data_classes import FileData

    from codi.serve.page import parts

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with gr.Blocks():
        editors = [parts.mask("mask"), parts.sheet("sheet")]
    for editor in editors:
        one = FileData(path=str(bad))
        asked = EditorData(background=one, layers=[one], composite=one)
        paths = {"background": str(bad), "layers": [str(bad)], "composite": str(bad)}
        assert editor.preprocess(asked) == paths and editor.preprocess(None) is None
        blobs = EditorDataBlobs(background=None, layers=[None, b"no picture"], composite=None)
        editor.blob_storage["7"] = blobs
        found = editor.preprocess(EditorData(id="7"))
        assert [Path(layer).read_bytes() for layer in found["layers"]] == [b"no picture"]
        assert editor.blob_storage == {} and editor.preprocess(EditorData(id="8")) is None


def test_another_model_brings_its_own_words_numbers_and_lengths():
    gr = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'codi[serve]'")
    from codi.serve.page import blocks, fields

    other = {**MODEL, "name": "other", "outputs": ["image", "audio"], "words": None}
    other |= {
        "defaults": {"image": {"num_inference_steps": 7}},
        "sizes": {"audio": {"audio_length_in_s": 5.0}},
    }
    with gr.Blocks():
        here = fields.lay_out(Words(), [MODEL, other], MODEL["words"])
        fields.lay_out_more(here)
    changes = blocks._model_chosen(here, "other")
    assert changes[here.by_name["steps"]]["placeholder"] == "7"
    assert changes[here.by_name["size.audio_length_in_s"]]["placeholder"] == "5"
    assert changes[here.by_name["outputs"]]["value"] == ["image", "audio"]
    assert changes[here.marks["world"]]["visible"] is changes[here.examples]["visible"] is False
    assert changes[here.by_name["region0.interval"]]["seconds"] == 5.0
    back = blocks._model_chosen(here, "codi-tiny")
    assert back[here.by_name["image.num_inference_steps"]]["placeholder"] == "20"
    assert back[here.marks["world"]]["visible"]
    assert back.keys() == changes.keys()
