"""Give the commands that write files their options for a filter and for signing (docs/provenance.md).

`codi.filters` asks the filter, `codi.credentials` signs; neither is imported before it is needed.
"""

import os
from typing import Any

from codi.types import InputError

PASSWORD = "CODI_KEY_PASSWORD"  # the environment variable that holds the password of a key


def add_options(parser: Any) -> None:
    """Add the options for a filter and for signing to the parser of a command that writes files."""
    group = parser.add_argument_group("before a file is written (docs/provenance.md)")
    group.add_argument(
        "--filter",
        metavar="MODULE:FUNCTION",
        help="is asked of every sample and may refuse or change it; or FILE.py:FUNCTION",
    )
    group.add_argument("--sign", action="store_true", help="add C2PA credentials to every file")
    group.add_argument("--certificate", metavar="FILE", help="with --sign: your certificate chain, PEM")
    group.add_argument(
        "--key",
        metavar="FILE",
        help=f"with --sign: its private key, PEM; if it has a password, that is in {PASSWORD}",
    )


def arguments(args: Any) -> list[str]:
    """Return the options of `add_options` as they were typed, for another command."""
    found = ["--sign"] if args.sign else []
    for name in ("filter", "certificate", "key"):
        if getattr(args, name) is not None:
            found += [f"--{name}", getattr(args, name)]
    return found


def signer_of(args: Any) -> Any:
    """Return what signs the files of a command, or None.

    Args:
        args: its options.

    Returns:
        The signer (`codi.credentials.Signer`), or None without `--sign`.

    Raises:
        InputError: for a certificate or a key that is missing or cannot be used.
    """
    given = {name: getattr(args, name) for name in ("certificate", "key")}
    if not args.sign:
        if named := [f"--{name}" for name, value in given.items() if value]:
            raise InputError(f"{', '.join(named)} without --sign: expected both, or neither")
        return None
    if lacking := [f"--{name}" for name, value in given.items() if not value]:
        raise InputError(
            f"--sign without {' and '.join(lacking)}: expected your certificate chain and its key as PEM "
            "files; docs/provenance.md has a line that makes a pair for trying"
        )
    from codi.credentials import Signer

    return Signer(args.certificate, args.key, os.environ.get(PASSWORD))
