import runpy
import subprocess
import sys

import pytest

import mpnn.datasets as datasets
from mpnn import cli
from mpnn.datasets import store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two scripts, one of which reports how it was called."""
    (tmp_path / "gcn_cora.py").write_text(
        '"""GCN on Cora."""\nimport sys\nfrom _helper import word\nif __name__ == "__main__":\n'
        "    print(word, sys.argv[1:])\n    raise SystemExit(3)\n"
    )
    (tmp_path / "plain.py").write_text("print('plain')\n")
    (tmp_path / "_helper.py").write_text("word = 'called'\n")
    monkeypatch.setattr(cli.catalog, "beside", lambda kind: tmp_path)
    return tmp_path


def test_datasets_lists_every_set_with_source_licence_and_state(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("MPNN_DATA", raising=False)
    monkeypatch.setattr(store, "home", lambda: tmp_path)
    assert cli.main(["datasets"]) == 0
    out = capsys.readouterr().out
    for card in datasets.cards().values():
        assert card.name in out and card.licence in out and card.source in out
    assert "absent: downloaded by mpnn.datasets.load('cora')" in out
    assert f"absent: put the files at {tmp_path / 'amazon/Photo'}" in out


def test_datasets_says_where_a_set_is(capsys, monkeypatch, tmp_path):
    card = datasets.card("actor")
    path = tmp_path / card.folder / card.files[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    monkeypatch.setenv("MPNN_DATA", str(tmp_path))
    cli.main(["datasets", "actor"])
    assert f"present: {path.parent}" in capsys.readouterr().out


def test_one_card_shows_files_and_published_results(capsys):
    assert cli.main(["datasets", "Cora"]) == 0
    out = capsys.readouterr().out
    assert datasets.card("cora").files[0].sha256 in out
    assert "83 ± 0.7" in out and "GammaGL" in out and "2,708 nodes" in out


def test_an_unknown_set_gives_status_2_and_its_neighbours(capsys):
    assert cli.main(["datasets", "coar"]) == 2
    assert "'coar' is unknown; expected one of cora" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "bench"])
def test_arguments_and_status_pass_through(command, folder, capsys):
    argv, path = sys.argv, sys.path[:]
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "gcn_cora", "--smoke", "-n", "3", "--help"])
    assert caught.value.code == 3
    assert capsys.readouterr().out == "called ['--smoke', '-n', '3', '--help']\n"
    assert sys.argv is argv and sys.path == path


def test_a_script_that_ends_by_itself_gives_status_0(folder, capsys):
    assert cli.main(["run", "plain.py"]) == 0
    assert capsys.readouterr().out == "plain\n"


def test_run_without_a_name_lists_the_scripts(folder, capsys):
    assert cli.main(["run"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{'gcn_cora':<20} GCN on Cora.", f"{'plain':<20} "]


def test_an_unknown_script_gives_status_2_and_lists_what_there_is(folder, capsys):
    assert cli.main(["run", "gcn_coar"]) == 2
    err = capsys.readouterr().err
    assert "'gcn_coar' is not in" in err and "gcn_cora, plain" in err and "Did you mean 'gcn_cora'?" in err


def test_scripts_of_an_installed_package_are_found_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.catalog, "PACKAGE", tmp_path / "mpnn")
    assert cli.catalog.beside("scripts") == tmp_path / "scripts"
    (tmp_path / "mpnn/_datasets").mkdir(parents=True)
    assert cli.catalog.beside("scripts") == tmp_path / "mpnn/_scripts"
    assert cli.catalog.beside("benchmarks") == tmp_path / "mpnn/_benchmarks"  # not site-packages/benchmarks


def test_python_dash_m_is_the_same_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mpnn", "datasets", "mutag"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("mpnn", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("mutag\n")


def test_all_runs_every_file_of_the_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "benchmarks").mkdir()
    for name in ("b", "a", "_helper"):
        (tmp_path / "benchmarks" / f"{name}.py").write_text(f"import sys; print('{name}', sys.argv[1:])")
    monkeypatch.setattr("mpnn.datasets.catalog.beside", lambda folder: tmp_path / folder)
    assert cli.main(["bench", "all", "--smoke"]) == 0
    assert capsys.readouterr().out.splitlines() == ["== a", "a ['--smoke']", "== b", "b ['--smoke']"]


def test_of_all_experiments_one_that_ends_early_does_not_stop_the_others(folder, capsys):
    (folder / "aside.py").write_text("import sys; sys.exit('aside: no data')\n")
    (folder / "levels.py").write_text("print('a picture of the README')\n")
    (folder / "gcn_cora.py").unlink()
    assert cli.main(["run", "all"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["== aside", "== plain", "plain"]
    assert printed.err.splitlines() == ["aside: no data", "mpnn: ended early: aside"]


def test_a_lookup_that_fails_in_a_script_is_not_taken_for_an_unknown_name(folder):
    (folder / "plain.py").write_text("print({}['width'])\n")
    with pytest.raises(KeyError, match="width"):
        cli.main(["run", "plain"])


def test_a_reader_that_has_seen_enough_ends_the_list_quietly():
    command = [sys.executable, "-m", "mpnn", "datasets"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 0
