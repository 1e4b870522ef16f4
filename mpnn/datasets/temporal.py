"""Graphs whose nodes have a value at each of many steps: roads and their speeds, counties and their cases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from mpnn import spacetime

__all__ = ["counties", "read_chickenpox", "read_covid", "regions", "roads"]


def roads(arrays: Mapping[str, np.ndarray]) -> Data:
    """Sensors on roads, from the arrays of METR-LA: speed ``(T, N)``, adj ``(N, N)``, sensor_id, latlon.

    Returns:
        Data with x ``(N, T)``: the speed at each sensor, a column a step; edge_index and edge_weight: what in adj is
        not 0, from its row to its column, loops among them; pos ``(N, 2)``: latitude and longitude in degrees; name:
        the list of sensors.

    Example:
        >>> arrays = {"speed": [[60, 50], [61, 49], [62, 48]], "adj": [[1, 0.5], [0, 1]]}
        >>> arrays |= {"sensor_id": ["a", "b"], "latlon": [[34, -118], [34, -117]]}
        >>> data = roads({name: np.array(values) for name, values in arrays.items()})
        >>> data.x.tolist(), data.edge_index.tolist(), data.edge_weight.tolist()
        ([[60.0, 61.0, 62.0], [50.0, 49.0, 48.0]], [[0, 0, 1], [0, 1, 1]], [1.0, 0.5, 1.0])
    """
    src, dst = arrays["adj"].nonzero()
    return Data(
        x=torch.from_numpy(arrays["speed"].T.astype(np.float32)).contiguous(),
        edge_index=torch.from_numpy(np.stack([src, dst]).astype(np.int64)),
        edge_weight=torch.from_numpy(arrays["adj"][src, dst].astype(np.float32)),
        pos=torch.from_numpy(arrays["latlon"].astype(np.float32)),
        name=arrays["sensor_id"].tolist(),
    )


def read_chickenpox(paths: Mapping[str, Path]) -> Data:
    return counties(_json(paths))


def counties(raw: Mapping[str, Any]) -> Data:
    """Counties side by side: edges, node_ids by name, and FX, a list of values for each week.

    Returns:
        Data with x ``(N, T)``: a column a week; edge_index, loops among them; name: the list of counties.

    Raises:
        ValueError: a week has not one value a county.

    Example:
        >>> data = counties({"edges": [[0, 1]], "node_ids": {"A": 1, "B": 0}, "FX": [[0.5, 1.5], [2.5, 3.5]]})
        >>> data.x.tolist(), data.name
        ([[0.5, 2.5], [1.5, 3.5]], ['B', 'A'])
    """
    name = sorted(raw["node_ids"], key=raw["node_ids"].get)
    for week, values in enumerate(raw["FX"]):
        if len(values) != len(name):
            raise ValueError(f"chickenpox: week {week} has {len(values)} values; expected {len(name)}, one a county.")
    edge_index = torch.tensor(raw["edges"], dtype=torch.long).reshape(-1, 2).t().contiguous()
    return Data(x=torch.tensor(raw["FX"]).t().contiguous(), edge_index=edge_index, name=name)


def read_covid(paths: Mapping[str, Path]) -> Data:
    return regions(_json(paths))


def regions(raw: Mapping[str, Any]) -> Data:
    """Regions whose edges change from day to day: edge_mapping has the edges and the edge_weight of each day, y the
    values.

    Returns:
        A space-time graph, see :mod:`mpnn.spacetime`: a node is a region on a day, with x ``(T * N, 1)``, the cases of
        that day; edge_weight: people who moved, of the edges in space.

    Example:
        >>> mapping = {"edge_index": {"0": [[0, 1]], "1": [[1, 0]]}, "edge_weight": {"0": [2.0], "1": [3.0]}}
        >>> data = regions({"edge_mapping": mapping, "time_periods": 2, "y": [[10, 20], [30, 40]]})
        >>> data.x.flatten().tolist(), data.space_index.tolist(), data.edge_weight.tolist()
        ([10.0, 20.0, 30.0, 40.0], [[0, 3], [1, 2]], [2.0, 3.0])
    """
    mapping, days = raw["edge_mapping"], [str(day) for day in range(raw["time_periods"])]
    x = [torch.tensor(values, dtype=torch.float32).unsqueeze(1) for values in raw["y"]]
    pairs = [torch.tensor(mapping["edge_index"][day], dtype=torch.long).reshape(-1, 2).t() for day in days]
    data = spacetime.snapshots(x, pairs)
    data.edge_weight = torch.cat([torch.tensor(mapping["edge_weight"][day], dtype=torch.float32) for day in days])
    return data


def _json(paths: Mapping[str, Path]) -> dict:
    (path,) = paths.values()
    return json.loads(gzip.decompress(path.read_bytes()))
