"""The service with the model that is inside the package: jobs are made, as `codi generate` makes them."""

import base64
import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codi import cli
from codi.io import load_audio, sha256_of
from codi.records import read_record
from codi.serve.service import Limits, NoSuchFile, NoSuchJob, QueueFull, Service
from codi.types import InputError

ME = "me"
STAR = {"text": "a red star bounces in the snow", "to": "image", "steps": 2}
SLOW = {**STAR, "steps": 250}
MINUTE = 120.0  # patience, on a machine that does other things


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    found = Service(tmp_path_factory.mktemp("data"), limits=Limits(max_queue=6), device="cpu")
    found.start()
    try:
        assert found.wait_ready(300)
        yield found
    finally:
        found.stop()


def ended(service, job, owner=ME):
    """Waits for the end of a job, and returns it with its events."""
    events = list(service.events(job.id, owner, timeout=MINUTE))
    return service.get(job.id, owner), events


def made(service, request, **given):
    job, _ = ended(service, service.submit(request, ME, **given))
    assert job.state == "done", job.error
    return job


def refused(call, *values, **named):
    with pytest.raises(InputError) as caught:
        call(*values, **named)
    said = str(caught.value)
    assert "\n" not in said and "/data" not in said and "results" not in said
    return said


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def path_of(service, job, modality="image", sample=0):
    name = next(f["name"] for f in job.files if (f["modality"], f["sample"]) == (modality, sample))
    return service.file(job.id, name, ME)


def generated(folder, *options, job=None):
    """Makes a job with `codi generate`, and returns the folder."""
    if job is not None:
        (folder / "jobs.jsonl").write_text(json.dumps({"id": "solo", **job}))
        options = ("--jobs", str(folder / "jobs.jsonl"))
    assert cli.main(["generate", *options, "--quiet", "--device", "cpu", "-o", str(folder / "out")]) == 0
    return folder / "out"


def picture(folder, name="photo.png", colour=(200, 30, 30)):
    path = folder / f"part-of-{name}"
    Image.new("RGB", (70, 50), colour).save(path, format="PNG")
    return {name: path}


# What is made ----------------------------------------------------------


def test_a_job_is_made_as_codi_generate_makes_it(service, tmp_path):
    request = {**STAR, "to": "image,audio,text", "seed": 7, "num_samples": 2}
    job = made(service, request)
    out = generated(tmp_path, job=request)
    for sample in (0, 1):
        solo = out / f"solo-00{sample}"
        assert np.array_equal(pixels(path_of(service, job, "image", sample)), pixels(f"{solo}.png"))
        assert path_of(service, job, "text", sample).read_text() == Path(f"{solo}.txt").read_text()
        sounds = [path.read_bytes()[44:] for path in (path_of(service, job, "audio", sample),)]
        assert sounds[0][:60_000] == Path(f"{solo}.wav").read_bytes()[44:60_044]
    for file in job.files:
        assert sha256_of(service.file(job.id, file["name"], ME)) == file["sha256"]
    own, solo = job.record, json.loads((out / "solo.json").read_text())
    assert own["resolved"] == solo["resolved"] and own["inputs"] == solo["inputs"]
    assert own["model"]["weights"] == solo["model"]["weights"]
    assert job.progress == 1.0 and job.error is None and job.ended >= job.started >= job.created


def test_jobs_that_are_made_together_equal_their_solo_runs(service, tmp_path):
    first = service.submit({**STAR, "steps": 60}, ME)  # meanwhile the others wait
    requests = [{**STAR, "text": f"a {colour} ball", "seed": k} for k, colour in enumerate(("red", "blue"))]
    jobs = [service.submit(request, ME) for request in requests]
    assert ended(service, first)[0].state == "done"
    jobs = [ended(service, job)[0] for job in jobs]
    lines = [json.dumps({"id": job.id, **job.request}) for job in jobs]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    alone = generated(tmp_path, "--jobs", str(tmp_path / "jobs.jsonl"), "--batch", "1")
    for job in jobs:
        [sample] = job.record["samples"]
        assert sample["batch"]["rows"] == 2  # they were made together
        assert read_record(path_of(service, job)).inputs[0]["text"] == job.request["text"]
        apart = np.abs(pixels(path_of(service, job)) - pixels(alone / f"{job.id}.png"))
        assert apart.max() <= 1  # but for rounding
    (tmp_path / "again").mkdir()
    again = generated(tmp_path / "again", "--from", str(path_of(service, jobs[1])))
    assert np.array_equal(pixels(path_of(service, jobs[1])), pixels(again / "000.png"))  # to the bit


