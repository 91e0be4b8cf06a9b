"""The page of `codi serve`: all that the library makes, for people who do not program; on Gradio.

    words.py                every word of the page, in English and German
    form.py readers.py lasting.py   fields -> request, without Gradio
    cards.py frame.py       jobs -> HTML, and what stands around them, without Gradio
    offers.py               what a model offers
    parts.py fields.py blocks.py   the layout
    actions.py              what happens
    theme.py routes.py assets/   looks, files for players, the choice of language

The page talks to the `Service` alone. Gradio is imported when a page is built.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codi.types import InputError

if TYPE_CHECKING:
    import fastapi
    import gradio

    from codi.serve.page.words import Words


def build(
    service: Any,
    owner: Callable[[Any], str] | None = None,
    words: "Words | None" = None,
    root: str = "",
) -> "gradio.Blocks":
    """Build the page in one language.

    Args:
        service: the queue of jobs (`codi.serve.service.Service`).
        owner: returns whose jobs a request may see; None for `codi.serve.access.owner_of`.
        words: the language; English for None.
        root: the path under which the server lies, behind a proxy.

    Returns:
        The page.

    Raises:
        InputError: Gradio is not installed.
    """
    _check_installed()
    from codi.serve.page import blocks

    return blocks.build(service, owner or _owner_of(), words, root)


def mount(
    app: "fastapi.FastAPI",
    service: Any,
    owner: Callable[[Any], str] | None = None,
    path: str = "/",
    root: str = "",
    max_file_size: int | None = None,
) -> "fastapi.FastAPI":
    """Mount the page in all its languages, behind all routes that an application has already.

    Args:
        app: the application.
        service: the queue of jobs.
        owner: returns whose jobs a request may see; None for `codi.serve.access.owner_of`.
        path: where the page lies.
        root: the path under which the server lies, behind a proxy.
        max_file_size: bytes of the largest file that the page takes; None for no limit of its own.

    Returns:
        The application.

    Raises:
        InputError: Gradio is not installed.
    """
    _check_installed()
    import gradio

    from codi.serve.page import blocks, routes, theme
    from codi.serve.page.words import DEFAULT, LANGUAGES, Words

    owner = owner or _owner_of()
    routes.add_files(app, service, owner)
    app.add_middleware(routes.ByLanguage, path=path, root=root)
    for language in sorted(LANGUAGES, key=lambda name: name == DEFAULT):  # the shortest path comes last
        gradio.mount_gradio_app(
            app,
            blocks.build(service, owner, Words(language), root),
            routes.page_path(path, language),
            root_path=root + routes.page_path(path, language).rstrip("/") if root else None,
            theme=theme.theme(),
            css=theme.css(),
            head=theme.head(language),
            footer_links=[],
            run_history=False,
            show_error=True,
            ssr_mode=False,
            max_file_size=max_file_size,
        )
    return app


def let_go(app: "fastapi.FastAPI") -> None:
    """Let all browsers go that have the page open, because the server ends; for the thread of the server."""
    for route in app.routes:
        ended = getattr(getattr(route, "app", None), "stop_event", None)  # of what Gradio has mounted
        if ended is not None:
            ended.set()


def _owner_of() -> Callable[[Any], str]:
    """Return the function that says whose jobs a request may see."""
    from codi.serve.access import owner_of

    return owner_of


def _check_installed() -> None:
    """Raise `InputError` without Gradio."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise InputError("the page needs gradio: pip install 'codi[serve]', or start with --no-page")
