"""The README's programs run as printed, one after the other."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_programs_of_the_readme_run(capsys):
    names: dict = {"__name__": "readme"}
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(programs) >= 3
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    assert tuple(names["h"].shape) == (63, 16)
    assert "levels" in capsys.readouterr().out


def test_what_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link
