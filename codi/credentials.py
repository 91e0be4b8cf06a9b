"""Sign files with C2PA credentials, with one's own certificate and without the network, and read them.

Credentials (https://c2pa.org) say who vouches for a file, and hold only while no byte of it changes. Those of
codi have

    c2pa.actions        that it was created by codi, as IPTC's trainedAlgorithmicMedia, or its composite with
                        what was given: a clip with a new sound, a picture of which a part was kept
    org.codi.record     the record of how it was made (`codi.records`)
    org.codi.together   the files that were made with it, by name and by the digest of what each shows or
                        plays (`codi.io.content`). Signing a file does not change that digest, so that each of
                        them can name all others, in whatever order they are signed.

Where the format has no place for credentials, such as a text, they lie beside the file as NAME.c2pa.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from codi.io import atomic, check_file, new_file, probe
from codi.io.content import content_sha256
from codi.types import InputError
from codi.version import __version__

RECORD = "org.codi.record"
TOGETHER = "org.codi.together"
PASSWORD = "CODI_KEY_PASSWORD"  # the environment variable that holds the password of a key
SUFFIX = ".c2pa"  # of credentials that lie beside a file
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
CREATED = _SOURCES + "trainedAlgorithmicMedia"
COMPOSITE = _SOURCES + "compositeWithTrainedAlgorithmicMedia"
TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".txt": "text/plain",
}
# Nothing is asked of the network, and no thumbnails are added, which would be larger than the files.
SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
MAX_PEM = 1 << 20  # bytes of a certificate or a key


def load() -> Any:
    """Return the library c2pa; raise `InputError` with what installs it if it does not load."""
    try:
        import c2pa
    except Exception as error:  # not there, or whatever its native part throws
        raise InputError(
            f"credentials need the library c2pa-python ({type(error).__name__}): pip install 'codi[sign]'"
        ) from error
    return c2pa


# Signing ---------------------------------------------------------------


class Signer:
    """Signs the files of a sample, and binds those that were made together to each other.

    Args:
        certificate: a PEM file with the certificate, and behind it those that vouch for it, if any.
        key: a PEM file with the private key of the first.
        password: that of the key, if it has one.

    Raises:
        InputError: for files that are missing or hold something else, a key of another certificate, and a
            certificate that is out of date or of a kind that C2PA does not take.
    """

    def __init__(self, certificate: str | Path, key: str | Path, password: str | None = None) -> None:
        self._c2pa = load()
        self._chain = _pem(certificate, "certificate")
        self._key, self._algorithm = _checked_pair(certificate, self._chain, key, password)
        self._context = self._c2pa.Context(self._c2pa.Settings.from_dict(SETTINGS))
        self._embedded = set(self._c2pa.Builder.get_supported_mime_types())
        try:
            self._sign(_manifest(Path("trial.txt"), {}, []), "text/plain", io.BytesIO(b"trial"), None)
        except self._c2pa.C2paError as error:
            raise InputError(
                f"{certificate} cannot sign ({_line(error)}): expected a certificate for signing documents; "
                "docs/provenance.md has a line that makes one for trying"
            ) from error

    def __call__(self, paths: Sequence[Path], record: Mapping[str, Any]) -> list[Path]:
        """Sign files that were made together, in their place.

        Args:
            paths: the files, in one folder.
            record: how they were made; may be empty.

        Returns:
            The paths of credentials that lie beside files which have no place for them.

        Raises:
            InputError: for a file that cannot be signed.
        """
        digests = [
            {"name": path.name, "format": _type_of(path), "sha256": content_sha256(path)} for path in paths
        ]
        beside = []
        for path in paths:
            partners = [row for row in digests if row["name"] != path.name]
            manifest = _manifest(path, record, partners)
            try:
                found = self._sign_file(path, manifest)
            except self._c2pa.C2paError as error:
                raise InputError(f"cannot sign {path.name}: {_line(error)}") from error
            beside += found
        return beside

    def _sign_file(self, path: Path, manifest: dict[str, Any]) -> list[Path]:
        """Sign one file, and return the path of its credentials if they lie beside it."""
        form = _type_of(path)
        if form in self._embedded:
            with atomic(path) as hidden:
                with open(path, "rb") as source, open(hidden, "w+b") as target:
                    self._sign(manifest, form, source, target)
            return []
        with open(path, "rb") as source:
            credentials = self._sign(manifest, form, source, None)
        beside = _free(path)
        with new_file(beside, replace=False) as file:
            file.write(credentials)
        return [beside]

    def _sign(self, manifest: dict[str, Any], form: str, source: Any, target: Any) -> bytes:
        """Sign what `source` holds, into `target` if there is one, and return the credentials."""
        info = self._c2pa.C2paSignerInfo(
            alg=self._algorithm, sign_cert=self._chain, private_key=self._key, ta_url=None
        )
        manifest = {
            "claim_generator_info": [{"name": "codi", "version": __version__}],
            "format": form,
            **manifest,
        }
        builder = self._c2pa.Builder(manifest, context=self._context)
        if target is None:
            builder.set_no_embed()
        with self._c2pa.Signer.from_info(info) as signer:
            return builder.sign(signer, form, source, io.BytesIO() if target is None else target)


def _manifest(path: Path, record: Mapping[str, Any], partners: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is signed of a file."""
    action = {
        "action": "c2pa.created",
        "digitalSourceType": _source_type(path, record),
        "softwareAgent": {"name": "codi", "version": __version__},
    }
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    if record:
        # as one text: lists of numbers do not come back from the form that C2PA gives to data
        text = json.dumps(record, ensure_ascii=True, allow_nan=False, default=str)
        assertions.append({"label": RECORD, "data": {"json": text}})
    if partners:
        data = {"alg": "sha256", "of": "content", "files": partners}
        assertions.append({"label": TOGETHER, "data": data})
    return {"title": path.name, "assertions": assertions}


