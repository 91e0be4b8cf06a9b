"""What happens when somebody presses a button: the form becomes a job, a job becomes what is shown.

A handler returns a dict of what changes, by component. Blocking calls of the service run in threads, so that
the page answers while jobs are checked.
"""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from codi.job_files import with_files
from codi.modalities import kind_of
from codi.serve.page import cards, form, frame, readers
from codi.serve.page.fields import Fields
from codi.serve.page.words import Words
from codi.serve.service import NoSuchJob, QueueFull
from codi.types import InputError, Modality

PAST = 12  # jobs in the history at first
LONGEST_TEXT = 4000  # letters of a text that was made, on its card
BAR_SECONDS = 0.2  # between two states of the bars
PREVIEW_SECONDS = 0.3  # between two states of the previews
LOOK_SECONDS = 2.0  # without news, until the queue is looked at again
FINAL = ("done", "failed", "cancelled")
Changes = dict[Any, Any]


@dataclass(kw_only=True)
class Panels:
    """The parts of the page that show jobs.

    Attributes:
        problem: where errors stand, below the button.
        status: the line that says how the job stands.
        bars: the progress of every output.
        previews: what they seem to become.
        results: the results that are looked at.
        history: the list of jobs.
        make: the button that makes.
        cancel: the button that cancels.
        job: the id of the job that is followed; "" for none.
        shown: how many jobs the history has.
    """

    problem: gr.HTML
    status: gr.HTML
    bars: gr.HTML
    previews: gr.HTML
    results: gr.HTML
    history: gr.HTML
    make: gr.Button
    cancel: gr.Button
    job: gr.State
    shown: gr.State


