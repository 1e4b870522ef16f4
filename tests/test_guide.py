"""The programs of the guide run as printed."""

import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def test_the_program_on_tasks_runs():
    names = {}
    (program,) = (text for text in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "beam" in text)
    exec(compile(program, "guide.md", "exec"), names)
    assert names["loss"] > 0 and len(names["best"]) == 1 and len(names["best"][0]) == 4
