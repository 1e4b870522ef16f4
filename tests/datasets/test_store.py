import hashlib
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest

import mpnn.datasets as datasets
from mpnn.datasets import catalog, store
from mpnn.datasets.catalog import Card, File

GOOD = b"1, 2\n"
SHA = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty $MPNN_DATA and an empty data folder."""
    given, home = tmp_path / "given", tmp_path / "home"
    given.mkdir()
    monkeypatch.setenv("MPNN_DATA", str(given))
    monkeypatch.setattr(store, "home", lambda: home)
    return given, home


def tiny(**changes) -> Card:
    file = File(path="raw/a.txt", bytes=len(GOOD), sha256=SHA, **changes)
    return Card("tiny", "d", "t", "https://source", "MIT", "sets/tiny", files=(file,))


def put(place: Path, content: bytes = GOOD) -> Path:
    path = place / "sets/tiny/raw/a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_mpnn_data_comes_before_the_data_folder(places):
    given, home = places
    later = put(home)
    assert store.files(tiny()) == {"a.txt": later}
    first = put(given)
    assert store.files(tiny()) == {"a.txt": first}


def test_a_file_with_other_bytes_is_refused_by_its_path(places):
    path = put(places[0], b"1, 3\n")
    with pytest.raises(ValueError, match=f"{path}.*expected {SHA}"):
        store.files(tiny())


def test_a_repacked_file_may_have_other_bytes(places):
    path = put(places[0], b"1, 3\n")
    assert store.files(tiny(repacked=True)) == {"a.txt": path}


def test_without_a_download_the_error_says_where_to_put_the_file_and_its_sha256(places):
    _, home = places
    with pytest.raises(FileNotFoundError, match="no download") as caught:
        store.files(tiny())
    assert f"Put the file at {home / 'sets/tiny/raw/a.txt'} (sha256 {SHA}" in str(caught.value)
    assert "will be asked for next" not in str(caught.value)


def test_the_error_names_the_other_files_that_are_missing_too(places):
    put(places[0])
    first, there = File(path="b.txt", bytes=1, sha256=SHA), tiny().files[0]
    card = replace(tiny(), files=(first, there, replace(first, path="c.txt"), replace(first, path="d.txt")))
    with pytest.raises(FileNotFoundError, match="needs b.txt.*[.] c.txt, d.txt will be asked for next.*datasets tiny"):
        store.files(card)


def test_download_false_downloads_nothing(places):
    with pytest.raises(FileNotFoundError, match="download=False"):
        store.files(tiny(url="https://nowhere.invalid/a.txt"), download=False)
    assert not places[1].exists()


def test_no_network_gives_the_place_and_the_sha256(places, monkeypatch):
    import pooch

    def no_network(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    with pytest.raises(FileNotFoundError, match="Network is unreachable") as caught:
        store.files(tiny(url="https://nowhere.invalid/a.txt"))
    assert str(places[1] / "sets/tiny/raw/a.txt") in str(caught.value) and SHA in str(caught.value)


def served(tmp_path, content: bytes, monkeypatch):
    """Lets pooch fetch from a local file: the check of the bytes is pooch's own."""
    import pooch

    def copy(url, output_file, _):
        Path(output_file).write_bytes(content)

    retrieve = pooch.retrieve
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: retrieve(*args, **kwargs, downloader=copy))


def test_a_download_goes_to_the_data_folder_and_never_to_mpnn_data(places, tmp_path, monkeypatch):
    given, home = places
    served(tmp_path, GOOD, monkeypatch)
    assert store.files(tiny(url="https://somewhere/a.txt")) == {"a.txt": home / "sets/tiny/raw/a.txt"}
    assert (home / "sets/tiny/raw/a.txt").read_bytes() == GOOD
    assert list(given.iterdir()) == []


def test_a_download_with_other_bytes_is_refused(places, tmp_path, monkeypatch):
    served(tmp_path, b"other", monkeypatch)
    with pytest.raises(FileNotFoundError, match="ValueError"):
        store.files(tiny(url="https://somewhere/a.txt"))
    assert not (places[1] / "sets/tiny/raw/a.txt").exists()


def test_a_folder_is_present_only_with_all_its_files(places):
    assert store.find_folder(tiny()) is None
    (places[0] / "sets/tiny").mkdir(parents=True)
    assert store.find_folder(tiny()) is None
    put(places[1])
    assert store.find_folder(tiny()) == places[1] / "sets/tiny"


def test_an_installed_package_writes_to_the_users_cache(tmp_path, monkeypatch):
    (tmp_path / "mpnn/_datasets").mkdir(parents=True)
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path / "mpnn")
    assert "mpnn" in store.home().parts and tmp_path not in store.home().parents


# The cards.


def test_every_card_names_source_licence_task_and_files_with_checksums():
    assert len(datasets.names()) >= 43
    for card in datasets.cards().values():
        assert card.source.startswith("https://") and card.licence and card.task and card.description, card.name
        assert card.reader in {*datasets.READERS, "ogb", ""}, card.name
        assert card.files or card.reader == "ogb", card.name
        for file in card.files:
            assert len(file.sha256) == 64 and file.bytes > 0 and (not file.url or file.url.startswith("https://"))
            assert not file.url or urllib.parse.urlparse(file.url).path.endswith(file.name), file.url
        assert card.downloads or card.obtain, card.name  # there is always a way


def test_files_of_a_card_have_different_names():
    for card in datasets.cards().values():
        assert len({file.name for file in card.files}) == len(card.files), card.name


def test_a_card_is_found_by_any_spelling_and_an_unknown_name_by_its_neighbours():
    assert datasets.card("Proteins_Full").folder == "tu/PROTEINS_full"
    with pytest.raises(KeyError, match="'coar' is unknown; expected one of cora"):
        datasets.card("coar")


def test_a_card_with_an_unknown_field_is_refused_by_name():
    text = 'name = "tiny"\ndescription = "d"\ntask = "t"\nsource = "s"\nlicence = "l"\nfolder = "f"\nlicense = "x"'
    with pytest.raises(ValueError, match="'tiny'.*license"):
        catalog.parse(text)


def test_the_files_of_every_card_are_those_of_the_data_folder(mpnn_data):
    for card in datasets.cards().values():
        for file in card.files:
            path = mpnn_data / card.folder / file.path
            assert store.sha256(path) == file.sha256 and path.stat().st_size == file.bytes, path
