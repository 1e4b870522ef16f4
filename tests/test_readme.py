"""The README's programs run as printed, one after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_programs_of_the_readme_run(capsys):
    names: dict = {"__name__": "readme"}
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(programs) >= 3
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    assert tuple(names["h"].shape) == (63, 16)
    assert "levels" in capsys.readouterr().out


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, *sorted((README.parent / "docs").glob("*.md"))], ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        file, _, heading = link.partition("#")
        assert (page.parent / file).exists(), link
        assert not heading or heading in anchors(page.parent / file if file else page), link