def test_events_tell_what_happens_and_previews_show_it(service):
    job = service.submit({**STAR, "to": "text,image,audio,video", "steps": 5, "num_samples": 2}, ME)
    job, events = ended(service, job)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["queued", "started"] and kinds[-1] == "done"
    assert [e.number for e in events] == sorted({e.number for e in events})
    last = [event for event in events if event.kind == "progress"][-1].data
    assert last["step"] == last["steps"] and last["progress"] == 1.0
    assert last["outputs"] == {name: [5, 5] for name in ("text", "image", "audio", "video")}
    seen: dict = {}
    samples = set()
    for event in events:
        if event.kind == "preview":
            seen |= event.data["outputs"]
            samples.add(event.data["sample"])
    assert samples == {0, 1}
    assert set(seen) == {"text", "image", "audio", "video"}
    assert base64.b64decode(seen["text"]["data"]).decode().split()
    for name, form in (("image", "WEBP"), ("audio", "PNG"), ("video", "WEBP")):
        content = base64.b64decode(seen[name]["data"])
        assert len(content) <= 64 << 10
        with Image.open(io.BytesIO(content)) as shown:
            assert shown.format == form and seen[name]["type"] == f"image/{form.lower()}"
            assert getattr(shown, "n_frames", 1) == (16 if name == "video" else 1)
    assert list(service.events(job.id, ME, after=events[-1].number)) == []
    assert [e.kind for e in service.events(job.id, ME)] == ["queued", "started", "done"]


def test_an_upload_is_a_prompt_and_a_result_is_one_for_the_next_job(service, tmp_path):
    request = {"image": "photo.png::2", "to": "text", "steps": 2}
    job = made(service, request, files=picture(tmp_path))
    assert job.inputs == ["photo.png"] and job.request == request
    assert job.record["inputs"][0]["path"] == "photo.png" and job.record["inputs"][0]["weight"] == 2
    assert service.file(job.id, "photo.png", ME).is_file()
    star = made(service, STAR)
    again = {"start": {"image": f"job:{star.id}/{star.id}.png"}, "strength": 0.5, **STAR}
    assert made(service, again).record["sources"][0]["path"] == f"{star.id}.png"
    assert made(service, {**request, "image": f"job:{job.id}/photo.png"}).state == "done"
    for path in (service.data / "results").iterdir():
        assert str(service.data).encode() not in path.read_bytes()  # no folder of the server in any file
    for wrong in (f"job:{star.id}/queue.sqlite", f"job:{star.id}/../../queue.sqlite", "job:none/x.png"):
        assert "there is no file job:" in refused(service.submit, {**request, "image": wrong}, ME)
    said = refused(service.submit, {**request, "image": f"job:{star.id}/{star.id}.png"}, "you")
    assert "there is no file job:" in said  # of somebody else


def test_a_sound_goes_on_beyond_the_length_of_the_model(service):
    sound = made(service, {**STAR, "to": "audio"})
    name = f"job:{sound.id}/{sound.id}.wav"
    goes_on = {"continue": {"files": [name], "seconds": 4}, "to": "audio", "steps": 3, "resample_steps": 1}
    job, events = ended(service, service.submit(goes_on, ME))
    assert job.state == "done", job.error
    last = [event.data for event in events if event.kind == "progress"][-1]
    assert last["progress"] == 1.0 and last["outputs"] == {"audio": [6, 6]}  # three of each of two windows
    assert job.record["continued"]["windows"] == 2 and job.record["inputs"] == []
    wave, rate = load_audio(path_of(service, job, "audio"))
    first, _ = load_audio(path_of(service, sound, "audio"))
    assert len(wave) == 4 * rate and np.allclose(wave[: len(first)], first, atol=2**-14)
    assert read_record(path_of(service, job, "audio")).inputs[0]["text"] == STAR["text"]  # its own words
    assert str(service.data).encode() not in path_of(service, job, "audio").read_bytes()
    many = {"files": [name], "seconds": 60, "overlap": 1.99}
    said = refused(service.submit, {**goes_on, "continue": many}, ME)
    assert "windows: this server takes at most 120" in said


