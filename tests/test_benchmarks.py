"""The benchmarks run; their harness refuses contenders that disagree, names absent ones, measures what it says."""

import contextlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import linregress

FOLDER = Path(__file__).parent.parent / "benchmarks"
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture
def harness(monkeypatch):
    """The shared module, imported as the benchmarks do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import _harness

    return _harness


@pytest.fixture
def command(harness, monkeypatch, tmp_path):
    """Runs cases as a benchmark file does and returns the JSON it writes."""

    def run(file, cases, *arguments):
        monkeypatch.setattr(sys, "argv", [str(file), "--out", str(tmp_path / "out"), *arguments])
        threads = torch.get_num_threads()
        with contextlib.suppress(SystemExit):  # something failed, and is in the report
            try:
                harness.main(str(file), "A question.\n\nMore.", cases)
            finally:
                torch.set_num_threads(threads)
        return json.loads((tmp_path / "out" / f"bench_{Path(file).stem}.json").read_text())

    return run


def contender(harness, name, step, **options):
    return harness.Contender(name, lambda: step, **options)


def by_name(found, case="case, 1 thread"):
    return {row["name"]: row for row in found["cases"][case]["rows"]}


@pytest.mark.parametrize("name", FILES)
def test_every_benchmark_runs_and_writes_its_three_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--no-memory", "--threads", "1", "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / f"bench_{name}.json").read_text())
    assert found["cases"]
    for case, result in found["cases"].items():
        assert result["head"]["versions"]["torch"] and result["head"]["machine"], case
        ours = [row for row in result["rows"] if row["role"] == "mpnn"]
        assert all(len(row["wall"]) == 2 or row["absent"] for row in result["rows"]), case
        assert any(row["wall"] for row in ours) or all(row["absent"].startswith("mpnn") for row in ours), case
        references = [row for row in result["rows"] if row["role"] == "reference"]  # what the machine needs at least
        assert references or all(row["absent"] for row in result["rows"]), case
    assert f"# {name}: {found['title']}" in (tmp_path / f"bench_{name}.md").read_text()
    assert (tmp_path / f"bench_{name}.png").stat().st_size > 1000


def test_contenders_that_disagree_are_named_and_not_timed_and_the_run_fails(harness, command, monkeypatch, tmp_path):
    ones = contender(harness, "first", lambda: [torch.ones(3)])
    other = contender(harness, "second", lambda: [torch.tensor([1.0, 1.0, 1.1])])
    cases = {"case": lambda smoke: harness.Case("t", [ones, other])}
    row = by_name(command("x.py", cases, "--smoke", "--no-memory"))["second"]
    assert "tensor 0 of second differs from that of first by 0.1" in row["failed"] and not row["wall"]
    monkeypatch.setattr(sys, "argv", ["x.py", "--smoke", "--no-memory", "--threads", "1", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1 failed.\n.*case, 1 thread, second: tensor 0"):
        harness.main("x.py", "A question.", cases)


def test_how_close_contenders_are_is_told(harness, command, tmp_path):
    steps = {"first": [torch.tensor([1.0, 4.0])], "second": [torch.tensor([1.0, 4.0004])]}
    case = harness.Case("t", [contender(harness, name, lambda out=out: out) for name, out in steps.items()])
    rows = by_name(command("x.py", {"case": lambda smoke: case}, "--smoke", "--no-memory"))
    assert rows["first"]["checked"] == 0 and rows["second"]["checked"] == pytest.approx(1e-4, rel=0.01)
    assert "2 contenders returned the same tensors, to 0.0001" in (tmp_path / "out" / "bench_x.md").read_text()


@pytest.mark.parametrize(
    "result, words",
    [([torch.ones(4)], "shape"), ([], "returned 0 tensors"), ([torch.tensor([1.0, 1.0, torch.nan])], "differs")],
)
def test_a_missing_tensor_a_wrong_shape_and_nan_are_disagreements(harness, result, words):
    with pytest.raises(harness.Disagreement, match=words):
        harness.compare("first", [torch.ones(3)], "second", result, 1e-3)


def test_an_absent_peer_is_reported_and_the_others_are_timed(harness, command):
    def make():
        harness.peer("no_such_package")

    here = contender(harness, "here", lambda: [torch.ones(2)], role="mpnn")
    case = harness.Case("t", [harness.Contender("gone", make), here])
    rows = by_name(command("x.py", {"case": lambda smoke: case}, "--smoke", "--no-memory"))
    assert "no_such_package cannot be imported" in rows["gone"]["absent"] and not rows["gone"]["wall"]
    assert len(rows["here"]["wall"]) == 2


def test_a_contender_that_needs_more_memory_than_is_free_is_left_out(harness, command):
    big = contender(harness, "big", lambda: [], needs=1e9)
    rows = by_name(command("x.py", {"case": lambda smoke: harness.Case("t", [big])}, "--smoke", "--no-memory"))
    assert "needs 1e+09 GB" in rows["big"]["absent"]


def test_a_case_without_its_data_is_named_and_skipped(harness, command, capsys):
    def build(smoke):
        raise harness.Absent("the data set is not here")

    found = command("x.py", {"case": build}, "--smoke")
    assert found["cases"]["case, 1 thread"]["skipped"] == "the data set is not here"
    assert "Skipped: the data set is not here." in capsys.readouterr().out


def test_what_raises_is_reported_and_the_others_go_on(harness, command):
    def sometimes():
        calls.append(1)
        if len(calls) > 1:  # the first is the warm-up
            raise RuntimeError("broken\nlater")
        return []

    calls = []
    rows = [contender(harness, "here", lambda: [], role="mpnn"), contender(harness, "late", sometimes)]
    rows.append(harness.Contender("never", lambda: [][0]))
    cases = {"bad": lambda smoke: 1 / 0, "case": lambda smoke: harness.Case("t", rows)}
    found = command("x.py", cases, "--smoke", "--no-memory")
    assert found["cases"]["bad, 1 thread"]["failed"] == "ZeroDivisionError: division by zero"
    rows = by_name(found)
    assert rows["never"]["failed"].startswith("IndexError") and rows["late"]["failed"] == "RuntimeError: broken later"
    assert len(rows["here"]["wall"]) == 2 and not rows["here"]["failed"]


def test_a_step_that_takes_too_long_is_stopped_and_a_slow_one_has_fewer_turns(harness, command, tmp_path):
    def step(seconds):
        return lambda: [time.sleep(seconds)][:0]

    rows = [contender(harness, f"{seconds}", step(seconds), role="mpnn") for seconds in (0.0, 0.2, 20.0)]
    case = {"case": lambda smoke: harness.Case("t", rows)}
    found = by_name(command("x.py", case, "--smoke", "--no-memory", "--rounds", "6", "--limit", "0.8"))
    assert len(found["0.0"]["wall"]) == 6 and 1 <= len(found["0.2"]["wall"]) < 6
    assert found["20.0"]["failed"] == "it took longer than 2.4 s"
    lines = (tmp_path / "out" / "bench_x.md").read_text().splitlines()
    assert any("**0.2**" in line and "turn" in line for line in lines)


def test_a_second_run_replaces_its_cases_and_keeps_the_others(harness, command):
    def case(name):
        return lambda smoke: harness.Case("t", [contender(harness, name, lambda: [], role="mpnn")])

    both = {"a": case("old"), "b": case("old")}
    command("x.py", both, "--smoke", "--no-memory")
    found = command("x.py", both | {"b": case("new")}, "--smoke", "--no-memory", "--cases", "b", "--threads", "1", "2")
    names = {key: [row["name"] for row in result["rows"]] for key, result in found["cases"].items()}
    assert names == {"a, 1 thread": ["old"], "b, 1 thread": ["new"], "b, 2 threads": ["new"]}
    assert list(names) == ["a, 1 thread", "b, 1 thread", "b, 2 threads"]


def test_each_case_runs_on_the_threads_it_is_asked_to(harness, command):
    seen = []
    step = contender(harness, "here", lambda: seen.append(torch.get_num_threads()) or [], role="mpnn")
    command("x.py", {"case": lambda smoke: harness.Case("t", [step])}, "--smoke", "--no-memory", "--threads", "1", "2")
    assert seen == [1] * 3 + [2] * 3


def test_ratios_are_to_the_fastest_peer_and_the_first_reference(harness):
    def row(name, role, *seconds):
        return harness.Row(name, role, wall=list(seconds), cpu=list(seconds), foreign=[0.0] * len(seconds))

    rows = [row("a", "mpnn", 2.0, 2.0, 8.0), row("b", "peer", 4.0), row("c", "peer", 5.0), row("d", "reference", 1.0)]
    cells = [cell.strip() for cell in harness.table(rows, 3)[3].split("|")]
    assert cells[1] == "**a**" and cells[2:9] == ["2000", "2000-5000", "2000", "2000", "0.5", "0.5", "2"]


def grown(harness, value, sizes=(10, 100, 1000, 10_000, 100_000)):
    rows = [harness.Row(str(n), "mpnn", size=n, wall=[1.0], cpu=[value(n)]) for n in sizes]
    return harness.growth(rows, lambda row: row.cpu[0])


def test_the_slope_of_growth_is_its_exponent_and_its_error_is_that_of_a_line(harness):
    for exponent in (0.5, 1, 2):
        law = grown(harness, lambda n, exponent=exponent: 1e-3 * n**exponent)
        assert law.exponent == pytest.approx(exponent) and law.off < 1e-6 and law.error < 1e-6
    sizes, y = [10, 100, 1000, 10_000], np.array([1.0, 2.1, 2.9, 4.2])
    law, expected = grown(harness, dict(zip(sizes, 10**y)).get, sizes), linregress(np.log10(sizes), y)
    assert (law.used, law.exponent, law.error) == pytest.approx((4, expected.slope, expected.stderr))
    away = np.abs(y - expected.slope * np.log10(sizes) - expected.intercept)
    assert law.off == pytest.approx(10 ** away.max() - 1)


def test_small_sizes_are_left_out_of_a_slope_while_a_fixed_cost_shows_but_never_the_three_largest(harness):
    law = grown(harness, lambda n: 5 + 0.1 * n)
    assert (law.used, law.given) == (3, 5) and law.exponent == pytest.approx(1, abs=0.03)
    assert grown(harness, lambda n: 0.5 + 0.1 * n).used == 4
    assert grown(harness, lambda n: 1.0).used == 3
    assert grown(harness, lambda n: n**2).used == 5  # what grows faster has no fixed cost
    assert grown(harness, lambda n: n, [10, 20]).used == 2 and grown(harness, lambda n: n, [10]) is None


def test_a_short_step_is_repeated_and_its_time_is_per_step(harness):
    wall, cpu, _ = harness.turn(lambda: time.sleep(0.002), 0.05)
    assert 0.002 <= wall < 0.02 and cpu < 0.002


def test_child_processes_count_as_processor_time(harness):
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    _, cpu, _ = harness.turn(lambda: subprocess.run([sys.executable, "-c", busy], check=True), 0.0)
    assert cpu > 0.15


WEIGHED = """
import os
import torch
from _harness import Case, Contender, main

