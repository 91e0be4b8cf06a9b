"""Serve `codi submit`: ask a server for what `codi generate` would make here, and write it here.

`codi.submitting` does it; here are the options alone, so that the command line starts quickly.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codi.failures import Failures

SERVER = "http://127.0.0.1:7860"
SERVER_VARIABLE, TOKEN_VARIABLE = "CODI_SERVER", "CODI_TOKEN"
_EXAMPLES = """examples:
  codi submit --text "a red star bounces in the snow" --to image,audio -o out/
  codi submit jobs.jsonl --server http://gpu.example:7860 -o out/        the same again resumes
"""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi submit` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "submit",
        help="ask a server of `codi serve` for what `codi generate` makes here",
        description="Sends jobs with their files to a server, and writes here what it makes.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "jobs", nargs="?", metavar="JOBS.jsonl", help="many jobs, one JSON object per line, as for generate"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--server", metavar="URL", help=f"where it is (default ${SERVER_VARIABLE}, or {SERVER})"
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help=f"what it asks for (default ${TOKEN_VARIABLE}, which others do not see)",
    )
    parser.add_argument("--model", metavar="NAME", help="one of the server's (default its first)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there under the same ids")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def run(args: argparse.Namespace, failures: Failures, show: Callable[[Path], None]) -> None:
    """Send all jobs, wait for them, and write what was made.

    Args:
        args: the options of the command.
        failures: takes jobs that cannot be made.
        show: is called with every file that is there now.
    """
    import os

    from codi import submitting

    server = args.server or os.environ.get(SERVER_VARIABLE) or SERVER
    submitting.run(args, server, args.token or os.environ.get(TOKEN_VARIABLE) or None, failures, show)
