"""Open Graph Benchmark: node and graph property prediction, with OGB's own splits and evaluators.

The ``ogb`` package reads the files. Around it, three things are different here: nothing is asked on the keyboard, the
processed copy is written to the project's data folder and never to ``$MPNN_DATA``, and the processed copy is read under
torch's safe loading, which allows exactly the classes it holds.
"""

from __future__ import annotations

import csv
import os
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.datasets import store
from mpnn.datasets.parse import mask

KINDS = {"ogbn": "nodeproppred", "ogbg": "graphproppred"}


def is_ogb(name: str) -> bool:
    """Whether a name is one of OGB's node or graph property sets, by its prefix."""
    return name.lower().partition("-")[0] in KINDS


def library(name: str):
    """The part of the ``ogb`` package for this set.

    Raises:
        ImportError: ``ogb`` is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"ogb.{KINDS[name.lower().partition('-')[0]]}")
    except ImportError as error:
        text = f"datasets: {name!r} needs the ogb package; install it with pip install 'mpnn[ogb]'."
        raise ImportError(text) from error


def information(name: str) -> dict[str, str]:
    """What OGB's own table says of a set: address, version, split, metric, which files there are.

    Raises:
        KeyError: OGB has no such set; the message lists those it has.
    """
    path = Path(library(name).__file__).with_name("master.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    if name not in header:
        raise KeyError(f"datasets: OGB has no {name!r}; expected one of {', '.join(header[1:])}.")
    column = header.index(name)
    return {row[0]: row[column] for row in rows}


def load(name: str, *, download: bool | str = "auto"):
    """One graph (``ogbn-*``) or a sequence of graphs (``ogbg-*``); see :func:`read`."""
    name = name.lower()
    info = information(name)
    return read(name, locate(name, info, download=download), info)


def splits(name: str, *, download: bool | str = "auto") -> dict[str, Tensor]:
    """OGB's split: indices of nodes or graphs for ``"train"``, ``"valid"`` and ``"test"``."""
    name = name.lower()
    info = information(name)
    return dataset(name, locate(name, info, download=download), info)[1]


def evaluator(name: str):
    """OGB's evaluator; ``.eval({"y_true": ..., "y_pred": ...})`` takes arrays of shape (N, tasks)."""
    return library(name).Evaluator(name.lower())


def read(name: str, folder: Path, info: Mapping[str, str]):
    """Reads a folder in OGB's raw format.

    Source: OGB's on-disk format, as ``PygNodePropPredDataset`` and ``PygGraphPropPredDataset`` of ogb 1.3.6 read it.
    Deviations: for node sets of one node type the split is put into masks.

    Args:
        name: ``ogbn-...`` or ``ogbg-...``.
        folder: holds ``raw/``, ``split/<split>/`` and ``RELEASE_v<version>.txt``.
        info: OGB's table of the set, see :func:`information`.

    Shape:
        ``ogbn``: ``Data`` with y ``(N, tasks)`` as OGB's evaluator takes it, and train_mask, val_mask, test_mask
        ``(N,)`` bool. ``ogbg``: OGB's data set, a sequence of ``Data`` with y ``(1, tasks)``.

    Raises:
        FileNotFoundError: the folder is of another release, or lacks the raw files.
    """
    graphs, split = dataset(name, folder, info)
    if name.startswith("ogbg"):
        return graphs
    return graphs[0] if info["is hetero"] == "True" else with_masks(graphs[0], split)


def with_masks(data: Data, split: Mapping[str, Tensor]) -> Data:
    for part, key in (("train", "train"), ("val", "valid"), ("test", "test")):
        data[f"{part}_mask"] = mask(data.num_nodes, split[key])
    return data


def dataset(name: str, folder: Path, info: Mapping[str, str]):
    """OGB's data set object and its split."""
    check_release(name, folder, info)
    part = library(name)
    cls = part.PygNodePropPredDataset if name.startswith("ogbn") else part.PygGraphPropPredDataset
    meta = {**info, "dir_path": str(work_folder(name, folder))}
    with torch.serialization.safe_globals(stored_classes()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # pandas 3; copied on disk
        graphs = cls(name, meta_dict=meta)
        return graphs, {key: torch.as_tensor(index) for key, index in graphs.get_idx_split().items()}


def stored_classes() -> list:
    """The classes, beside tensors, that OGB's processed files and split files hold."""
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    rebuild = np.empty(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.int64, np.int32, np.float32, np.float64)]
    return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage, rebuild, np.ndarray, np.dtype, *kinds]


def check_release(name: str, folder: Path, info: Mapping[str, str]) -> None:
    """Stops where ogb would ask on the keyboard (another release) or quietly start a download (no raw files)."""
    release = folder / f"RELEASE_v{info['version']}.txt"
    for path in (release, folder / "raw", folder / "split" / info["split"]):
        if not path.exists():
            raise FileNotFoundError(
                f"datasets: {name!r} in {folder} has no {path.relative_to(folder)}; expected release "
                f"{info['version']} of {info['url']}, unpacked. Move the folder away and load again, or unpack it anew."
            )


def work_folder(name: str, folder: Path) -> Path:
    """Where the processed copy may be written: the folder itself, or one in our data folder that links to it."""
    given = os.environ.get("MPNN_DATA")
    if not given or Path(given).resolve() not in folder.resolve().parents:
        return folder
    work = store.home() / "ogb-processed" / folder.name
    work.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        link = work / path.name
        if path.name != "processed" and not link.exists():
            link.unlink(missing_ok=True)  # a link to a place that is gone
            link.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    return work


def locate(name: str, info: Mapping[str, str], *, download: bool | str) -> Path:
    """The unpacked folder of a set, downloaded if need be.

    Raises:
        FileNotFoundError: it is nowhere and was not downloaded; the message says where to put it.
    """
    own = name.replace("-", "_")
    for place in store.places():
        if (place / "ogb" / own).is_dir():
            return place / "ogb" / own
    target = store.home() / "ogb" / own
    if not download:
        raise absent(name, info, target, "Downloads are switched off (download=False).")
    try:
        retrieve(info, target, limit=store.LARGE if download == "auto" else None)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise absent(name, info, target, f"The download failed ({type(error).__name__}: {error}).") from error
    return target


def absent(name: str, info: Mapping[str, str], target: Path, why: str) -> FileNotFoundError:
    looked = ", ".join(str(place / "ogb" / target.name) for place in store.places())
    return FileNotFoundError(
        f"datasets: {name!r} is not at {looked}. {why} Unpack {info['url']} and put its folder "
        f"{info['download_name']!r} at {target}, so that {target / 'raw'} exists. (OGB publishes no checksum.)"
    )


def retrieve(info: Mapping[str, str], target: Path, *, limit: int | None) -> None:
    """Downloads and unpacks the archive to ``target``; more than ``limit`` bytes is refused instead of asked about."""
    import pooch
    import requests

    size = int(requests.head(info["url"], timeout=30, allow_redirects=True).headers.get("Content-Length", 0))
    if limit is not None and size > limit:
        raise ValueError(f"it is {size / 2**30:.1f} GiB, and more than 1 GiB is fetched only with download=True")
    archive = pooch.retrieve(info["url"], known_hash=None, fname=f"{target.name}.zip", path=target.parent)
    try:
        unpack(Path(archive), info["download_name"], target)
    finally:
        os.unlink(archive)  # a broken one, too: the next call fetches it anew


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Takes the folder ``inner`` out of a zip file and names it ``target``, at once or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(archive) as stream:
        stream.extractall(part)
    shutil.move(part / inner, target)
    shutil.rmtree(part, ignore_errors=True)
