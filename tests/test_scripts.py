"""Every script runs, and its result rows have the fields that the results file promises."""

import re
import shlex
import sys

import pytest
import tyro
from run_scripts import COSTS, FIELDS, SCRIPTS, killed, load, run, saving

KILLED = {  # after how many epochs in all, and with which options; the other scripts have a test of their own
    "charlm": (3, "--model", "all"),
    "cora": (13, "--model", "gat", "--select", "both"),
    "documents": (1, "--dataset", "imdb-reviews", "--model", "average"),
    "gradients": (8, "--part", "cora"),
    "han": (3, "--model", "han"),
    "listops": (3,),
    "molecules": (3,),
    "reddit_threads": (1, "--model", "tree"),
    "series": (3, "--dataset", "sunspots"),
    "sick": (1, "--model", "mean"),
    "skeletons": (3, "--model", "agc-lstm-two-stream"),
    "sst": (1, "--task", "binary", "--model", "recnn"),
    "tagging": (2,),
    "traffic": (3, "--dataset", "chickenpox"),
}
CLOCKED = ("second", "speed", "peak")  # in the names of figures that are other ones each time


def without_times(row):
    """A row, or a part of it, without what a clock or the memory gave."""
    if isinstance(row, list):
        return [without_times(part) for part in row]
    if not isinstance(row, dict):
        return row
    return {name: without_times(part) for name, part in row.items() if not any(word in name for word in CLOCKED)}


@pytest.mark.parametrize("name", KILLED)
def test_a_script_that_was_killed_goes_on_to_the_same_rows(name, mpnn_data, tmp_path, monkeypatch):
    after, *options = KILLED[name]
    arguments = [name, tmp_path, monkeypatch, "--smoke", "--no-picture", *options]
    with saving() as every_epoch:
        whole = run(*arguments)
    with killed(after):
        run(*arguments)
    assert list(tmp_path.glob(f"{name}-*/*.pt"))
    with saving() as later:
        resumed = run(*arguments)
    assert without_times(resumed) == without_times(whole)
    assert later == every_epoch[after:] and later, "an epoch was run again, or none was left"
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("model", ["gcn", "gat", "sage", "mean"])
def test_cora_learns_within_ten_epochs(model, mpnn_data, tmp_path, monkeypatch):
    (row,) = run("cora", tmp_path, monkeypatch, "--smoke", "--model", model)
    assert row.keys() >= FIELDS | COSTS
    assert row["seeds"] == 2 and row["mean"] > 45  # percent; the most frequent class has 32


def test_cora_takes_the_layers_of_torch_geometric(mpnn_data, tmp_path, monkeypatch):
    (row,) = run("cora", tmp_path, monkeypatch, "--smoke", "--layers", "torch_geometric")
    assert row["model"] == "gcn (torch_geometric)" and row["mean"] > 45


def test_torch_geometric_has_no_mean_network(mpnn_data, tmp_path, monkeypatch):
    rows = run("cora", tmp_path, monkeypatch, "--smoke", "--layers", "torch_geometric", "--model", "all")
    assert [row["model"] for row in rows] == [f"{kind} (torch_geometric)" for kind in ("gcn", "gat", "sage")]
    with pytest.raises(SystemExit, match="no layer of the mean network"):
        run("cora", tmp_path, monkeypatch, "--layers", "torch_geometric", "--model", "mean")


def test_cora_draws_the_hidden_layer(mpnn_data, tmp_path, monkeypatch):
    run("cora", tmp_path, monkeypatch, "--seeds", "1", "--epochs", "3")
    assert (tmp_path / "cora-gcn.png").stat().st_size > 10_000


