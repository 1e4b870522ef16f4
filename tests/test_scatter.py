"""With torch-scatter installed; run by ``make test-scatter``, which compiles it, and left out of ``make test``."""

import pytest
import torch

import mpnn

pytestmark = pytest.mark.scatter


@pytest.mark.parametrize("aggr", ["max", "min", "mul", "softmax", "mean", "std"])
def test_aggregations_are_the_same_with_torch_scatter(aggr, monkeypatch):
    import torch_geometric.typing as typing
    import torch_scatter  # noqa: F401  (absent, the test must fail, not pass for nothing)

    assert typing.WITH_TORCH_SCATTER
    edge_index = torch.randint(0, 20, (2, 100), generator=torch.Generator().manual_seed(0))
    x = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer = mpnn.nn.GraphSAGE(8, 4, aggr=aggr).double()
    with_scatter = layer(x, edge_index)
    with monkeypatch.context() as without:
        without.setattr(typing, "WITH_TORCH_SCATTER", False)
        assert torch.allclose(with_scatter, layer(x, edge_index), rtol=1e-10)
    with mpnn.engine("reference"):
        assert torch.allclose(with_scatter, layer(x, edge_index), rtol=1e-10)
