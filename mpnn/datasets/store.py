"""Finding the files of a data set: in ``$MPNN_DATA``, then in the project's data folder, then by download.

``$MPNN_DATA`` is only ever read. Downloads go to ``datasets/`` of the clone, or to the user's cache
(``pooch.os_cache("mpnn")``) where the package is installed without that folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mpnn.datasets import catalog
from mpnn.datasets.catalog import Card, File

LARGE = 2**30  # bytes; more than this is downloaded only when asked for by name


def home() -> Path:
    """The folder that downloads are written to."""
    cards = catalog.beside("datasets")
    if cards.name != "_datasets":
        return cards
    import pooch

    return Path(pooch.os_cache("mpnn"))


def places() -> list[Path]:
    """The folders that are searched, in this order."""
    given = os.environ.get("MPNN_DATA")
    return [Path(given), home()] if given else [home()]


def find(card: Card, file: File) -> Path | None:
    """The first place that has this file, or None; nothing is downloaded and no checksum is taken."""
    paths = (place / card.folder / file.path for place in places())
    return next((path for path in paths if path.is_file()), None)


def find_folder(card: Card) -> Path | None:
    """The folder with the whole data set, or None."""
    for place in places():
        folder = place / card.folder
        if folder.is_dir() and all((folder / file.path).is_file() for file in card.files):
            return folder
    return None


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def check(card: Card, file: File, path: Path) -> Path:
    """Returns ``path`` if its bytes are those of the card.

    Raises:
        ValueError: they are not, and the card does not allow another file of the same layout.
    """
    found = None if file.repacked else sha256(path)
    if found not in (None, file.sha256):
        raise ValueError(
            f"datasets: {path} is not the {file.name} of {card.name!r}: its sha256 is {found}; expected {file.sha256}. "
            "Remove the file, so that it is fetched again, or put the right one there."
        )
    return path


def fetch(card: Card, file: File, *, download: bool | str = "auto") -> Path:
    """The place of one file on this machine, downloaded if need be.

    Raises:
        FileNotFoundError: the file is nowhere and cannot be downloaded; the message says where to put it.
        ValueError: the file that is there has another sha256.
    """
    path = find(card, file)
    if path is not None:
        return check(card, file, path)
    if not file.url:
        raise missing(card, file, "No public file has the same bytes, so there is no download.")
    if not download:
        raise missing(card, file, "Downloads are switched off (download=False).")
    return retrieve(card, file)


def retrieve(card: Card, file: File) -> Path:
    """Downloads one file, with its checksum, into :func:`home`."""
    import pooch

    target = home() / card.folder / file.path
    try:
        pooch.retrieve(file.url, known_hash=f"sha256:{file.sha256}", fname=target.name, path=target.parent)
    except (OSError, ValueError) as error:  # no network, refused, or other bytes than the card says
        raise missing(card, file, f"The download from {file.url} failed ({type(error).__name__}: {error}).") from error
    return target


def missing(card: Card, file: File, why: str) -> FileNotFoundError:
    """The error for a file that is nowhere: what was looked for, why it did not come, where to put it."""
    looked = ", ".join(str(place / card.folder / file.path) for place in places())
    others = [other.name for other in card.files if other is not file and find(card, other) is None]
    more = f" {', '.join(others)} will be asked for next: `mpnn datasets {card.name}` lists all." if others else ""
    return FileNotFoundError(
        f"datasets: {card.name!r} needs {file.name}, which is not at {looked}. {why} "
        f"Put the file at {home() / card.folder / file.path} (sha256 {file.sha256}, {file.bytes} bytes), or point "
        f"MPNN_DATA at the folder that holds {card.folder}/{file.path}."
        + (f" {card.obtain}" if card.obtain else f" Source: {card.source}.")
        + more
    )


def files(card: Card, *, download: bool | str = "auto") -> dict[str, Path]:
    """Every file of a data set by its name without folders, downloaded if need be."""
    return {file.name: fetch(card, file, download=download) for file in card.files}
