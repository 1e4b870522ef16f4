"""The demo runs from beginning to end, prints a line a part, and gives the same numbers again."""

import json

import pytest
import torch
from run_scripts import load

pytest.importorskip("matplotlib")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def demo():
    return load("demo")


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_smoke_run_prints_a_line_and_draws_a_picture_for_each_part(demo, tmp_path, capsys):
    results = demo.main(demo.Config(smoke=True, out=tmp_path / "out"))
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.endswith(f"are in {tmp_path / 'out'}")
    assert [line.split()[0] for line in lines] == list(results) == ["karate", "chains", "trees", "pictures"]
    for name in ("karate", "karate_sides", "chain", "tree", "picture"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert saved["results"] == results and saved["settings"]["seed"] == 0


def test_the_seed_decides_the_result(demo, tmp_path):
    def run(seed):
        torch.manual_seed(seed)
        return demo.chains(demo.Config(smoke=True, seed=seed, out=tmp_path))

    first = run(1)
    assert run(1) == first != run(2)


def test_the_cell_on_a_chain_is_an_lstm(demo):
    """Gates of nn.LSTM stand in the order i, f, g, o; the cell's in the order i, o, u, f."""
    cell, lstm = demo.SumLSTM(3, 5).double(), torch.nn.LSTM(3, 5).double()
    with torch.no_grad():
        for ours, theirs in ((cell.input.weight, lstm.weight_ih_l0), (cell.input.bias, lstm.bias_ih_l0)):
            i, f, g, o = theirs.chunk(4)
            ours.copy_(torch.cat([i, o, g, f]))
        i, f, g, o = lstm.weight_hh_l0.chunk(4)
        cell.recur.weight.copy_(torch.cat([i, o, g]))
        cell.forget.weight.copy_(f)
        lstm.bias_hh_l0.zero_()
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chain = torch.stack([torch.arange(6), torch.arange(1, 7)])
    torch.testing.assert_close(cell(x, chain, "topological"), lstm(x)[0], rtol=1e-10, atol=1e-12)


def test_the_network_finds_most_of_the_club_from_two_labels(demo, tmp_path):
    torch.manual_seed(0)
    result = demo.karate(demo.Config(out=tmp_path))
    assert result["members"] == 32 and result["accuracy"] > 0.85
