import numpy as np
import pytest
import torch
from compare import assert_close, assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import chain, delays
from mpnn.nn import AR, NARX, TDNN, Jordan

F, H, O = 3, 4, 2


def paper_narx(layer, x, y=None, known=None):
    """z_t = sum_k W_k x_{t-k} + b, y_t = V f(z_t + sum_k U_k y_{t-k}) + c; the y that are fed back are the given ones,
    its own, or the given ones where they are known."""
    p, q, fed, out = layer.input.delays, layer.delays, [], []
    W, U = layer.input.weight, layer.feedback.chunk(q, dim=1)
    for t in range(len(x)):
        z = layer.input.bias + sum(W[:, :, p - k] @ x[t - k] for k in range(min(p, t) + 1))
        z = z + sum((U[k - 1] @ fed[t - k] for k in range(1, min(q, t) + 1)), torch.zeros_like(z))
        out.append(layer.output.weight @ torch.tanh(z) + layer.output.bias)
        if known is not None and known[t]:
            out[t] = y[t]
        fed.append(y[t] if y is not None and known is None else out[t])
    return torch.stack(out)


@pytest.mark.parametrize(("p", "q"), [(0, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("loop", ["open", "closed", "known at first", "known here and there"])
def test_it_is_the_formulas_loop(p, q, loop):
    layer, n = randomised(NARX(F, H, O, input_delays=p, output_delays=q)), 9
    x, y = (torch.randn(n, width, dtype=torch.float64, requires_grad=True) for width in (F, O))
    known = {"known at first": torch.arange(n) < 4, "known here and there": torch.arange(n) % 3 == 1}.get(loop)
    given = {} if loop == "closed" else {"y": y, "known": known}
    found = layer(x, *delays(chain(n).edge_index, range(1, max(p, q) + 1)), **given)
    leaves = [x, *layer.parameters(), *([y] if given else [])]
    assert_same(found, paper_narx(layer, x, **given), leaves)


def test_the_schedule_closes_the_loop():
    layer, window = randomised(NARX(F, H, O, 1, 2)), delays(chain(6).edge_index, [1, 2])
    x, y = (torch.randn(6, width, dtype=torch.float64) for width in (F, O))
    assert_close(layer(x, *window, y, schedule="synchronous"), paper_narx(layer, x, y), "open")
    assert_close(layer(x, *window, y, schedule="topological"), paper_narx(layer, x), "closed")
    plan = mpnn.plan(chain_data(window, 6), "synchronous")
    assert_close(layer(x, plan, window[1], y), paper_narx(layer, x, y), "plan")


def chain_data(window, n):
    data = chain(n)
    data.edge_index = window[0]
    return data


def test_known_steps_may_fire_at_once():
    layer, n = randomised(NARX(F, H, O, 1, 3)), 12
    window = delays(chain(n).edge_index, range(1, 4))
    x, y = (torch.randn(n, width, dtype=torch.float64) for width in (F, O))
    known = torch.arange(n) < 8
    level = (torch.arange(n) - 7).clamp(min=0)
    plan = mpnn.plan(chain_data(window, n), mpnn.schedule.by(level))
    assert plan.num_levels == 5
    assert_close(layer(x, plan, window[1], y, known), layer(x, *window, y, known), "in 5 levels")


def test_a_batch_of_series_is_the_series_one_by_one():
    layer, lengths = randomised(NARX(F, H, O, 1, 2)), (4, 1, 6)
    batch = Batch.from_data_list([chain(n) for n in lengths])
    x, y = (torch.randn(11, width, dtype=torch.float64) for width in (F, O))
    known = torch.rand(11) < 0.5
    together = layer(x, *delays(batch.edge_index, [1, 2]), y, known).split(lengths)
    parts = zip(lengths, *(v.split(lengths) for v in (x, y, known)), strict=True)
    for found, (n, x, y, known) in zip(together, parts, strict=True):
        assert_same(found, layer(x, *delays(chain(n).edge_index, [1, 2]), y, known), list(layer.parameters()))


def test_with_one_delay_and_no_memory_of_inputs_the_closed_loop_is_a_jordan_network():
    narx, jordan = randomised(NARX(F, H, O, input_delays=0, output_delays=1)), randomised(Jordan(F, H, O))
    with torch.no_grad():
        jordan.weight_ih_l0.copy_(narx.input.weight[:, :, 0])
        jordan.bias_ih_l0.copy_(narx.input.bias)
        jordan.bias_hh_l0.zero_()
        jordan.weight_hh_l0.copy_(narx.feedback)
        jordan.weight_ho_l0.copy_(narx.output.weight)
        jordan.bias_ho_l0.copy_(narx.output.bias)
    x, edge_index = torch.randn(6, F, dtype=torch.float64, requires_grad=True), chain(6).edge_index
    assert_same(narx(x, *delays(edge_index, [1])), jordan(x, edge_index), [x])


def test_a_series_without_inputs_has_no_x():
    layer = randomised(NARX(0, H, 1, 0, 2))
    found = layer(torch.empty(5, 0, dtype=torch.float64), *delays(chain(5).edge_index, [1, 2]))
    assert_same(found, paper_narx(layer, torch.empty(5, 0, dtype=torch.float64)), list(layer.parameters()))


# Autoregression -------------------------------------------------------------------------------------------------------


def paper_ar(layer, y, known=None):  # y_t = w_0 + sum_k w_k y_{t-k}
    fed, out = [], []
    for t in range(len(y)):
        terms = (layer.coefficients[k - 1] * fed[t - k] for k in range(1, min(layer.delays, t) + 1))
        out.append(sum(terms, layer.constant.expand_as(y[t])))
        if known is not None and known[t]:
            out[t] = y[t]
        fed.append(y[t] if known is None else out[t])
    return torch.stack(out)


@pytest.mark.parametrize("known", [None, torch.arange(8) < 5, torch.arange(8) < 0], ids=["open", "forecast", "closed"])
def test_autoregression_is_its_formulas_loop(known):
    layer = randomised(AR(3))
    y = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    found = layer(y, *delays(chain(8).edge_index, range(1, 4)), known)
    assert_same(found, paper_ar(layer, y, known), [y, *layer.parameters()])


def test_autoregression_is_a_linear_tdnn_that_does_not_see_the_present():
    ar, tdnn = randomised(AR(3)), randomised(TDNN(1, 1, delays=3, nonlinearity=None))
    with torch.no_grad():
        tdnn.weight.copy_(torch.cat([ar.coefficients.flip(0), torch.zeros(1)]).view(1, 1, 4))
        tdnn.bias.copy_(ar.constant)
    y, window = torch.randn(9, 1, dtype=torch.float64, requires_grad=True), delays(chain(9).edge_index, range(1, 4))
    assert_same(ar(y, *window), tdnn(y, *window), [y])


def test_least_squares_are_numpys_and_no_other_coefficients_do_better():
    p, lengths = 3, (40, 2, 25)  # the second series is too short to count
    torch.manual_seed(0)
    y = torch.randn(sum(lengths), 2, dtype=torch.float64).cumsum(0)
    batch = Batch.from_data_list([chain(n) for n in lengths])
    window = delays(batch.edge_index, range(1, p + 1))
    layer = AR(p).double().fit(y, *window)
    rows, targets = [], []
    for part in y.split(lengths):
        for column in part.t().numpy():
            for t in range(p, len(column)):
                rows.append([1, *column[t - p : t][::-1]])
                targets.append(column[t])
    expected = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    found = torch.cat([layer.constant.reshape(1), layer.coefficients]).detach()
    assert_close(found, torch.from_numpy(expected), "coefficients")


def test_too_short_a_series_to_fit_is_refused():
    with pytest.raises(ValueError, match="AR.fit: 3 steps have all 3 values before them"):
        AR(3).fit(torch.ones(6, 1), *delays(chain(6).edge_index, range(1, 4)))


def test_no_delay_at_all_is_refused():
    with pytest.raises(ValueError, match="NARX: output delays=0; expected 1 or more"):
        NARX(F, H, O, output_delays=0)


def test_delays_below_one_are_refused():
    with pytest.raises(ValueError, match="AR: edge 0 has delay=0"):
        AR(1)(torch.ones(2, 1), torch.tensor([[0], [1]]), torch.tensor([0]))


def test_the_repr_shows_the_widths_and_windows():
    assert repr(NARX(3, 8, 2, 1, 5)) == "NARX(3, 8, 2, input_delays=1, output_delays=5)"
    assert repr(AR(5)) == "AR(5)"
