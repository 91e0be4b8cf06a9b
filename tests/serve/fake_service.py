"""A service without a model, for tests of the page: real files of tiny size, real events, a little time."""

import asyncio
import base64
import hashlib
import io
import json
import struct
import threading
import time
import wave
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codi.types import InputError


class NoSuchJob(Exception):
    pass


class QueueFull(Exception):
    retry_after = 3.0


@dataclass(frozen=True, kw_only=True)
class JobView:
    id: str
    owner: str
    state: str
    model: str
    request: dict
    created: float
    started: float | None = None
    ended: float | None = None
    position: int | None = None
    progress: float = 0.0
    files: list = field(default_factory=list)
    record: dict | None = None
    error: str | None = None
    notes: list = field(default_factory=list)
    inputs: list = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    number: int
    kind: str
    data: dict


def png(level: int, size: int = 32) -> bytes:
    rows = b"".join(b"\0" + bytes((level, (x * 8) % 256, (y * 8) % 256)[c] for x in range(size) for c in range(3)) for y in range(size))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav() -> bytes:
    import math
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1); file.setsampwidth(2); file.setframerate(16000)
        samples = [int(12000 * math.sin(k * 0.17) * math.exp(-(k % 8000) / 1500)) for k in range(32000)]
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return out.getvalue()


class FakeService:
    def __init__(self, data: Path, clip: Path | None = None, step: float = 0.05):
        self.data, self.clip, self.step = Path(data), clip, step
        self.jobs: dict[str, JobView] = {}
        self.seen: dict[str, dict] = {}
        self.events_of: dict[str, list[Event]] = {}
        self.stopped: set[str] = set()
        self.lock = threading.Lock()
        for path in sorted(self.data.glob("*/job.json")):
            view = JobView(**json.loads(path.read_text()))
            self.jobs[view.id] = view

    def models(self):
        words = {"colours": ["red", "green"], "shapes": ["ball", "star"], "motions": ["bounces"], "tempi": ["slowly"], "places": ["at night"]}
        square, seconds = {"height": 64, "width": 64}, {"audio_length_in_s": 2.0}
        sizes = {"text": {}, "image": square, "audio": seconds, "video": {**square, "num_frames": 16, "fps": 8.0}}
        return [{"name": "codi-tiny", "outputs": ["text", "image", "audio", "video"], "prompts": ["text", "image", "audio", "video"], "defaults": {}, "sizes": sizes, "controls": [], "words": words}]

    def submit(self, request, owner, files={}, model=None):
        if "zzz" in str(request.get("text")):
            raise InputError("the model reads none of 'zzz': expected words that it knows")
        if "full" in str(request.get("text")):
            raise QueueFull
        name = f"job{len(self.jobs):04d}"
        self.seen[name] = {key: path.read_bytes() for key, path in files.items()}
        view = JobView(id=name, owner=owner, state="running", model=model or "codi-tiny", request=request, created=time.time(), started=time.time())
        self.jobs[name], self.events_of[name] = view, []
        threading.Thread(target=self._run, args=(name,), daemon=True).start()
        return view

    def again(self, id, owner, changes={}):
        return self.submit({**self.get(id, owner).request, **changes}, owner)

    def _tell(self, name, kind, data=None):
        with self.lock:
            self.events_of[name].append(Event(len(self.events_of[name]) + 1, kind, data or {}))

    def _run(self, name):
        view = self.jobs[name]
        self._tell(name, "started")
        steps = int(view.request.get("num_inference_steps") or 10)
        for step in range(1, steps + 1):
            if name in self.stopped:
                self.jobs[name] = replace(view, state="cancelled", ended=time.time())
                self._tell(name, "cancelled")
                return
            time.sleep(self.step)
            self._tell(name, "progress", {"step": step, "steps": steps, "outputs": {m: [step, steps] for m in view.request["to"]}})
            shown = {m: {"type": "image/png", "data": base64.b64encode(png(step * 20 % 256)).decode()} for m in view.request["to"] if m != "text"}
            if "text" in view.request["to"]:
                shown["text"] = {"type": "text/plain", "data": base64.b64encode(b"a green star").decode()}
            self._tell(name, "preview", {"sample": 0, "outputs": shown})
        folder = self.data / name
        folder.mkdir(parents=True)
        files = []
        for k in range(int(view.request.get("num_samples") or 1)):
            for m in view.request["to"]:
                suffix, mime = {"text": (".txt", "text/plain"), "image": (".png", "image/png"), "audio": (".wav", "audio/wav"), "video": (".mp4", "video/mp4")}[m]
                data = {"text": b"a green <b>star</b> bounces", "image": png(40 + 60 * k, 64), "audio": wav()}.get(m) or (self.clip.read_bytes() if self.clip else b"")
                (folder / f"{k:03d}{suffix}").write_bytes(data)
                files.append({"name": f"{k:03d}{suffix}", "modality": m, "sample": k, "type": mime, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        seed = view.request.get("seed", 0)
        seed = 4711 if seed == "random" else seed
        record = {"model": view.model, "samples": [{"seed": seed + k} for k in range(8)], "settings": {"num_inference_steps": steps}}
        self.jobs[name] = replace(view, state="done", ended=time.time(), files=files, record=record)
        (folder / "job.json").write_text(json.dumps(self.jobs[name].__dict__))
        self._tell(name, "done")

    def get(self, id, owner):
        view = self.jobs.get(id)
        if view is None or view.owner != owner:
            raise NoSuchJob(id)
        return view

    def list(self, owner, limit=50, before=None):
        return [view for view in reversed(self.jobs.values()) if view.owner == owner][:limit]

    def cancel(self, id, owner):
        self.stopped.add(id)
        return self.get(id, owner)

    def delete(self, id, owner):
        self.get(id, owner)
        del self.jobs[id]

    async def aevents(self, id, owner, after=0):
        self.get(id, owner)
        sent = after
        while True:
            with self.lock:
                events = self.events_of.get(id, [])[sent:]
            for event in events:
                yield event
                sent = event.number
                if event.kind in ("done", "failed", "cancelled"):
                    return
            await asyncio.sleep(0.02)

    def file(self, id, name, owner):
        self.get(id, owner)
        path = self.data / id / name
        if "/" in name or not path.is_file():
            raise NoSuchJob(id)
        return path