def _source_type(path: Path, record: Mapping[str, Any]) -> str:
    """Return what IPTC calls a file that was made, or made beside something that was given."""
    if record.get("sources") or record.get("continued"):
        return COMPOSITE
    outputs = list(map(str, record.get("outputs", ())))
    dubbed = bool(outputs) and not _is_text(path) and probe(path).value not in outputs
    return COMPOSITE if dubbed else CREATED


def _is_text(path: Path) -> bool:
    return _type_of(path).startswith("text/")


def _type_of(path: Path) -> str:
    """Return the MIME type of a file by its suffix."""
    return TYPES.get(path.suffix.lower(), "application/octet-stream")


def _free(path: Path) -> Path:
    """Return the name that credentials beside a file get: its own with another suffix, else with one more."""
    plain = path.with_suffix(SUFFIX)
    return path.with_name(path.name + SUFFIX) if plain.exists() else plain


def _pem(path: str | Path, what: str) -> bytes:
    """Return the bytes of a PEM file."""
    check_file(path)
    if Path(path).stat().st_size > MAX_PEM:
        raise InputError(f"the {what} {path} is larger than {MAX_PEM >> 20} MB: expected a PEM file")
    data = Path(path).read_bytes()
    if b"-----BEGIN " not in data:
        raise InputError(f"the {what} {path} is no PEM file: expected a text with -----BEGIN ... in it")
    return data


def _checked_pair(
    certificate: str | Path, chain: bytes, key: str | Path, password: str | None
) -> tuple[bytes, str]:
    """Return a key as unencrypted PEM and the name of its algorithm, after a check that it fits."""
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as form

    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise InputError(f"the certificate {certificate} cannot be read: {_line(error)}") from error
    private = _private_key(key, password)
    public = form.PublicFormat.SubjectPublicKeyInfo
    own = private.public_key().public_bytes(form.Encoding.DER, public)
    if first.public_key().public_bytes(form.Encoding.DER, public) != own:
        raise InputError(
            f"{key} is not the key of {certificate}: expected that of the first certificate in it"
        )
    now = datetime.now(UTC)
    if not first.not_valid_before_utc <= now <= first.not_valid_after_utc:
        raise InputError(
            f"{certificate} counts from {first.not_valid_before_utc:%Y-%m-%d} to "
            f"{first.not_valid_after_utc:%Y-%m-%d}, not today: expected one that does"
        )
    plain = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return plain, _algorithm(private, key)


def _private_key(path: str | Path, password: str | None) -> Any:
    """Return a private key that a PEM file holds."""
    from cryptography.hazmat.primitives import serialization

    data = _pem(path, "key")
    try:
        secret = password.encode() if password and b"ENCRYPTED" in data else None
        return serialization.load_pem_private_key(data, secret)
    except TypeError:
        raise InputError(f"the key {path} has a password: expected it in the variable {PASSWORD}") from None
    except ValueError as error:
        hint = f"; is the password in {PASSWORD} right?" if b"ENCRYPTED" in data else ""
        raise InputError(f"the key {path} cannot be read ({_line(error)[:120]}){hint}") from None