def test_molecules_gives_a_row_a_model(mpnn_data, tmp_path, monkeypatch):
    rows = run("molecules", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["linear", "without bonds", "graph network"]
    assert all(row.keys() >= FIELDS and 0 < row["mean"] < 5 for row in rows)


def test_charlm_learns_more_than_how_frequent_characters_are_and_writes(mpnn_data, tmp_path, monkeypatch):
    rows = run("charlm", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["unigram", "4-gram", "LSTM", "GRU"]
    unigram, counts, *recurrent = rows
    assert all(row.keys() >= FIELDS for row in rows) and counts["mean"] < unigram["mean"] < 5
    for row in recurrent:
        assert row["mean"] < unigram["mean"] - 0.3 and row["examples_a_second"] > row["epoch_seconds"] > 0
        assert len((tmp_path / f"charlm-{row['model'].lower()}.txt").read_text()) >= 100
    assert not list(tmp_path.rglob("*.pt"))


def test_sst_gives_a_row_a_model_and_what_an_epoch_costs(mpnn_data, tmp_path, monkeypatch):
    rows = run("sst", tmp_path, monkeypatch, "--smoke", "--task", "fine")
    assert [row["model"] for row in rows] == ["bag", "recnn", "bilstm", "bilstm (torch.nn)", "tree-lstm"]
    assert all(row.keys() >= FIELDS | COSTS | {"peak_mb", "runs"} for row in rows)
    assert all(row["runs"][0]["test_phrases"] > 50 for row in rows)  # percent; neutral ones are 69


def test_tagging_learns(mpnn_data, tmp_path, monkeypatch):
    (row,) = run("tagging", tmp_path, monkeypatch, "--smoke")
    assert row.keys() >= FIELDS | COSTS and row["mean"] > 40  # percent; one chunk a word would have 30
    assert row["tag_speed"] > 10


def test_tagging_takes_characters_and_parts_of_speech_without_spans(mpnn_data, tmp_path, monkeypatch):
    for dataset, metric in (("resume-ner", "entity F1 %"), ("ud-english-lines", "accuracy %")):
        (row,) = run("tagging", tmp_path, monkeypatch, "--smoke", "--dataset", dataset)
        assert row["metric"] == metric and row["mean"] > 10


def test_listops_gives_accuracy_by_depth_and_draws_it(tmp_path, monkeypatch):
    rows = run("listops", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["tree-lstm", "lstm"]
    assert all(row.keys() >= FIELDS | COSTS and len(row["accuracy_by_depth"]) == 4 for row in rows)
    assert (tmp_path / "listops-depth.png").stat().st_size > 10_000
    assert not list(tmp_path.rglob("*.pt"))


def test_gradients_vanish_explode_and_stay_as_their_networks_promise(mpnn_data, tmp_path, monkeypatch):
    rows = {row["model"]: row for row in run("gradients", tmp_path, monkeypatch, "--smoke")}
    assert all(row.keys() >= FIELDS for row in rows.values())
    assert rows["RNN, tanh, 0.9"]["mean"] < rows["RNN, tanh, 0.9"]["gamma"] < 0.9
    assert rows["LSTM"]["mean"] < 0.9 < rows["LSTM, forget bias 3"]["mean"] < 1.1 < rows["RNN, relu, 1.6"]["mean"]
    assert rows["RNN, relu, 1.5, clip=1.0"]["mean"] == 0 < rows["RNN, relu, 1.5, clip=None"]["mean"]
    assert rows["GCN, 4 layers"]["energy_before"][-1] < 0.1 * rows["GCN, 4 layers"]["energy_before"][0]


def test_series_gives_two_rows_a_model_and_a_picture(mpnn_data, tmp_path, monkeypatch):
    rows = run("series", tmp_path, monkeypatch, "--smoke", "--dataset", "santafe-laser")
    assert [row["model"] for row in rows[::2]] == ["AR", "TDNN", "NARX", "LSTM"]
    assert all(row.keys() >= FIELDS and 0 < row["mean"] < 1000 for row in rows)
    assert (tmp_path / "series-santafe-laser.png").stat().st_size > 20_000


def test_reddit_threads_gives_a_row_a_model(mpnn_data, tmp_path, monkeypatch):
    rows = run("reddit_threads", tmp_path, monkeypatch, "--smoke", "--dataset", "college")
    assert [row["model"] for row in rows] == [
        "features", "graph tanh", "tree", "chain", "graph forward", "chain forward", "graph linear",
    ]  # fmt: skip
    assert all(row.keys() >= FIELDS | COSTS and len(row["of_level"]) == 7 and 0 < row["mean"] < 60 for row in rows)
    assert not list(tmp_path.glob("**/*.pt"))


def test_sick_gives_a_row_a_model_with_three_metrics(mpnn_data, tmp_path, monkeypatch):
    rows = run("sick", tmp_path, monkeypatch, "--smoke")
    names = ["mean of the words", "LSTM", "bidirectional LSTM", "constituency Tree-LSTM", "dependency Tree-LSTM"]
    assert [row["model"] for row in rows] == names
    for row in rows:
        assert row.keys() >= FIELDS | COSTS and row["mean"] > 20 and row["mse"]["mean"] < 1
        assert row["spearman_x_100"]["mean"] > 20
    assert not list(tmp_path.rglob("*.pt"))


def test_lattice_ner_gives_a_row_a_model_and_what_words_add(mpnn_data, tmp_path, monkeypatch):
    rows = run("lattice_ner", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["character", "lattice"]
    for row in rows:
        assert row.keys() >= FIELDS and row["sentences_a_second"]["tag_32"] > row["sentences_a_second"]["tag_1"] > 0
    gain = rows[1]["mean"] - rows[0]["mean"]
    assert rows[1]["mean"] > 10 and rows[1]["gain"]["mean"] == pytest.approx(gain, abs=0.01)
    assert not list(tmp_path.rglob("*.pt"))


def test_han_gives_a_row_a_model_and_pictures(mpnn_data, tmp_path, monkeypatch):
    rows = run("han", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["logistic", "gcn", "gat", "han"]
    assert all(row.keys() >= FIELDS and row["mean"] > 45 for row in rows)  # percent; the most frequent class has 37
    figures = rows[-1]["figures"]
    assert figures["weight MAM"]["mean"] + figures["weight MDM"]["mean"] == pytest.approx(1, abs=2e-3)
    assert all(figures[f"macro neighbours {share}"]["mean"] > 40 for share in (20, 80))
    for what in ("weights", "embeddings"):
        assert (tmp_path / f"han-imdb-{what}.png").stat().st_size > 8_000
    assert not list(tmp_path.rglob("*.pt"))


def test_documents_gives_a_row_a_model_and_a_page(mpnn_data, tmp_path, monkeypatch):
    rows = run("documents", tmp_path, monkeypatch, "--smoke", "--dataset", "movie-reviews")
    assert [row["model"] for row in rows] == ["average", "bilstm", "han"]
    assert all(row.keys() >= FIELDS | {"runs", "recipe"} and 0 < row["mean"] < 100 for row in rows)
    page = (tmp_path / "documents-movie-reviews.html").read_text()
    assert page.count("<span") > 50 and 8 <= page.count("<i style") <= 20
    assert not list(tmp_path.rglob("*.pt"))


def test_documents_of_ratings_have_a_mean_squared_error(mpnn_data, tmp_path, monkeypatch):
    (row,) = run("documents", tmp_path, monkeypatch, "--smoke", "--dataset", "imdb-reviews", "--model", "han")
    assert 1 < row["mse"]["mean"] < 40 and "rating" in (tmp_path / "documents-imdb-reviews.html").read_text()


def test_skeletons_gives_a_row_a_model_and_a_strip(mpnn_data, tmp_path, monkeypatch):
    rows = run("skeletons", tmp_path, monkeypatch, "--smoke")
    names = ["lstm", "p-lstm", "graph-gcn", "agc-lstm-joint", "agc-lstm-part", "agc-lstm-two-stream"]
    assert [row["model"] for row in rows] == names
    assert all(row.keys() >= FIELDS and row["examples_a_second"] > 0 for row in rows)
    assert (tmp_path / "skeletons-nucla.png").stat().st_size > 20_000
    assert not list(tmp_path.rglob("*.pt"))


def test_skeletons_takes_the_action_sets(mpnn_data, tmp_path, monkeypatch):
    (row,) = run("skeletons", tmp_path, monkeypatch, "--smoke", "--dataset", "as2", "--model", "agc-lstm-part")
    assert row["dataset"] == "as2" and row["mean"] > 0


def test_traffic_gives_a_row_a_model_and_a_picture(mpnn_data, tmp_path, monkeypatch):
    rows = run("traffic", tmp_path, monkeypatch, "--smoke")
    assert [row["model"] for row in rows] == ["last value", "mean", "LSTM", "GCN", "Chebyshev", "diffusion"]
    for row in rows:
        assert row.keys() >= FIELDS and row["mean"] == round(row["figures"]["MAE, 1 week"]["mean"], 3)
        assert len({name for name in row["figures"] if "week" in name}) == 9
    last, mean, *networks = (row["figures"]["RMSE, 1 week"]["mean"] for row in rows)
    assert all(error < mean < last for error in networks)  # changes swing back, so that the next one can be foreseen
    assert (tmp_path / "traffic-chickenpox.png").stat().st_size > 20_000
    assert not list(tmp_path.rglob("*.pt"))


def test_a_missing_data_set_ends_a_script_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setenv("MPNN_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="esol_graphs.npz"):
        run("molecules", tmp_path, monkeypatch, "--smoke")


def test_help_has_the_paper_the_figures_and_the_commands_too(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run("cora", tmp_path, monkeypatch, "--help")
    said = capsys.readouterr().out
    assert end.value.code == 0 and "arXiv:1609.02907" in said and "mpnn run cora --dataset all" in said
    assert "--patience INT" in said and "(default: 100)" in said


def test_a_missing_package_ends_a_script_with_what_to_install(mpnn_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"cora: needs matplotlib.* pip install 'mpnn\[viz\]'.* kept"):
        run("cora", tmp_path, monkeypatch, "--seeds", "1", "--epochs", "2")
    assert len(list(tmp_path.rglob("*.pt"))) == 1


def test_the_picture_of_the_readme_is_drawn(tmp_path):
    assert load("levels").main(str(tmp_path / "levels.png")).stat().st_size > 20_000


def test_result_files_become_a_table_with_the_command(mpnn_data, tmp_path, monkeypatch):
    run("cora", tmp_path, monkeypatch, "--smoke")
    table = load("results").main([str(tmp_path / "rows.json")])
    assert "## cora" in table and "| cora | gcn | accuracy % |" in table and "`mpnn run cora --smoke`" in table


def rows_of_the_results_page() -> list[dict[str, str]]:
    """The rows of all tables of docs/results.md, by the names of the columns."""
    tables = [line for line in (SCRIPTS.parent / "docs" / "results.md").read_text().splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]
    head = rows[0]
    return [dict(zip(head, row, strict=True)) for row in rows if row != head and not row[0].startswith("---")]


def test_every_row_of_the_results_page_has_figure_spread_seeds_and_the_published_figure_or_none():
    rows = rows_of_the_results_page()
    assert len(rows) > 100
    for row in rows:
        assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row["mean ± std"]) and int(row["seeds"]) > 0, row
        assert re.fullmatch(r"–|\d+(\.\d+)?", row["published"]) and re.fullmatch(r"\d+", row["seconds"]), row


def test_every_command_of_the_results_page_is_understood_by_its_script():
    commands = {row["command"] for row in rows_of_the_results_page()}
    assert len(commands) > 50
    for command in sorted(commands):
        mpnn, run_, name, *arguments = shlex.split(command.strip("`"))
        assert (mpnn, run_) == ("mpnn", "run")
        config = tyro.cli(load(name).Config, args=arguments)
        for option, given in zip(arguments, [*arguments[1:], ""]):
            if option.startswith("--") and given and not given.startswith("--"):
                assert str(getattr(config, option[2:].replace("-", "_"))) == given, command