def light():
    spike = torch.ones(40 * 2**18)  # 40 MB in set-up only
    del spike
    return lambda: []

def pooled():
    spike = [torch.ones(2**14) for _ in range(960)]  # 60 MB in small blocks, which are freed, but not given back
    last = [torch.ones(2**14) for _ in range(8)]
    del spike
    return lambda last=last: [torch.ones(2**14) for _ in range(640)]  # 40 MB

def heavy():
    def step():
        return [torch.ones(60 * 2**18).sum()]  # 60 MB
    return step

def dies():
    if os.getpid() != FIRST:  # where it is weighed, not where it is timed
        os.kill(os.getpid(), 9)
    return lambda: []

def build(smoke):
    makes = (light, pooled, dies, heavy)
    return Case("t", [Contender(make.__name__, make, agrees=False) for make in makes], slope=True)

FIRST = os.getpid()
if __name__ == "__main__":
    main(__file__, "Memory.", {"case": build})
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark can be reset on Linux only")
def test_memory_is_what_a_step_takes_above_its_set_up(tmp_path):
    file = tmp_path / "weighed.py"
    file.write_text(WEIGHED)
    run = [sys.executable, str(file), "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    subprocess.run(run, check=True, capture_output=True, env={"PYTHONPATH": str(FOLDER), "PATH": ""})
    rows = by_name(json.loads((tmp_path / "bench_weighed.json").read_text()))
    assert "not weighed: its process ended with status -9" in rows["dies"]["note"]
    assert rows["light"]["step_mb"] < 10
    assert 55 < rows["heavy"]["step_mb"] < 75 and 35 < rows["pooled"]["step_mb"] < 60


def test_the_power_law_graph_has_no_loops_or_doubles_and_is_skewed(harness):
    edge_index = harness.chung_lu(1000, 8000)
    src, dst = edge_index
    assert edge_index.shape == (2, 8000) and (src != dst).all()
    assert (src * 1000 + dst).unique().numel() == 8000
    degree = torch.bincount(dst, minlength=1000)
    assert degree.max() > 8 * degree.float().mean()
    assert torch.equal(edge_index, harness.chung_lu(1000, 8000))


def test_the_page_has_every_table_one_level_lower_and_what_went_wrong(harness, command, monkeypatch, tmp_path):
    import _page

    sizes = [
        contender(harness, f"{role} {n}", lambda: [], role=role, size=n)
        for role in ("mpnn", "reference")
        for n in (10, 100)
    ]
    growing = harness.Case("grows", sizes, axis="nodes", note="A reason.")
    command("x.py", {"case": lambda smoke: growing, "bad": lambda smoke: 1 / 0}, "--no-memory", "--quick")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["page", "--out", str(out), "--to", str(tmp_path / "docs" / "page.md")])
    _page.main()
    lines = (tmp_path / "docs" / "page.md").read_text().splitlines()
    assert lines[0] == "# Benchmarks" and "## x: A question" in lines and "### case, 2 threads" in lines
    assert "- **failed:** bad, 2 threads: ZeroDivisionError: division by zero" in lines
    grows = [line for line in lines if line.startswith("Grows: processor time as nodes to the power")]
    assert grows and all("; processor time of the reference to the power" in line for line in grows)
    assert "A reason." in lines
    assert any("jraph" in line and "torch_geometric 2" in line for line in lines)
    assert "![time and memory against size, on logarithmic axes](bench_x.png)" in lines
    assert (tmp_path / "docs" / "bench_x.png").stat().st_size > 1000


