"""Serve `codi verify FILE...`: where a file came from, whether it was changed, and what belongs to it.

It reads the record that a file carries (`codi.records`), the credentials that it was signed with
(`codi.credentials`), and the manifests that lie beside it, and says in a line each what holds and what does
not. Nothing is asked of the network.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from codi.types import EMBEDDED, InputError

MOST_MANIFESTS = 1000  # that are read beside a file
MAX_BYTES = 64 << 20  # of each
_EXAMPLES = """examples:
  codi verify out/000.mp4
  codi verify out/*.png --json
  codi verify out/000.png --trust cert.pem     # whose signatures count
"""
_MARKS = {True: "ok  ", False: "NO  ", None: "-   "}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: "record", "credentials", "unchanged", "partners" or "again".
        holds: whether it is as it should be; None where there is nothing to say yes or no to.
        text: what was found, in a line.
    """

    what: str
    holds: bool | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that was found of a file.

    Attributes:
        file: its path.
        findings: what was looked at.
        record: how it was made, as it says itself, or as a manifest does.
        credentials: what its credentials say; None without any.
    """

    file: str
    findings: list[Finding] = field(default_factory=list)
    record: dict[str, Any] | None = None
    credentials: dict[str, Any] | None = None

    @property
    def holds(self) -> bool:
        """Return whether nothing speaks against it."""
        return all(finding.holds is not False for finding in self.findings)


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi verify` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "verify",
        help="where a file came from, whether it was changed, and what was made with it",
        description="Reads the record and the credentials of files and says what holds. Exit code 1 if "
        "something does not.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("files", nargs="+", metavar="FILE", help="what codi wrote: media or texts")
    parser.add_argument(
        "--trust", metavar="FILE", help="PEM with certificates that you know, or with whose owners vouch"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Look at every file and print what was found.

    Args:
        args: the options of `codi verify`.
        show: prints a line.

    Returns:
        The exit code: 0 if nothing speaks against any file, 1 otherwise.

    Raises:
        InputError: for a file that is missing, empty or of no kind that codi writes.
    """
    from codi import io

    for path in args.files:
        io.check_file(path)
    found = [verify(path, args.trust) for path in args.files]
    if args.json:
        show(json.dumps([{**asdict(one), "holds": one.holds} for one in found], indent=2, default=str))
    else:
        for one in found:
            show(one.file)
            for finding in one.findings:
                show(f"  {_MARKS[finding.holds]}{finding.what:<12}{finding.text}")
    return 0 if all(one.holds for one in found) else 1


def verify(path: str | Path, trust: str | Path | None = None) -> Findings:
    """Return all that can be found of a file.

    Args:
        path: the file.
        trust: a PEM file with certificates that are trusted.

    Returns:
        What was found.

    Raises:
        InputError: if the file is missing, empty or of another kind than codi writes, or if `trust` cannot be
            used.
    """
    from codi import io

    io.check_file(path)
    path = Path(path)
    listed = _listed(path)
    record, about_record, carried = _record(path, listed)
    credentials, about_credentials = _credentials(path, trust, record if carried else None)
    if record is None and about_record.holds is None and credentials is not None and credentials.record:
        record = credentials.record
        about_record = Finding(what="record", holds=True, text=f"{_in_words(record)}, say its credentials")
    findings = [about_record, about_credentials, _unchanged(path, listed, credentials)]
    findings += [_partners(path, listed, credentials), _again(path, listed, record, carried)]
    if record is None and credentials is None and about_record.holds is None:
        nothing = "nothing says where it came from: no record, no credentials, no manifest beside it"
        findings = [Finding(what="record", holds=False, text=nothing)]
    told = None if credentials is None else asdict(credentials)
    return Findings(file=str(path), findings=findings, record=record, credentials=told)


# What lies beside it ---------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """Where a manifest speaks of a file.

    Attributes:
        manifest: its path.
        row: what it says of the sample that the file is of.
        record: the manifest itself.
    """

    manifest: Path
    row: dict[str, Any]
    record: dict[str, Any]

    def digest(self, name: str) -> str | None:
        """Return the digest that is listed for a file."""
        digests = self.row.get("sha256")
        found = digests.get(name) if isinstance(digests, dict) else None
        return found if isinstance(found, str) else None


def _listed(path: Path) -> Listed | None:
    """Return the manifest beside a file that lists it, the one with its digest first."""
    from codi import io

    digest, first = io.sha256_of(path), None
    for found in _speaking(path):
        if found.digest(path.name) == digest:
            return found
        first = first or found
    return first


def _speaking(path: Path) -> Iterator[Listed]:
    """Yield the manifests beside a file that list it: those that are named so, then others."""
    job = path.stem.rpartition("-")[0] or path.stem  # several samples of a job have numbers
    likely = [path.with_name(f"{name}.json") for name in dict.fromkeys((path.stem, job, "manifest"))]
    others = islice(path.parent.glob("manifest-*.json"), MOST_MANIFESTS)
    for manifest in (*likely, *sorted(others, reverse=True)):
        if not manifest.is_file() or manifest.stat().st_size > MAX_BYTES:
            continue
        try:
            row = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        samples = row.get("samples") if isinstance(row, dict) and "record" in row else None
        for sample in samples if isinstance(samples, list) else ():
            if isinstance(sample, dict) and path.name in _names(sample.get("files")):
                yield Listed(manifest, sample, row)


def _names(files: Any) -> list[str]:
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


# What is looked at -----------------------------------------------------


def _record(path: Path, listed: Listed | None) -> tuple[dict[str, Any] | None, Finding, bool]:
    """Return the record of a file, what there is to say of it, and whether the file itself carries it."""
    from codi import io, records

    text, row, place = None, None, ""
    if not _is_plain_text(path):
        text = io.read_text(path)
    if text is not None:
        try:
            records.read_record(path)
            row = json.loads(text)
        except (InputError, ValueError) as error:
            said = str(error).removeprefix(f"the record of {path} ")
            return None, Finding(what="record", holds=False, text=said), True
    elif listed is not None:
        row = {key: value for key, value in listed.record.items() if key not in ("samples", "timings")}
        row["seed"] = listed.row.get("seed")
        place = f", says {listed.manifest.name} beside it"
    if row is None:
        return None, Finding(what="record", holds=None, text="it carries none"), False
    return row, Finding(what="record", holds=True, text=_in_words(row) + place), text is not None


def _is_plain_text(path: Path) -> bool:
    """Return whether a file is a text, by its beginning."""
    with open(path, "rb") as file:
        head = file.read(512)
    try:
        return b"\0" not in head and bool(head.decode("utf-8", "strict"))
    except UnicodeDecodeError:
        return False


def _in_words(row: Mapping[str, Any]) -> str:
    """Return a record in a sentence."""
    model = row.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    said = [f"made by codi {row.get('codi')}", f"with {name or 'a model without a name'}"]
    prompts = []
    for entry in row.get("inputs", ()):
        value = entry.get("text") or entry.get("path") or entry.get("from") or "?"
        prompts.append(f'{entry.get("as")} "{str(value)[:80]}"')
    said.append(f"from {', '.join(prompts)}" if prompts else "from no prompt")
    sentence = " ".join(said) + f", seed {row.get('seed')}"
    if isinstance(row.get("filter"), dict):
        changed = ", ".join(map(str, row["filter"].get("changed", ())))
        sentence += f"; the filter {row['filter'].get('name')} changed {changed}"
    return sentence


def _credentials(path: Path, trust: Any, record: dict[str, Any] | None) -> tuple[Any, Finding]:
    """Return the credentials of a file, and what there is to say of them."""
    from codi import credentials

    try:
        credentials.load()
    except InputError as error:
        if trust is not None:
            raise
        return None, Finding(what="credentials", holds=None, text=f"not looked at: {error}")
    found = credentials.read(path, trust)
    if found is None:
        return None, Finding(what="credentials", holds=None, text="it was not signed")
    who = f"signed by {found.signer}" + (f" ({found.issuer})" if found.issuer else "")
    where = f", in {found.place.name}" if found.place != path else ""
    if found.problems or not found.holds:
        said = "; ".join(found.problems) or "they do not hold"
        return found, Finding(what="credentials", holds=False, text=f"{who}{where}: {said}")
    if record is not None and found.record is not None and record != found.record:
        said = "the record in the file is another than the one that was signed"
        return found, Finding(what="credentials", holds=False, text=f"{who}{where}: {said}")
    known = "whom you trust" if found.trusted else "whom nothing here vouches for (--trust)"
    said = f"{who}, {known}{where}: {found.source_type} by {found.generator}"
    if trust is not None and not found.trusted:
        return found, Finding(what="credentials", holds=False, text=said.replace(" (--trust)", ""))
    return found, Finding(what="credentials", holds=True, text=said)


def _unchanged(path: Path, listed: Listed | None, credentials: Any) -> Finding:
    """Say whether a file is as it was written."""
    from codi import io

    digest = None if listed is None else listed.digest(path.name)
    if digest is not None and listed is not None:
        if io.sha256_of(path) == digest:
            return Finding(what="unchanged", holds=True, text=f"as {listed.manifest.name} lists it")
        said = f"{listed.manifest.name} beside it lists another content (sha256) under this name"
        return Finding(what="unchanged", holds=False, text=said)
    if credentials is not None:
        said = "as it was signed" if credentials.holds else "its credentials do not hold"
        return Finding(what="unchanged", holds=credentials.holds, text=said)
    said = "nothing here can tell: it was not signed, and no manifest beside it lists it"
    return Finding(what="unchanged", holds=None, text=said)


def _partners(path: Path, listed: Listed | None, credentials: Any) -> Finding:
    """Say whether the files that were made with it lie beside it, and are those."""
    from codi import io
    from codi.io.content import content_sha256

    expected: dict[str, tuple[Callable[[Path], str], str]] = {}
    if credentials is not None:
        for row in credentials.partners:
            if Path(row["name"]).name == row["name"]:
                expected[row["name"]] = content_sha256, row["sha256"]
    elif listed is not None:
        for name in _names(listed.row.get("files")):
            digest = listed.digest(name)
            if digest is not None and name != path.name and Path(name).name == name:
                expected[name] = io.sha256_of, digest
    if not expected:
        return Finding(what="partners", holds=None, text="none that anything here speaks of")
    there = [name for name in expected if (path.parent / name).is_file()]
    other = [name for name in there if not _is(path.parent / name, *expected[name])]
    if other:
        said = f"{', '.join(other)} beside it: not what it was made with"
        return Finding(what="partners", holds=False, text=said)
    gone = [name for name in expected if name not in there]
    away = f"{', '.join(gone)} not beside it" if gone else ""
    if not there:
        return Finding(what="partners", holds=None, text=away)
    said = f"{', '.join(there)} beside it: made with it" + (f"; {away}" if away else "")
    return Finding(what="partners", holds=True, text=said)


def _is(path: Path, digest: Callable[[Path], str], expected: str) -> bool:
    """Return whether a file has a digest; a damaged one has not."""
    try:
        return digest(path) == expected
    except InputError:
        return False


def _again(path: Path, listed: Listed | None, record: dict[str, Any] | None, carried: bool) -> Finding:
    """Say whether `codi generate --from` would make it again, and by what that may differ."""
    from codi import records

    if record is None:
        return Finding(what="again", holds=None, text="without a record it cannot be made again")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            parsed = records.parse(str(path), record)
            if parsed.continued:
                return Finding(what="again", holds=None, text="`codi continue` made it, window by window")
            parsed.arguments()
            _check_model(parsed.model.get("name"))
        except InputError as error:
            said = str(error).removeprefix(f"{path} ")
            holds = None if _from_memory(record) else False
            return Finding(what="again", holds=holds, text=f"it cannot be made again: {said}")
    known = [str(note.message).replace(str(path), "it") for note in notes]
    if any("has changed since" in note for note in known):
        return Finding(what="again", holds=False, text=f"something else would be made: {'; '.join(known)}")
    if not carried and listed is None:
        said = "its record is in its credentials, which --from does not read"
        return Finding(what="again", holds=None, text=said)
    known += records.differences(parsed)
    if parsed.filter:
        known.append(f"the filter {parsed.filter.get('name')} changed it, which --filter names again")
    source = path if carried or listed is None else listed.manifest
    said = f"codi generate --from {source}" + (f"; may differ: {'; '.join(known)}" if known else "")
    return Finding(what="again", holds=True, text=said)


def _check_model(name: Any) -> None:
    """Raise `InputError` for a model in a folder that is not there; a hub is not asked."""
    if name in (None, EMBEDDED) or Path(name).is_dir():
        return
    if Path(name).is_absolute() or name.count("/") != 1:
        raise InputError(f"the model {name} is not there")


def _from_memory(record: Mapping[str, Any]) -> bool:
    """Return whether Python gave it a prompt that no record holds."""
    from codi import records

    rows = [*record.get("inputs", ()), *record.get("negatives", ()), *record.get("sources", ())]
    return any(row.get(records.WORDS) is None and row.get("path") is None for row in rows)
