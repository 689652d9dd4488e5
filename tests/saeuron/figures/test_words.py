from saeuron.figures.words import a, harm, interval, percent


def test_figures_in_words() -> None:
    assert harm({"harmed": "mushroom", "before": 11 / 12, "after": 1 / 12}) == "mushroom 8 (was 92)"
    assert [percent(x) for x in (1.0, 0.0, 0.6961, 0.9997, 0.123)] == ["100", "0", "69.6", "100", "12.3"]


def test_the_article_follows_the_noun() -> None:
    assert [a(noun) for noun in ("style", "object", "Artist", "")] == ["a style", "an object", "an Artist", "a "]


def test_a_figure_with_its_interval() -> None:
    assert [interval(*f) for f in ((0.9889, 0.9712, 1.0), (1.0, 0.93, 1.0), (0.0, 0.0, 0.126), (None, None, None))] == [
        "98.9 97-100", "100 93-100", "0.0 0-13", "-",
    ]  # fmt: skip
