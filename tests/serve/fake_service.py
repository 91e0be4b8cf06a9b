"""A queue that makes nothing: jobs end when a test says so, files are what a test wrote."""

import asyncio
import hashlib
import json
import secrets
import time
from dataclasses import replace

from codi.serve.limits import Limits
from codi.serve.values import FINAL, Event, JobView, NoSuchFile, NoSuchJob, QueueFull
from codi.types import InputError


class FakeService:
    """The interface of `codi.serve.service.Service`, without a process that makes anything.

    Attributes:
        ends: how jobs end as soon as somebody waits for them; None for not at all.
        full: seconds after which there is room; None while there is.
        taken: what was submitted: request, owner, the contents of files, model.
    """

    def __init__(self, data, limits=None):
        self.data = data
        self.limits = limits or Limits()
        self.jobs: dict[str, JobView] = {}
        self.log: dict[str, list[Event]] = {}
        self.contents: dict[str, dict[str, bytes]] = {}
        self.taken: list[tuple] = []
        self.ends: str | None = "done"
        self.full: float | None = None
        self.media: dict[str, bytes] = {}

    def submit(self, request, owner, files=None, model=None):
        if self.full is not None:
            raise QueueFull("3 jobs wait already", self.full)
        if '"nothing"' in json.dumps(request.get("text")):
            raise InputError("nothing can be made of it:\nexpected something")
        self.taken.append((request, owner, {n: p.read_bytes() for n, p in (files or {}).items()}, model))
        id_ = secrets.token_hex(8)
        view = JobView(
            id=id_,
            owner=owner,
            state="queued",
            model=model or "codi-tiny",
            request=request,
            created=time.time(),
            position=1,
        )
        self.jobs[id_] = view
        self.log[id_] = [Event(number=1, kind="queued", data={})]
        return view

    def end(self, id_, state="done", error=None):
        """Ends a job, with a file for each output."""
        view = self.jobs[id_]
        to = view.request["to"]
        made = []
        suffixes = {"image": "png", "audio": "wav", "video": "mp4", "text": "txt"}
        types = {"png": "image/png", "wav": "audio/wav", "mp4": "video/mp4", "txt": "text/plain"}
        self.contents[id_] = {}
        for k in range(view.request.get("num_samples", 1)):
            for output in to.split(",") if isinstance(to, str) else to:
                suffix = suffixes[output]
                stem = id_ if view.request.get("num_samples", 1) == 1 else f"{id_}-{k:03d}"
                content = self.media.get(output, f"{output} {k}".encode())
                self.contents[id_][f"{stem}.{suffix}"] = content
                made.append(
                    {
                        "name": f"{stem}.{suffix}",
                        "modality": output,
                        "sample": k,
                        "type": types[suffix],
                        "bytes": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                    }
                )
        samples = {}
        for file in made:
            sample = samples.setdefault(file["sample"], {"seed": 0, "files": [], "sha256": {}})
            sample["files"].append(file["name"])
            sample["sha256"][file["name"]] = file["sha256"]
        record = {
            "request": "x",
            "record": 1,
            "model": {"name": view.model},
            "inputs": [],
            "outputs": to,
            "samples": list(samples.values()),
        }
        self.contents[id_][f"{id_}.json"] = json.dumps(record).encode()
        done = state == "done"
        self.jobs[id_] = replace(
            view,
            state=state,
            ended=time.time(),
            started=view.created,
            position=None,
            progress=1.0 if done else 0.5,
            files=made if done else [],
            record=record if done else None,
            error=error,
        )
        self.log[id_] += [
            Event(number=2, kind="started", data={}),
            Event(number=5, kind="progress", data={"step": 1, "steps": 2, "outputs": {"image": [1, 2]}}),
            Event(number=9, kind=state, data={"error": error} if error else {}),
        ]

    def get(self, id, owner):
        view = self.jobs.get(id)
        if view is None or view.owner != owner:
            raise NoSuchJob(id)
        return view

    def list(self, owner, limit=50, before=None):
        own = [view for view in reversed(self.jobs.values()) if view.owner == owner]
        if before is not None:
            own = own[1 + [view.id for view in own].index(self.get(before, owner).id) :]
        return own[:limit]

    def cancel(self, id, owner):
        if self.get(id, owner).state not in FINAL:
            self.end(id, "cancelled")
        return self.get(id, owner)

    def delete(self, id, owner):
        self.get(id, owner)
        del self.jobs[id]

    async def aevents(self, id, owner, after=0, timeout=None):
        self.get(id, owner)
        if self.ends is not None and self.jobs[id].state not in FINAL:
            error = "it broke" if self.ends == "failed" else None
            self.end(id, self.ends, error)
        while True:
            for event in list(self.log[id]):
                if event.number > after:
                    yield event
                    after = event.number
            if id not in self.jobs or self.jobs[id].state in FINAL:
                return
            await asyncio.sleep(0.02)

    def file(self, id, name, owner):
        self.get(id, owner)
        if name not in self.contents.get(id, {}):
            raise NoSuchFile(name)
        path = self.data / name
        path.write_bytes(self.contents[id][name])
        return path

    def models(self):
        return [{"name": "codi-tiny", "ready": True, "outputs": ["text", "image", "audio", "video"]}]

    def health(self):
        return {"ready": True, "queued": 3, "models": ["codi-tiny"]}