@dataclass(kw_only=True)
class Actions:
    """The handlers of the page.

    Attributes:
        service: the queue of jobs; nothing else is asked.
        words: the language.
        fields: the form.
        panels: what shows jobs.
        owner: whose jobs a request may see.
        root: the path under which the server lies.
    """

    service: Any
    words: Words
    fields: Fields
    panels: Panels
    owner: Callable[[Any], str]
    root: str = ""

    # Making

    async def make(self, data: dict[Any, Any], request: gr.Request) -> AsyncIterator[Changes]:
        """Make a job of the form, and show how it goes."""
        values = self.fields.values(data)
        async for changes in self._submitted(lambda owner: self._submit(values, owner), request):
            yield changes

    def _submit(self, values: Mapping[str, Any], owner: str) -> Any:
        """Submit what the form says; runs in a thread."""
        folder = Path(tempfile.mkdtemp(prefix="codi-page-"))
        try:
            model = self.fields.model(values.get("model"))
            asked = form.read(values, folder, model.get("sizes"), self.service.mask)
            files = {name: _copied(path, folder / name) for name, path in asked.files.items()}
            return self.service.submit(asked.request, owner, files, asked.model)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _submitted(self, submit: Callable[[str], Any], request: gr.Request) -> AsyncIterator[Changes]:
        """Submit a job, and follow it; what cannot be submitted is said in place."""
        panels = self.panels
        try:
            owner = self.owner(request)
            view = await asyncio.to_thread(submit, owner)
        except Exception as error:
            yield {panels.problem: cards.error(self.words, self._said(error))}
            return
        async for changes in self._follow(view.id, owner):
            yield changes

    def _said(self, error: Exception) -> str:
        """Return what is said of an error to whoever made it."""
        if isinstance(error, readers.FormError):
            gaps = dict(error.values)
            if "kind" in gaps:
                gaps["kind"] = self.words.kind(gaps["kind"])
            return self.words(error.key, **gaps)
        if isinstance(error, QueueFull):
            return self.words("error.full", seconds=max(1, round(error.retry_after)))
        if isinstance(error, NoSuchJob):
            return self.words("error.gone")
        if isinstance(error, TimeoutError):
            return self.words("error.busy")
        if isinstance(error, InputError):
            return str(error)
        logging.getLogger(__name__).error("the page could not answer", exc_info=error)
        return self.words("error.server")

    async def _follow(self, job: str, owner: str) -> AsyncIterator[Changes]:
        """Show how a job goes until it has ended."""
        panels, words = self.panels, self.words
        view = await asyncio.to_thread(self.service.get, job, owner)
        outputs = cards.outputs_of(view.request)
        previews: dict[int, dict[str, Any]] = {}
        begun = {
            panels.problem: "",
            panels.job: job,
            panels.make: gr.Button(interactive=False),
            panels.cancel: gr.Button(visible=True),
            panels.results: "",
            panels.bars: cards.bars(words, outputs, {}),
            panels.previews: cards.previews(words, outputs, previews),
            panels.status: self._status(view),
        }
        yield begun | await self._history(owner)
        shown_at = seen_at = 0.0
        unseen = False
        async for event in self._events(job, owner):
            if event is None or event.kind in ("queued", "started"):
                view = await asyncio.to_thread(self.service.get, job, owner)
                yield {panels.status: self._status(view)}
            elif event.kind == "preview":
                newest = previews.setdefault(int(event.data.get("sample") or 0), {})
                newest.update(event.data.get("outputs") or {})
                unseen = True
            elif event.kind == "progress" and time.monotonic() - shown_at > BAR_SECONDS:
                shown_at = time.monotonic()
                yield {panels.bars: cards.bars(words, outputs, event.data)}
            if unseen and time.monotonic() - seen_at > PREVIEW_SECONDS:  # those of all samples at once
                unseen, seen_at = False, time.monotonic()
                yield {panels.previews: cards.previews(words, outputs, previews)}
        yield await self._ended(job, owner)

    async def _events(self, job: str, owner: str) -> AsyncIterator[Any]:
        """Yield what happens to a job until it has ended, and None now and then while nothing happens."""
        last = 0
        while True:
            begun = time.monotonic()
            async for event in self.service.aevents(job, owner, last, LOOK_SECONDS):
                last = event.number
                if event.kind in FINAL:
                    return
                yield event
            if (await asyncio.to_thread(self.service.get, job, owner)).state in FINAL:
                return
            if time.monotonic() - begun < LOOK_SECONDS / 2:  # the server ends, and lets all go who wait
                return
            yield None

    def _status(self, view: Any) -> str:
        """Return the line of how a job stands."""
        if view.state == "queued":
            if view.position and view.position > 1:
                return cards.status(self.words, "queued", position=view.position - 1)
            return cards.status(self.words, "queued.next")
        if view.state == "done":
            taken = (view.ended or 0) - (view.started or view.created or 0)
            return cards.status(self.words, "done", seconds=f"{max(0.0, taken):.1f}")
        return cards.status(self.words, view.state)

    async def _ended(self, job: str, owner: str) -> Changes:
        """Return what changes when a job has ended."""
        panels = self.panels
        changes: Changes = {
            panels.make: gr.Button(interactive=True),
            panels.cancel: gr.Button(visible=False),
            panels.bars: "",
            panels.previews: "",
            panels.job: "",
        }
        try:
            view = await asyncio.to_thread(self.service.get, job, owner)
            changes |= await self._shown(view, owner)
        except NoSuchJob as error:
            changes |= {panels.status: "", panels.problem: cards.error(self.words, self._said(error))}
        return changes | await self._history(owner)

    async def _shown(self, view: Any, owner: str) -> Changes:
        """Return what shows a job that has ended."""
        panels = self.panels
        changes: Changes = {panels.status: self._status(view), panels.problem: ""}
        if view.state == "failed":
            changes[panels.problem] = cards.error(self.words, view.error or self.words("state.failed"))
        if view.state == "done":
            said = await asyncio.to_thread(self._said_in, view, owner)
            changes[panels.results] = cards.result(view, self.words, said, self.root)
        else:
            changes[panels.results] = frame.empty(self.words)
        return changes

    def _said_in(self, view: Any, owner: str) -> dict[str, str]:
        """Return the words of those of a job's files that hold words."""
        found = {}
        for file in view.files:
            if file.get("modality") in Modality and kind_of(file["modality"]).in_words:
                with suppress(NoSuchJob, OSError):
                    path = self.service.file(view.id, file["name"], owner)
                    found[file["name"]] = path.read_text(encoding="utf-8", errors="replace")[:LONGEST_TEXT]
        return found

    async def _history(self, owner: str, most: int = PAST) -> Changes:
        """Return the list of jobs as it is now."""
        views = await asyncio.to_thread(self.service.list, owner, most + 1)
        shown = cards.history(views[:most], self.words, self.root, more=len(views) > most)
        return {self.panels.history: shown}

    # Beside it

    async def arrive(self, request: gr.Request) -> AsyncIterator[Changes]:
        """Show what there is when the page opens: the job that runs, or the newest results."""
        panels = self.panels
        try:
            owner = self.owner(request)
            views = await asyncio.to_thread(self.service.list, owner, PAST)
        except Exception as error:
            yield {panels.problem: cards.error(self.words, self._said(error))}
            return
        active = next((view for view in views if view.state not in FINAL), None)
        if active is not None:
            async for changes in self._follow(active.id, owner):
                yield changes
            return
        changes = await self._history(owner)
        newest = next((view for view in views if view.state == "done"), None)
        if newest is not None:
            changes |= await self._shown(newest, owner)
            changes[panels.status] = ""
        yield changes

    async def cancel(self, job: str, request: gr.Request) -> Changes:
        """Cancel the job that is followed; its events then end."""
        with suppress(NoSuchJob):
            if job:
                await asyncio.to_thread(self.service.cancel, job, self.owner(request))
        return {self.panels.cancel: gr.Button(interactive=True)}

    async def act(self, shown: int, event: gr.EventData, request: gr.Request) -> AsyncIterator[Changes]:
        """Do what a button of a card or of the history says.

        Args:
            shown: how many jobs the history has.
            event: the action, the job and the file.
            request: the browser's request.

        Yields:
            what changes.
        """
        given = event._data if isinstance(event._data, dict) else {}
        action, job, file = (str(given.get(name) or "") for name in ("action", "job", "file"))
        try:
            owner = self.owner(request)
            if action in ("again", "fresh"):
                async for changes in self._submitted(lambda who: self._again(job, who, action), request):
                    yield changes
            elif action == "more":
                yield {self.panels.shown: shown + PAST} | await self._history(owner, shown + PAST)
            elif action == "delete":
                await asyncio.to_thread(self.service.delete, job, owner)
                yield await self._history(owner, shown)
            else:
                view = await asyncio.to_thread(self.service.get, job, owner)
                yield await self._looked_at(action, view, file, owner)
        except Exception as error:
            yield {self.panels.problem: cards.error(self.words, self._said(error))}

    async def _looked_at(self, action: str, view: Any, file: str, owner: str) -> Changes:
        """Return what changes when somebody opens a job, or takes up its files or its settings."""
        if action == "open":
            return await self._shown(view, owner)
        if action == "edit":
            values = form.fields_of(view.request)
            changes = {self.fields.by_name[k]: v for k, v in values.items() if k in self.fields.by_name}
            return changes | {self.panels.problem: cards.note(self.words("filled"))}
        about = next((each for each in view.files if each["name"] == file), None)
        if about is None:
            raise NoSuchJob(view.id)
        path = await asyncio.to_thread(self.service.file, view.id, file, owner)
        return self._taken_up(action, kind_of(about["modality"]), path)

    def _taken_up(self, action: str, kind: Any, path: Path) -> Changes:
        """Return what changes when a result becomes an input: a prompt, a start of its kind, what goes on."""
        opened: Changes
        value = path.read_text(encoding="utf-8").strip() if kind.in_words else str(path)
        done = {self.panels.problem: cards.note(self.words("used"))}
        fields = self.fields
        if action == "on":
            opened = {fields.groups["continue"]: gr.Accordion(open=True)}
            return done | opened | {fields.by_name[f"continue.{kind.name}.source"]: value}
        if action == "from":
            opened = {fields.groups["edits"]: gr.Accordion(open=True)}
            opened[fields.marks["tabs"]] = gr.Tabs(selected=kind.name)
            return done | opened | {fields.by_name[f"{kind.name}.start"]: value}
        if kind.in_words:
            return done | {fields.by_name["text"]: value}
        return done | {fields.by_name["slots"]: {"add": kind.name, "value": value}}

    def _again(self, job: str, owner: str, action: str) -> Any:
        """Submit a job of the past as it was, or with a new seed."""
        view = self.service.get(job, owner)
        seed = "random" if action == "fresh" else cards.seed_of(view.record, 0)
        request = with_files(view.request, lambda name: _earlier(view, name))
        request |= {} if seed is None else {"seed": seed}
        return self.service.submit(request, owner, model=view.model)


def _earlier(view: Any, name: str) -> str:
    """Return the name that a new request has for a file of an earlier one.

    A file that was taken from a still earlier job lies beside the uploads, too, under its own name or one
    that begins with the id of that job.
    """
    if name.startswith("job:"):
        whose, _, file = name.removeprefix("job:").partition("/")
        name = next((each for each in (f"{whose}-{file}", file) if each in view.inputs), "")
    return f"job:{view.id}/{name}"


def _copied(path: Path, target: Path) -> Path:
    """Return a file at a place of its own, so that the service may move it away."""
    if path != target:
        shutil.copyfile(path, target)
    return target