def test_a_page_stays_as_it_is_where_there_are_no_results(harness, tmp_path, monkeypatch, capsys):
    import _page

    page = tmp_path / "page.md"
    page.write_text("what was measured elsewhere")
    monkeypatch.setattr(sys, "argv", ["page", "--out", str(tmp_path / "out"), "--to", str(page)])
    _page.main()
    assert page.read_text() == "what was measured elsewhere" and "no results in" in capsys.readouterr().out


def test_sizes_along_an_axis_are_named_so_that_no_two_names_meet(harness):
    import _report
    from matplotlib.figure import Figure

    for high, names in ((300, {"20", "50", "100", "200"}), (1e5, {"10", "100", "1 k", "10 k", "100 k"})):
        panel = Figure().subplots()
        panel.loglog([12, high], [1, 2])
        _report.few_ticks(panel.xaxis)
        panel.figure.draw_without_rendering()
        shown = {tick.label1.get_text().replace("\N{NO-BREAK SPACE}", " ") for tick in panel.xaxis.get_major_ticks()}
        assert names <= shown and not any(tick.label1.get_text() for tick in panel.xaxis.get_minor_ticks())


def test_the_page_begins_with_our_times_over_those_of_the_fastest_peer_for_as_much_work(harness):
    import _page
    import _report

    def row(name, role, wall, size=7):
        return _report.Row(name, role, size=size, wall=[wall], cpu=[2 * wall], setup_mb=8.0, step_mb=10 * wall)

    ours, slow, fast = row("ours", "mpnn", 0.2), row("slow", "peer", 0.8), row("fast", "peer", 0.4)
    part, bare = row("a tenth", "peer", 0.1, size=1), row("bare", "reference", 0.1)
    head = {"threads": 1}
    found = [_page.Result("a", head, rows=[slow, ours, fast]), _page.Result("b", head, rows=[ours, part])]
    text = _page.glance({"x": found, "y": [_page.Result("c", head, rows=[ours, bare])]})
    assert text.splitlines()[-1] == "| x | a, 1 thread | fast | 0.5 | 0.5 | 0.833 |"
    assert "| b, 1 thread |" not in text and _page.glance({"y": []}) == ""


