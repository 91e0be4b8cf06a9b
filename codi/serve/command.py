"""Serve `codi serve`: a page, HTTP and a queue on this machine, started in one command.

The address goes to stdout in one line as soon as the server answers; everything else goes to stderr. Nothing
heavy is imported before the options are known to be good.
"""

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import logging
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from codi import provenance
from codi.serve.limits import Limits
from codi.types import DTYPES, EMBEDDED, InputError

HOST = "127.0.0.1"
PORT = 7860  # that of Gradio
DATA = "codi-data"
RANDOM = "random"  # stands for a token that is drawn
GRACE_SECONDS = 3  # that open connections have when the server ends
HTTP_LIBRARIES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
PAGE_LIBRARIES = {"gradio": "gradio"}

_EXAMPLES = """examples:
  codi serve                                    page and HTTP on http://127.0.0.1:7860/
  codi serve --model my-model/ --model codi-tiny --device cuda
  codi serve --host 0.0.0.0 --token random      for others, with a token that is drawn and printed
"""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi serve` to the subcommands, without importing anything heavy, and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="a page, HTTP and a queue of jobs, on this machine or for others",
        description="Serves a page and HTTP (docs/serve.md); jobs wait in a queue on disk.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="folder or hub id; repeatable, the first is the default (default: the model inside the package)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default float32)")
    parser.add_argument(
        "--data", default=DATA, metavar="DIR", help=f"queue, uploads and results (default {DATA})"
    )
    parser.add_argument("--no-page", action="store_true", help="HTTP alone, which needs no Gradio")
    provenance.add_options(parser)
    _add_access(parser)
    _add_limits(parser)
    return parser


def _add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who may ask."""
    group = parser.add_argument_group("who may ask")
    group.add_argument("--host", default=HOST, help=f"where to listen (default {HOST}: this machine alone)")
    group.add_argument("--port", type=int, default=PORT, help=f"(default {PORT}; 0 for any that is free)")
    group.add_argument(
        "--token", metavar="TOKEN", help="what everybody has to show; 'random' draws one and prints it"
    )
    group.add_argument("--token-file", metavar="FILE", help="lines name:token, one for each user")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="as what browsers may call it"
    )
    group.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="under which a reverse proxy has the server, such as /codi (default: at the top)",
    )
    group.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="whose pages may read answers"
    )
    group.add_argument(
        "--allow-url",
        action="append",
        default=[],
        metavar="HOST",
        help="from which prompts may be fetched that are given as https addresses (default: none)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add an option for each limit."""
    group = parser.add_argument_group("how much it takes, makes and keeps")
    for field in fields(Limits):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            metavar="N",
            help=f"{field.metadata['help']} (default {field.default:.12g})",
        )


def run(args: argparse.Namespace) -> int:
    """Serve until an interrupt or a signal to end.

    Args:
        args: the options of `codi serve`.

    Returns:
        The exit code, 0.

    Raises:
        InputError: for options that cannot be, a model that cannot be loaded, and an address that is taken.
        KeyboardInterrupt: if it was interrupted again while it was ending.
    """
    _check_libraries(page=not args.no_page)
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    _check_open(args)
    args.root_path = _root_path(args.root_path)
    sign = _certificate(args)
    if args.token == RANDOM:
        args.token = secrets.token_urlsafe(24)
        print(f"codi: the token is {args.token}", file=sys.stderr)
    from codi.serve.access import Settings, read_tokens
    from codi.serve.service import Service

    settings = Settings(
        tokens=read_tokens(args.token, args.token_file),
        hosts=tuple(args.allow_host),
        cors=tuple(args.cors),
        allow_urls=tuple(args.allow_url),
    )
    with _ending_by_signals(), _bound(args.host, args.port) as listener:
        service = Service(
            Path(args.data), args.model or [EMBEDDED], limits, args.device, args.dtype, args.filter, sign
        )
        forced = False
        try:
            service.start()
            forced = _serve(service, settings, listener, args)
        except KeyboardInterrupt:
            pass
        finally:
            service.stop()
    if forced:
        raise KeyboardInterrupt
    return 0


def _check_libraries(page: bool) -> None:
    """Raise `InputError` where a library is missing that the server needs."""
    wanted = HTTP_LIBRARIES | (PAGE_LIBRARIES if page else {})
    lacking = [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]
    if lacking == [*PAGE_LIBRARIES.values()]:
        raise InputError(
            "the page of codi serve needs the library gradio: pip install 'codi[serve]', or leave the page "
            "out with --no-page"
        )
    if lacking:
        raise InputError(f"codi serve needs {', '.join(lacking)}: pip install 'codi[serve]'")


def _check_open(args: argparse.Namespace) -> None:
    """Raise `InputError` for a server that others could reach without a token."""
    if args.token or args.token_file:
        return
    if not _is_loopback(args.host):
        raise InputError(
            f"--host {args.host} lets other machines in, and there is no token: expected --token TOKEN, "
            f"--token {RANDOM} (one is drawn and printed), --token-file FILE, or --host {HOST}"
        )


def _root_path(text: str) -> str:
    """Return the path under which a proxy has the server, without a slash at its end."""
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise InputError(f"--root-path is {text[:80]!r}: expected a path such as /codi")
    return path


def _certificate(args: argparse.Namespace) -> tuple[Path, Path] | None:
    """Return the files with which results are signed, after trying them; None without `--sign`."""
    if provenance.signer_of(args) is None:
        return None
    return Path(args.certificate).resolve(), Path(args.key).resolve()


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Let a signal to end (SIGTERM) do what an interrupt from the keyboard does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket at an address; raise `InputError` for one that cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}: expected a number from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host} port {port} ({error.strerror}): expected an address of this "
                "machine and a free port, such as --port 0"
            ) from None
        yield listener


def _serve(service: Any, settings: Any, listener: socket.socket, args: argparse.Namespace) -> bool:
    """Load models and libraries side by side, then answer until the end.

    Returns whether somebody who interrupted it did not want to wait for open connections.
    """
    if not args.no_page:  # imports take as long as loading the models does
        threading.Thread(target=importlib.import_module, args=("gradio",), daemon=True).start()
    print("codi: loading the models", file=sys.stderr)
    service.wait_ready()
    import uvicorn

    from codi.serve.app import create_app

    app = create_app(service, settings, args.root_path)
    if not args.no_page:
        from codi.serve import page

        most = service.limits.max_upload_bytes
        app = page.mount(app, service, root=args.root_path, max_file_size=most)
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host

    class Server(uvicorn.Server):
        """Tells where it is once it answers, and lets all who wait go when it ends."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(f"http://{name}:{port}/", flush=True)

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            if self.force_exit:  # without it the application would be cut off, with a traceback
                await self.lifespan.shutdown()

        def handle_exit(self, sig: int, frame: Any) -> None:
            service.release()
            if not args.no_page:
                page.let_go(app)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, server_header=False
    )
    server = Server(config)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises once it has ended
        server.run(sockets=[listener])
    return server.force_exit


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a record of uvicorn's log tells of more than that a request was cut off at the end."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
