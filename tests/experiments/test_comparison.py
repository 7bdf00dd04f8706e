"""What comparisons share: figures as CSV."""

from icm_client.experiments.comparison import counted, csv_of, rounded


def test_a_figure_that_is_missing_is_an_empty_cell() -> None:
    records = [{"name": "a", "share": rounded(1 / 3)}, {"name": "b, c", "share": rounded(None)}]
    assert csv_of(records) == 'name,share\na,0.3333\n"b, c",\n'
    assert csv_of([]).strip() == ""


def test_words_are_counted_in_alphabetical_order() -> None:
    assert counted(["weak", "one-label", "weak"]) == "one-label (1), weak (2)"
    assert counted([]) == ""
