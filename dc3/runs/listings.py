"""Fingerprints of files and folders outside a run: data, weights, condensed sets from elsewhere."""

import hashlib
import os
from pathlib import Path

from dc3.machine.files import sha256
from dc3.machine.folders import LinkLoop, walk
from dc3.machine.storage import Place, Remote

READ = 64 << 20  # bytes: what is no larger is known by its content, which is the same in every clone and copy


def listing(path: Place) -> str:
    """A fingerprint of a file or folder: of a small one its names and contents, else of the sizes and times below it.

    Small are READ bytes in all. Of a larger one, which may hold hundreds of gigabytes, names, sizes and modification
    times (of a URL sizes and ETags) are asked for. LinkLoop for a folder that holds itself.
    """
    if isinstance(path, Remote):
        return hashlib.sha256(repr(path.files()).encode("utf-8", "surrogateescape")).hexdigest()
    digest, total, small = hashlib.sha256(), 0, []
    for file in [str(path)] if path.is_file() else filter(os.path.isfile, walk(path)):
        status = os.stat(file)
        total += status.st_size
        digest.update(_line(path, file, f"{status.st_size}\0{status.st_mtime_ns}"))
        if total <= READ:
            small.append(file)
    if total <= READ:
        digest = hashlib.sha256(b"".join(_line(path, file, sha256(file)) for file in small))
    return digest.hexdigest()


def _line(path: Path, file: str, mark: str) -> bytes:
    return f"{os.path.relpath(file, path)}\0{mark}\n".encode("utf-8", "surrogateescape")


def is_as_listed(path: Place, digest: str) -> bool:
    """Whether `listing` still gives that; what cannot be listed is not, and the stage that uses it will say why."""
    try:
        return path.exists() and listing(path) == digest
    except (LinkLoop, OSError):
        return False
