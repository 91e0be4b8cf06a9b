"""What notebooks show of an output: media that play without a network, text that cannot be markup, a bounded
size.
"""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from codi import io
from codi.io import players
from codi.outputs import CoDiOutput

RATE = 16000


class Elements(HTMLParser):
    """The elements of a page, and that every one of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open} are never closed"

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for each, attributes in self.found if each == tag]


def held(attributes):
    """The file that an element holds."""
    head, content = attributes["src"].split(",", 1)
    assert re.fullmatch(r"data:[a-z0-9]+/[a-z0-9]+;base64", head)
    return base64.b64decode(content)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def tone(seconds):
    return torch.sin(torch.arange(round(seconds * RATE)) * 0.2) / 2


def output(form="pt", samples=1, **more):
    """An output that was put together by hand, in one of its forms."""
    images, clips = [noise(3, 64, 64)] * samples, [noise(16, 3, 64, 64)] * samples
    audios = [tone(2)] * samples
    if form == "np":
        images = [image.permute(1, 2, 0).numpy() for image in images]
        clips = [clip.permute(0, 2, 3, 1).numpy() for clip in clips]
        audios = [wave.numpy() for wave in audios]
    if form == "pil":
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    media = dict(texts=["a red ball"] * samples, images=images, audios=audios, videos=clips)
    return CoDiOutput(**media, sampling_rate=RATE, fps=8.0, seeds=list(range(samples)), **more)


@pytest.mark.parametrize("form", ["pt", "np", "pil"])
def test_every_form_of_an_output_shows_its_media(form, tmp_path):
    shown = Elements(output(form)._repr_html_())
    assert "sample 0, seed 0" in shown.text and "a red ball" in shown.text
    picture, waves = shown.of("img")
    assert np.array_equal(np.asarray(Image.open(BytesIO(held(picture)))), noise(3, 64, 64).permute(1, 2, 0))
    assert Image.open(BytesIO(held(waves))).width == 768
    (clip,) = shown.of("video")
    assert "controls" in clip and "autoplay" not in clip
    (tmp_path / "clip.mp4").write_bytes(held(clip))
    played = io.load_video(tmp_path / "clip.mp4")
    assert played.frames.shape == (16, 3, 64, 64) and played.audio is not None
    (sound,) = shown.of("audio")
    wave, rate = soundfile.read(BytesIO(held(sound)))
    assert rate == RATE and np.allclose(wave, tone(2), atol=1e-3) and "controls" in sound


def test_nothing_is_fetched_and_nothing_is_run():
    shown = Elements(output()._repr_html_())
    assert not shown.of("script") and not shown.of("link") and not shown.of("iframe")
    for _, attributes in shown.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")


def test_media_say_in_words_what_they_are():
    shown = Elements(output()._repr_html_())
    assert [each["alt"] for each in shown.of("img")] == [
        "picture, 64 by 64 pixels",
        "waveform above spectrogram",
    ]
    assert shown.of("video")[0]["aria-label"] == "clip of 2 seconds"
    assert shown.of("audio")[0]["aria-label"] == "sound of 2 seconds"


def test_text_is_never_markup():
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;</div>'
    made = CoDiOutput(texts=[evil], seeds=[0], settings={"a": evil}, origin={"model": {"name": evil}})
    shown = Elements(made._repr_html_())
    assert not shown.of("script") and not shown.of("img")
    assert shown.text.count(evil) == 1  # and in the record, as JSON writes it
    assert "how it was made" in shown.text


def test_a_page_is_bounded_and_says_what_it_lacks(monkeypatch):
    many = CoDiOutput(images=[noise(3, 8, 8)] * 40, seeds=list(range(40)))._repr_html_()
    assert "28 more samples are not shown here" in many and many.count("<img") == players.ROWS
    monkeypatch.setattr(players, "LARGEST", 100_000)
    made = output(samples=3)._repr_html_()
    assert len(made) <= 100_000 and 0 < made.count("<img") < 6
    assert "media are too large to be shown here: save() writes all" in made
    Elements(made)


def test_long_clips_are_cut():
    made = players.clip(noise(300, 3, 8, 8), 10.0)
    assert "the first 24 of 30 s" in made


def test_large_media_are_made_smaller():
    shown = Elements(players.picture(Image.fromarray(noise(2000, 1000, 3).numpy())))
    small = Image.open(BytesIO(held(shown.of("img")[0])))
    assert small.size == (384, 768) and shown.of("img")[0]["alt"] == "picture, 1000 by 2000 pixels"
    assert len(held(shown.of("img")[0])) <= players.PLAIN
    long = Elements(players.sound(tone(90), RATE))
    wave, _ = soundfile.read(BytesIO(held(long.of("audio")[0])))
    assert len(wave) == 60 * RATE and "the first 60 of 90 s" in long.text
    assert long.of("audio")[0]["src"].startswith("data:audio/flac")
    assert len(Elements(players.words("a" * 5000)).text) < 2100


def test_latents_are_named_and_not_drawn():
    made = CoDiOutput(latents={"image": torch.zeros(2, 4, 8, 8)}, seeds=[0, 1])
    assert Elements(made._repr_html_()).text == "latents: image (2, 4, 8, 8)"


def test_an_empty_output_shows_nothing():
    assert CoDiOutput()._repr_html_() == ""
