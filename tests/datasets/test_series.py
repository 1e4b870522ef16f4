import pytest

from mpnn import datasets
from mpnn.datasets.series import column, table


def test_a_column_of_numbers_is_a_chain_in_order_of_time():
    data = column("3\n1\n2\n")
    assert data.x.tolist() == [[3], [1], [2]] and data.edge_index.tolist() == [[0, 1], [1, 2]]


def test_a_table_gives_all_its_columns_and_the_dates():
    data = table('"date","load","oil"\n"1990-01",1.5,2\n"1990-02",-3,4.25')
    assert data.x.tolist() == [[1.5, 2], [-3, 4.25]]
    assert data.columns == ["load", "oil"] and data.date == ["1990-01", "1990-02"]


def test_a_line_ends_at_its_newline_whatever_stands_in_it():
    assert column("3\r\n1\r\n").x.tolist() == [[3.0], [1.0]] and table("T,a\u2028b\r\n1,5\r\n").columns == ["a\u2028b"]
    with pytest.raises(ValueError, match=r"line 2 has '1\\x0c2'"):
        column("3\n1\x0c2\n")


def test_what_is_no_number_is_refused_with_its_line():
    for text in ("?0.2", "", "nan", "inf"):
        with pytest.raises(ValueError, match=r"temp.csv: line 3 has '.*'; expected a finite number"):
            table(f"Date,Temp\n1981-01-01,20.7\n1981-01-02,{text}", "temp.csv")
    with pytest.raises(ValueError, match="line 2 has '1 2'"):
        column("1\n1 2\n")


def test_lines_with_other_columns_are_refused():
    with pytest.raises(ValueError, match="line 2 has 3 columns; expected 2: a date, Temp"):
        table("Date,Temp\n1981-01-01,20.7,1")


def test_the_laser_has_the_steps_of_the_competition(mpnn_data):
    data = datasets.load("santafe-laser")
    assert data.x[:3].flatten().tolist() == [86, 141, 95]
    assert data.train_mask.nonzero().flatten().tolist() == list(range(1000))
    assert data.test_mask.nonzero().flatten().tolist() == list(range(1000, 1100))


def test_the_sunspots_begin_in_1749_and_the_oil_is_the_last_column(mpnn_data):
    data = datasets.load("sunspots")
    assert data.date[0] == "1749-01" and data.date[-1] == "1983-12" and data.x[0].item() == 58
    assert datasets.load("etth1").columns[-1] == "OT"
