"""Figures with letters that the default font lacks: another font's, or their codes."""

import logging

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager

from gppdm_pipeline.evaluation import lettering
from gppdm_pipeline.evaluation.pictures import Picture


@pytest.fixture(autouse=True)
def anew():
    yield
    for cached in (lettering._letters, lettering._fonts_with, lettering._tell):
        cached.cache_clear()


def drawn(*names):
    """A figure with the names at an axis, in a title and in a plot."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_title(names[0])
    axes.text(0, 0, names[-1])
    return figure, axes


def only_default_font(monkeypatch):
    default = findfont(FontProperties())
    fonts = [font for font in fontManager.ttflist if font.fname == default]
    monkeypatch.setattr(fontManager, "ttflist", fonts)


def test_letters_of_no_font_are_shown_by_their_codes_without_a_warning(monkeypatch, caplog):
    only_default_font(monkeypatch)
    figure, axes = drawn("猫", "big 狗 dog", "猫科动物", "ant")
    picture = Picture(figure, [{"class": "猫"}])
    with caplog.at_level(logging.WARNING):
        for kind in ("png", "svg", "png"):  # a warning would be an error in tests
            assert picture.rendered(kind)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["U+732B", "big U+72D7 dog", "U+732B U+79D1…", "ant"]
    assert axes.get_title() == "U+732B"
    assert caplog.text.count("Install a font") == 1
    assert "猫" in picture.csv()


def test_letters_of_another_font_are_drawn_with_it(monkeypatch):
    default = lettering._letters(findfont(FontProperties()))
    font = next(
        font
        for font in fontManager.ttflist
        if "Last Resort" not in font.name and lettering._letters(font.fname) - default
    )
    letter = min(lettering._letters(font.fname) - default)
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist])
    figure, axes = drawn(f"a{letter}", "b")
    assert Picture(figure, [{"class": "a"}]).rendered("png")
    assert axes.get_title() == f"a{letter}"
    families = axes.get_yticklabels()[0].get_fontfamily()
    assert families[0] == "sans-serif" and len(families) > 1


def test_other_figures_are_left_as_they_are():
    figure, axes = drawn("ant", "Löwe", "two\nlines")
    family = axes.title.get_fontfamily()
    Picture(figure, [{"class": "ant"}]).rendered("png")
    assert axes.title.get_fontfamily() == family
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "Löwe", "two\nlines"]