def _algorithm(private: Any, path: str | Path) -> str:
    """Return C2PA's name of the algorithm of a key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    raise InputError(
        f"the key {path} is of a kind that C2PA does not take: expected P-256, P-384, P-521, Ed25519 or RSA"
    )


# Reading ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the credentials of a file say, and whether they hold.

    Attributes:
        place: the file that they are in, which may lie beside the one that they are of.
        holds: whether the signature is right and nothing was changed since.
        trusted: whether the certificate is known here.
        signer: whom the certificate names.
        issuer: who vouches for it.
        generator: the program that made the claim.
        source_type: IPTC's name of the kind of source, the last part of its address.
        record: the record that was signed, or None.
        partners: name, format and digest of the files that were made together with it.
        problems: what does not hold, a line each.
    """

    place: Path
    holds: bool
    trusted: bool = False
    signer: str = ""
    issuer: str = ""
    generator: str = ""
    source_type: str = ""
    record: dict[str, Any] | None = None
    partners: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = field(default=())


def read(path: str | Path, trust: str | Path | None = None) -> Credentials | None:
    """Return the credentials of a file, in it or beside it, or None where there are none.

    Args:
        path: the file.
        trust: a PEM file with certificates that are trusted, or whose owners are.

    Returns:
        What they say.

    Raises:
        InputError: if the library is missing, or `trust` holds no certificate.
    """
    c2pa = load()
    path = Path(path)
    settings = dict(SETTINGS)
    if trust is not None:
        known = _pem(trust, "certificate").decode("utf-8", "replace")
        settings = {**SETTINGS, "trust": {"trust_anchors": known, "allowed_list": known}}
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    for place in (path, path.with_name(path.name + SUFFIX), path.with_suffix(SUFFIX)):
        if not place.is_file():
            continue
        data = None if place == path else place.read_bytes()
        try:
            with open(path, "rb") as file, c2pa.Reader(_type_of(path), file, data, context) as reader:
                found = json.loads(reader.json())
        except c2pa.C2paError.ManifestNotFound:
            continue
        except c2pa.C2paError as error:
            if isinstance(error, c2pa.C2paError.NotSupported) and place == path:
                continue  # a format without a place for credentials
            if "could not be parsed" in str(error) and place == path:
                raise InputError(f"{path} is damaged ({_line(error)[:120]}): copy it again") from error
            return Credentials(place=place, holds=False, problems=(f"they are damaged ({_line(error)})",))
        title = found["manifests"][found["active_manifest"]].get("title")
        described = _described(place, found)
        if place == path or described.holds or title == path.name:
            return described  # else they are of another file of that name
    return None


def _described(place: Path, found: Mapping[str, Any]) -> Credentials:
    """Return what a reader of C2PA says, in our words."""
    manifest = found["manifests"][found["active_manifest"]]
    assertions = {row["label"]: row["data"] for row in manifest.get("assertions", ())}
    results = found.get("validation_results", {}).get("activeManifest", {})
    known = [row for row in results.get("failure", ()) if row["code"] != "signingCredential.untrusted"]
    problems = tuple(dict.fromkeys(_problem(row) for row in known))
    actions = assertions.get("c2pa.actions.v2", assertions.get("c2pa.actions", {})).get("actions", [{}])
    info = (manifest.get("claim_generator_info") or [{}])[0]
    signature = manifest.get("signature_info") or {}
    files = assertions.get(TOGETHER, {}).get("files", ())
    return Credentials(
        place=place,
        holds=found.get("validation_state") in ("Valid", "Trusted") and not problems,
        trusted=found.get("validation_state") == "Trusted",
        signer=str(signature.get("common_name") or "nobody named"),
        issuer=str(signature.get("issuer") or ""),
        generator=f"{info.get('name', 'a program without a name')} {info.get('version', '')}".strip(),
        source_type=str(actions[0].get("digitalSourceType", "")).rpartition("/")[2],
        record=_record(assertions.get(RECORD)),
        partners=tuple(row for row in files if {"name", "sha256"} <= set(row)),
        problems=problems,
    )


def _record(data: Any) -> dict[str, Any] | None:
    """Return the record that was signed."""
    try:
        found = json.loads(data["json"])
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _problem(row: Mapping[str, Any]) -> str:
    """Return what does not hold in a plain line."""
    code = str(row.get("code", ""))
    if "Hash.mismatch" in code:
        return "the file was changed after it was signed"
    if code.startswith("assertion.hashedURI") or code.startswith("assertion."):
        return "what they say was changed after it was signed"
    if code.startswith("claimSignature"):
        return "the signature is not right"
    if code.startswith("signingCredential"):
        return f"the certificate does not count ({code.rpartition('.')[2]})"
    return f"{code}: {_line(row.get('explanation', ''))}"


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200]