def test_the_page_joins_runs_of_one_benchmark_case_by_case_and_says_how_each_was_made(harness, tmp_path, monkeypatch):
    import _page
    import _report

    def left(folder, *cases):
        results = {}
        for name, threads, pace, date, commit in cases:
            head = {"date": date, "machine": "a machine", "versions": {"torch": "2"}, "threads": threads, "rounds": 5}
            head |= {"pace": pace, "load": 1.5 * threads}
            head |= {"commit": commit, "command": f"it {date}"} if commit else {}  # older ones have none
            row = harness.Row("mpnn", "mpnn", wall=[0.1], cpu=[0.1], foreign=[0.0])
            result = _report.Result(name, head, "A title.", [row])
            results[result.key] = result
        _report.write(tmp_path / folder, "x", "A question.\n\nMore.", results, [case[0] for case in cases])

    left("out", ("a", 1, "quick", "2026-01-01 09:00 UTC", ""), ("b", 1, "full", "2026-01-01 09:01 UTC", "aaa"))
    left("new/one", ("b", 1, "quick", "2026-01-02 09:00 UTC", "bbb"), ("c", 1, "smoke", "2026-01-03 09:00 UTC", "bbb"))
    left("new/two", ("b", 2, "full", "2026-01-02 08:00 UTC", "bbb"), ("a", 1, "full", "2025-01-01 09:00 UTC", "old"))
    page = tmp_path / "page.md"
    arguments = ["page", str(tmp_path / "new"), "--out", str(tmp_path / "out"), "--to", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    _page.main()
    text = page.read_text()
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == ["### a, 1 thread", "### b, 1 thread", "### b, 2 threads"]
    assert "| x | 3 | 2 quick, 1 full | 2026-01-01 09:00 to 2026-01-02 09:00 | 1.5 to 3.0 | not kept, bbb |" in text
    assert "`it 2026-01-02 09:00 UTC`: 2026-01-02 09:00 UTC, 5 rounds, load 1.5 before, 0 s, commit bbb." in text
    assert "`mpnn bench x --cases 'a' --threads 1 --quick`" in text and "09:01" not in text and "2025" not in text
    assert (tmp_path / "out" / "bench_x.png").exists()


def test_a_case_keeps_the_command_and_the_commit_that_it_was_measured_with(harness, command):
    case = {"a case": lambda smoke: harness.Case("t", [contender(harness, "here", lambda: [], role="mpnn")])}
    found = command("x.py", case, "--quick", "--no-memory", "--limit", "5", "--threads", "1")
    head = found["cases"]["a case, 1 thread"]["head"]
    assert head["command"] == "mpnn bench x --cases 'a case' --threads 1 --quick --no-memory --limit 5"
    assert "commit" in head


def test_all_runs_each_file_goes_on_after_one_that_fails_and_makes_the_page(harness, monkeypatch, tmp_path, capfd):
    import _all

    text = "from _harness import Case, Contender, main\nmain(__file__, 'T.', {{'c': lambda smoke: Case('t', [{}])}})"
    good = "Contender('here', lambda: lambda: [], 'mpnn')"
    for name, inside in {"a": "Contender('gone', lambda: 1 / 0)", "b": good, "scaling": good, "c": good}.items():
        (tmp_path / f"{name}.py").write_text(text.format(inside))
    monkeypatch.setattr(_all, "HERE", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["all", "--out", str(out), "--skip", "c", "--smoke", "--no-memory"])
    with pytest.raises(SystemExit, match="Failed: a; "):
        _all.main()
    told = [line.split(":")[0] + line.partition(",")[2] for line in capfd.readouterr().out.splitlines()]
    assert told == ["a FAILED", "b", "scaling"]
    page = (out / "benchmarks.md").read_text()
    assert "- **failed:** c, 1 thread, gone: ZeroDivisionError" in page and "## b: T" in page


def test_all_planning_is_metered_wherever_it_happens_and_only_the_first_time(harness):
    import planning

    import mpnn

    layer, edge_index = mpnn.nn.LSTM(3, 4), torch.stack([torch.arange(2999), torch.arange(1, 3000)])
    seconds = []
    with planning.Meter().running() as meter:
        for _ in range(2):
            layer(torch.ones(3000, 3), edge_index)
            seconds.append(meter.seconds)
    assert 0 < seconds[1] - seconds[0] < seconds[0] / 2
    layer(torch.ones(3000, 3), edge_index.clone())
    assert meter.seconds == seconds[1]  # all is as it was


def test_a_script_is_caught_where_it_starts_to_train(harness):
    from _scripts import training

    made = training("listops", model="tree-lstm", train=10, test=2, smoke=True)
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    made.step(next(iter(made.batches)))
    assert any(not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))


def test_an_epoch_is_as_many_steps_as_there_are_batches(harness, monkeypatch):
    import _epochs

    class Steps:
        batches = [torch.ones(10, 1)] * 4 + [torch.ones(5, 1)]

        def step(self, batch):
            clock[0] += len(batch) / 10

    clock = [0.0]
    monkeypatch.setattr(_epochs.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(_epochs, "BUDGET", 100.0)
    assert _epochs.cost(Steps()) == pytest.approx((4.5, 45, 5))
    monkeypatch.setattr(_epochs, "BUDGET", 1.5)
    assert _epochs.cost(Steps()) == pytest.approx((5.0, 50, 5))  # two batches of ten seen, of five