def test_what_was_painted_is_read_by_the_process_that_makes(service, tmp_path):
    layer = Image.new("RGBA", (8, 8))
    layer.putpixel((1, 2), (255, 0, 0, 9))
    layer.save(tmp_path / "layer.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "empty.png")
    layers = [tmp_path / "layer.png", tmp_path / "empty.png"]
    for stays, inside in ((True, 255), (False, 0)):
        assert service.mask(layers, tmp_path / "mask.png", stays)
        mask = Image.open(tmp_path / "mask.png")
        assert (mask.mode, mask.getpixel((1, 2)), mask.getpixel((2, 1))) == ("L", inside, 255 - inside)
    assert not service.mask(layers[1:], tmp_path / "none.png", True) and not (tmp_path / "none.png").exists()
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no picture")
    said = refused(service.mask, [tmp_path / "bad.png"], tmp_path / "none.png", True)
    assert said.startswith("what was painted cannot be read")


def test_words_that_are_not_read_are_noted(service):
    job = service.submit({**STAR, "text": "a red zebra star"}, ME)
    assert "'zebra'" in job.notes[0]
    service.delete(job.id, ME)


# What is refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"text": "a red ball"}, "nothing to make"),
        ({"to": "image"}, "no prompt"),
        ({**STAR, "to": "smell"}, "unknown modality 'smell'"),
        ({**STAR, "colour": "red"}, "unknown key 'colour'"),
        ({**STAR, "steps": "many"}, 'steps is "many"'),
        ({**STAR, "steps": 251}, "num_inference_steps is 251: this server takes at most 250"),
        ({**STAR, "num_samples": 17}, "num_samples times candidates is 17"),
        ({**STAR, "num_samples": 6, "candidates": 3}, "num_samples times candidates is 18"),
        ({**STAR, "height": 2048, "width": 2048}, "pixels: this server takes at most"),
        ({**STAR, "height": 63}, "height is 63"),
        ({**STAR, "to": "audio", "seconds": 61}, "audio_length_in_s is 61"),
        ({**STAR, "text": "zebra"}, "can read nothing in 'zebra'"),
        ({**STAR, "text": {"value": 3}}, "text is"),
        ({**STAR, "image": "https://example.org/a.png"}, "https"),
        ({**STAR, "control": {"video": {"beats": [0.1]}}}, "control"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(service, request_, expected):
    assert expected in refused(service.submit, request_, ME)


def test_uploads_are_decoded_before_a_job_is_taken(service, tmp_path):
    (tmp_path / "part").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    request = {"image": "photo.png", "to": "text"}
    said = refused(service.submit, request, ME, files={"photo.png": tmp_path / "part"})
    assert said.startswith("photo.png is damaged")
    (tmp_path / "sound").write_text("not a sound at all")
    said = refused(service.submit, {"audio": "a.wav", "to": "text"}, ME, files={"a.wav": tmp_path / "sound"})
    assert said.startswith("a.wav is a text")
    assert sorted(p.name for p in (service.data / "inputs").iterdir()) == sorted(
        job.id for job in service.list(ME, 999)
    )


def test_an_unknown_model_is_refused(service):
    assert "expected codi-tiny" in refused(service.submit, STAR, ME, model="other")
    [model] = service.models()
    assert model["ready"] and model["outputs"] == ["text", "image", "audio", "video"]
    assert model["sizes"]["video"]["num_frames"] == 16 and "red" in model["words"]["colours"]


# Owners, cancelling, the queue -----------------------------------------


def test_jobs_of_others_do_not_exist(service):
    job = made(service, STAR)
    name = job.files[0]["name"]
    for call in (service.get, service.cancel, service.delete, service.events, service.aevents):
        with pytest.raises(NoSuchJob):
            call(job.id, "you")
    with pytest.raises(NoSuchJob):
        service.file(job.id, name, "you")
    with pytest.raises(NoSuchJob):
        service.list("you", before=job.id)
    assert service.list("you") == []
    assert service.list(ME)[0].id == job.id
    for wrong in ("queue.sqlite", "../queue.sqlite", f"../results/{name}", "/etc/passwd", ""):
        with pytest.raises(NoSuchFile):
            service.file(job.id, wrong, ME)


def test_a_job_that_is_being_made_is_cancelled_within_a_step(service):
    job = service.submit({**SLOW, "num_samples": 4}, ME)
    for event in service.events(job.id, ME, timeout=MINUTE):
        if event.kind == "progress":
            break
    began = time.monotonic()
    assert service.cancel(job.id, ME).state == "cancelled"
    assert made(service, STAR).state == "done"  # the next one is made at once
    took = time.monotonic() - began
    assert service.get(job.id, ME).state == "cancelled" and service.get(job.id, ME).files == []
    assert list((service.data / "results").glob(f"{job.id}*")) == []
    assert took < 60  # 250 steps of four would take minutes on such a machine


def test_a_queue_that_is_full_says_when_to_come_again(service):
    running = service.submit(SLOW, ME)
    jobs = [running]
    with pytest.raises(QueueFull) as caught:
        while len(jobs) < 20:
            jobs.append(service.submit(STAR, ME))
    assert caught.value.retry_after >= 1 and len(jobs) in (6, 7)
    waiting = [service.get(job.id, ME) for job in jobs[1:]]
    positions = [job.position for job in waiting if job.state == "queued"]
    assert positions == sorted(positions) and len(positions) >= 5
    for job in jobs[1:]:
        service.delete(job.id, ME)
    service.delete(running.id, ME)
    for job in jobs:
        with pytest.raises(NoSuchJob):
            service.get(job.id, ME)
    assert service.health()["queued"] == 0
    assert made(service, STAR).state == "done"


@pytest.mark.slow
def test_a_job_at_which_the_process_dies_is_made_by_the_next_process(service):
    job = service.submit({**SLOW, "num_samples": 8}, ME)
    for event in service.events(job.id, ME, timeout=MINUTE):
        if event.kind == "progress":
            break
    others = [service.submit(STAR, ME)]
    os.kill(service._dispatcher.link.pid, signal.SIGKILL)
    events = service.events(job.id, ME, after=event.number, timeout=MINUTE)
    kinds = []
    for event in events:
        kinds.append(event.kind)
        if event.kind == "progress" and "started" in kinds:
            break
    assert kinds[:2] == ["queued", "started"]
    os.kill(service._dispatcher.link.pid, signal.SIGKILL)  # the second time it has failed
    job, _ = ended(service, job)
    assert job.state == "failed" and "ended 2 times" in job.error
    assert ended(service, others[0])[0].state == "done"
    assert list((service.data / "results").glob(f"{job.id}*")) == []


# Going on --------------------------------------------------------------


def test_a_stopped_server_goes_on_and_makes_nothing_twice(service):
    done = made(service, STAR)
    stamp = path_of(service, done).stat().st_mtime_ns
    running = service.submit(SLOW, ME)
    for event in service.events(running.id, ME, timeout=MINUTE):
        if event.kind == "progress":
            break
    waiting = service.submit(STAR, ME)
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 10
    again = Service(service.data, device="cpu")
    try:
        assert [again.get(job.id, ME).state for job in (running, waiting)] == ["queued", "queued"]
        # as if the server had been killed between the last file and the note that it is done
        again._store._db.execute("UPDATE jobs SET state = 'running', files = NULL WHERE id = ?", (done.id,))
        again._store._db.execute("UPDATE jobs SET model = 'other' WHERE id = ?", (running.id,))
        again.start()
        gone = again.get(running.id, ME)
        assert (gone.state, gone.error) == (
            "failed",
            "the model other is not here any more: expected codi-tiny",
        )
        assert ended(again, waiting)[0].state == "done"
        found, events = ended(again, done)
        assert found.state == "done" and found.files == done.files
        assert "progress" not in [event.kind for event in events]
        assert path_of(again, found).stat().st_mtime_ns == stamp
    finally:
        again.stop()


@pytest.mark.slow
def test_a_filter_is_asked_before_anything_is_written_or_shown(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "def check(sample):\n"
        "    if 'ball' in sample.prompts['text'][0]:\n        return 'no balls here'\n"
        "    return {'image': sample.media['image'].convert('L').convert('RGB')}\n"
    )
    monkeypatch.chdir(tmp_path)
    filtering = Service(tmp_path / "data", device="cpu", filter="own.py:check")
    filtering.start()
    try:
        job, events = ended(filtering, filtering.submit({**STAR, "text": "a red ball"}, ME))
        assert job.state == "failed" and job.files == []
        assert job.error == "the filter own.py:check refused the sample of seed 0: no balls here"
        assert not any(job.id in path.name for path in (filtering.data / "results").iterdir())
        job, more = ended(filtering, filtering.submit(STAR, ME))
        shown = pixels(path_of(filtering, job))
        assert (shown[..., 0] == shown[..., 2]).all()  # grey, as the filter left it
        assert "preview" not in [event.kind for event in (*events, *more)]
    finally:
        filtering.stop()
