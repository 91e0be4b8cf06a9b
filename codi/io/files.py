"""Create files and folders so that nothing is lost and nothing half-written is seen.

A file is written under a hidden name that nobody can foretell, pushed to the disk, and only then renamed to
the name that it shall have. Whatever the disk refuses (no space, no permission, a folder that is gone) comes
out as one `WriteError`, and nothing is left of what was begun.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from codi.types import WriteError

HIDDEN = ".codi-"  # begins the name of everything that is still being written
NUMBERED = re.compile(r"(\d{3,6})(?=\.)")  # as in 000.png; longer numbers, such as dates, do not count
ADVICE = {
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EFBIG: "files here may not be so large: name another place",
    errno.EACCES: "change permissions, or name another place",
    errno.EPERM: "change permissions, or name another place",
    errno.EROFS: "nothing can be changed there: name another place",
    errno.ENOENT: "its folder is not there, or no longer: create it, or name another place",
    errno.ENOTDIR: "a part of its path is a file: name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def cannot_write(path: str | Path, error: OSError) -> WriteError:
    """Return the error that says in one line why `path` cannot be written, and what to do."""
    advice = ADVICE.get(error.errno or 0, "free some space, change permissions, or name another place")
    return WriteError(f"cannot write {path}: {error.strerror or error}; {advice}")


class NewFile:
    """A file that is created now and that nobody else has, open for reading and writing.

    It remembers the first error of the disk, because libraries that write into it report such an error each
    in its own way, or not at all.

    Args:
        path: its path. Where there is something already, even a link, it is not created.
    """

    name = "new"  # for libraries, which do not take every name

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self.path = path
        self.error: OSError | None = None
        self._handle: int | None = os.open(path, flags, 0o666)

    def write(self, data: Any) -> int:
        """Write all of `data` and return how many bytes that were."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[os.write(self.fileno(), left) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return size

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, or all that follow."""
        if size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return os.read(self.fileno(), size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place in the file and return it."""
        return os.lseek(self.fileno(), offset, whence)

    def tell(self) -> int:
        """Return the present place in the file."""
        return os.lseek(self.fileno(), 0, os.SEEK_CUR)

    def flush(self) -> None:
        """Do nothing: what is written is written at once."""

    def fileno(self) -> int:
        """Return the descriptor of the open file."""
        assert self._handle is not None, "the file was closed"
        return self._handle

    def sync(self) -> None:
        """Push the file to the disk, and raise the first error that writing it met."""
        if self.error is not None:
            raise self.error
        os.fsync(self.fileno())

    def close(self) -> None:
        """Close the file; what was not pushed to the disk before is not worth an error any more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


@contextmanager
def new_file(path: str | Path, replace: bool = True) -> Iterator[NewFile]:
    """Yield an open file that gets the name `path` at the end, when it is whole and on the disk.

    After an error or an interrupt nothing of it is left.

    Args:
        path: the file to write.
        replace: whether a file of that name may be replaced.

    Yields:
        The file under a hidden name.

    Raises:
        WriteError: if the file cannot be written, such as on a full disk.
        FileExistsError: if there is a file of that name which may not be replaced.
    """
    path = Path(path)
    hidden = _hidden(path)
    file = None
    try:
        file = NewFile(hidden)
        yield file
        # files of a staging folder are pushed to the disk when they leave it
        if path.parent.name.startswith(HIDDEN):
            if file.error is not None:
                raise file.error
        else:
            file.sync()
        file.close()
        publish(hidden, path, replace)
    except FileExistsError:
        raise
    except Exception as error:
        reason = file.error if file is not None and file.error is not None else error
        if isinstance(reason, OSError):
            raise cannot_write(path, reason) from error
        raise
    finally:
        if file is not None:  # else what has that name is not ours
            file.close()
            remove(hidden)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield the hidden name of an empty new file, which is renamed to `path` at the end.

    This is for libraries that want a name; `new_file` gives the open file. After an error or an interrupt
    nothing of it is left.

    Args:
        path: the file to write.

    Yields:
        The hidden name, with the suffix of `path`.

    Raises:
        WriteError: if the file cannot be written, such as on a full disk.
    """
    path = Path(path)
    hidden = _hidden(path)
    created = False
    try:
        NewFile(hidden).close()
        created = True
        yield hidden
        _sync(hidden)
        publish(hidden, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if created:
            remove(hidden)


@contextmanager
def staged(folder: str | Path, replace: bool = True) -> Iterator[Path]:
    """Yield a hidden folder inside of `folder`, whose files move into `folder` at the end.

    Whoever writes files there, in whatever way, leaves nothing half-written behind: before the first of them
    moves all are whole and on the disk.

    Args:
        folder: where the files shall be in the end.
        replace: whether files of the same names may be replaced.

    Yields:
        The hidden folder, which this user alone may enter.

    Raises:
        WriteError: if something cannot be written.
        FileExistsError: if there is a file of one of the names which may not be replaced.
    """
    folder = Path(folder)
    place = folder / (HIDDEN + secrets.token_hex(8))
    try:
        os.mkdir(place, 0o700)
        yield place
        paths = sorted(place.iterdir())
        for path in paths:
            _sync(path)
        _move(paths, folder, replace)
        _sync_folder(folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(paths: list[Path], folder: Path, replace: bool) -> None:
    """Move files into a folder; if one may not replace what is there, none of them stays."""
    moved: list[Path] = []
    try:
        for path in paths:
            publish(path, folder / path.name, replace, sync=False)
            moved.append(folder / path.name)
    except BaseException:
        if not replace:
            for path in moved:
                remove(path)
        raise


def publish(hidden: Path, path: Path, replace: bool = True, sync: bool = True) -> None:
    """Give a whole file the name that it shall have.

    Args:
        hidden: the file.
        path: its new name.
        replace: whether a file of that name may be replaced.
        sync: whether the new name is pushed to the disk at once.

    Raises:
        OSError: if that cannot be; `FileExistsError` for a file that may not be replaced.
    """
    if replace:
        os.replace(hidden, path)
    else:
        _link(hidden, path)
    if sync:
        _sync_folder(path.parent)


def _link(hidden: Path, path: Path) -> None:
    """Give a file a name that nobody else has, and take its old one away."""
    try:
        os.link(hidden, path)
    except FileExistsError:
        raise
    except OSError:  # not every file system has links: an empty file of that name keeps others off
        NewFile(path).close()
        try:
            os.replace(hidden, path)
        except BaseException:
            remove(path)
            raise
    remove(hidden)


def remove(path: Path) -> None:
    """Remove a file of ours if it is there and can be removed."""
    with suppress(OSError):
        path.unlink()


def _hidden(path: Path) -> Path:
    """Return a name beside `path` that nobody can foretell, with the same suffix."""
    return path.with_name(f"{HIDDEN}{secrets.token_hex(8)}{path.suffix}")


def _sync(path: Path) -> None:
    """Push a file to the disk."""
    handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Push the names of a folder to the disk, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a folder that cannot be pushed
            raise
    finally:
        os.close(handle)


def check_folder(folder: str | Path) -> Path:
    """Create a folder if need be, and check that files can be written there.

    Args:
        folder: the path of the folder.

    Returns:
        The folder.

    Raises:
        WriteError: if it cannot be created or written to.
    """
    folder = Path(folder)
    trial = folder / (HIDDEN + secrets.token_hex(8))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = NewFile(trial)
        try:
            file.write(b"\n")
        finally:
            file.close()
            remove(trial)
    except OSError as error:
        raise cannot_write(f"into folder {folder}", error) from None
    except ValueError as error:  # such as a name with a null byte
        raise WriteError(f"cannot write into folder {ascii(str(folder))}: {error}; name another") from None
    return folder


# Names that nobody else has --------------------------------------------


@contextmanager
def numbered(folder: Path) -> Iterator[str]:
    """Yield the next number that no file of `folder` bears, as a name such as "007", to this process alone.

    While the number is in use a hidden file claims it, created by whoever comes first; afterwards the files
    that were written are the claim.

    Args:
        folder: where files of that name are to be written.

    Yields:
        The number, with at least three digits.

    Raises:
        WriteError: if nothing can be written into the folder.
    """
    number = 1 + max(_numbers(folder), default=-1)
    while True:
        with _claim(folder, name := f"{number:03d}") as mine:
            if mine and not taken(folder, name):  # else it was claimed, used and freed since we looked
                yield name
                return
        number += 1


@contextmanager
def _claim(folder: Path, name: str) -> Iterator[bool]:
    """Claim a name of a folder by a hidden file, and yield whether nobody else has claimed it."""
    claim = folder / f".{name}.claim"
    try:
        NewFile(claim).close()
    except FileExistsError:
        yield False
        return
    except OSError as error:
        raise cannot_write(folder / name, error) from error
    try:
        yield True
    finally:
        remove(claim)


def taken(folder: Path, name: str) -> list[Path]:
    """Return the files of `folder` that are called `name`, with or without a suffix."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name == name or (path.stem == name and path.suffix)
    )


def _numbers(folder: Path) -> list[int]:
    """Return the numbers that files of a folder bear."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    found = (NUMBERED.match(name) for name in names)
    return [int(match[1]) for match in found if match]


# Texts and JSON --------------------------------------------------------


def save_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, and return the path."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))
    return Path(path)


def save_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON, and return the path. Raises `ValueError` for numbers that are not finite."""
    return save_text(path, _json(value))


def create_json(path: Path, value: Any) -> bool:
    """Write JSON as `save_json` does, but never over a file that is there.

    Args:
        path: the file.
        value: what JSON can express; anything else is written as its string.

    Returns:
        Whether the file was written; if not, there was one already.

    Raises:
        WriteError: if the file cannot be written.
    """
    content = _json(value).encode("utf-8")
    try:
        with new_file(path, replace=False) as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def save_manifest(folder: Path, value: Any, keep: bool = True) -> Path:
    """Write manifest.json into a folder.

    If several processes finish at once, the manifest of each of them stays: whoever finds another's moves it
    on.

    Args:
        folder: the folder.
        value: the manifest.
        keep: whether a manifest that is there already is kept as manifest-000.json, or under the next free
            number; otherwise it is replaced.

    Returns:
        The path of manifest.json.

    Raises:
        WriteError: if it cannot be written.
    """
    path = folder / "manifest.json"
    if not keep:
        return save_json(path, value)
    while not create_json(path, value):
        _move_on(path)
    return path


def _move_on(path: Path) -> None:
    """Rename a manifest to manifest-000.json, or to the next number that is free."""
    number = 0
    while True:
        kept = path.with_name(f"{path.stem}-{number:03d}{path.suffix}")
        with _claim(path.parent, kept.stem) as mine:  # only who has the claim makes a file of that name
            if mine and not os.path.lexists(kept):
                try:
                    os.replace(path, kept)
                except FileNotFoundError:  # another process has moved it
                    pass
                except OSError as error:
                    raise cannot_write(kept, error) from error
                return
        number += 1


def _json(value: Any) -> str:
    """Return a value as indented JSON that can be encoded as UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    # bytes of a file name that are not UTF-8 are written as escapes, which JSON reads back as they were
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
