"""Figures: what they show, that nothing is cut off, and that pyplot is left alone."""

import io

import numpy as np
import pytest
from matplotlib import image, pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from gppdm_pipeline.evaluation import figures, heat_maps
from gppdm_pipeline.evaluation.inspection_figures import stream_figure
from gppdm_pipeline.images.labelled import LabelledImages

NAMES = tuple(f"class_{label}" for label in range(100))


def matrix(total):
    return [
        [1 - 0.9 * (t - i) / total if i <= t else None for i in range(total)] for t in range(total)
    ]


def labelled(classes, shape=(8, 8, 1), per_class=3):
    labels = np.repeat(np.array(classes, np.int64), per_class)
    rng = np.random.default_rng(0)
    return LabelledImages(rng.integers(0, 256, (len(labels), *shape), np.uint8), labels)


def prototypes(classes, shape=(1, 8, 8)):
    rng = np.random.default_rng(1)
    return {label: rng.uniform(-1.2, 1.2, shape).astype(np.float32) for label in classes}


def rendered(figure):
    """The PNG's pixels, after checking that nothing reaches over the figure's edge."""
    file = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(file)
    file.seek(0)
    drawn = figure.get_tightbbox(canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert 0 <= drawn.x0 < drawn.x1 <= width
    assert 0 <= drawn.y0 < drawn.y1 <= height
    return image.imread(file)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_tasks_without_new_classes_have_no_line():
    a = [[0.5, None, None], [0.4, None, None], [0.3, None, 1.0]]
    lines = figures.accuracy_over_tasks_figure(a, [0.5, 0.4, 0.6])
    rendered(lines)
    rendered(heat_maps.accuracy_matrix_figure(a))
    labels = [line.get_label() for line in lines.axes[0].lines]
    assert labels == ["task 1", "task 3", "average accuracy"]


@pytest.mark.parametrize("total", [1, 2, 5, 20])
def test_accuracy_figures(total):
    heat = heat_maps.accuracy_matrix_figure(matrix(total))
    lines = figures.accuracy_over_tasks_figure(matrix(total), [0.5] * total)
    for figure in (heat, lines):
        assert rendered(figure).shape[1] <= 800
    (averages,) = (line for line in lines.axes[0].lines if line.get_label() == "average accuracy")
    assert averages.get_ydata().tolist() == [50.0] * total
    assert len(lines.axes[0].lines) == total + 1


def test_the_matrix_is_written_out_below_the_diagonal_only():
    figure = heat_maps.accuracy_matrix_figure([[0.5, None], [0.123, 1.0]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "12", "100"]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (6, 12, 3)])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_replay_grid(shape, count):
    figure = figures.replay_grid_figure(
        labelled(range(count // 2), shape), labelled(range(count), shape), NAMES
    )
    assert rendered(figure).shape[1] == 800
    assert [axes.get_title() for axes in figure.axes] == ["replayed", "real"]
    assert texts(figure).count("no replayed image") == count - count // 2


def test_replay_grid_shows_the_images_themselves_row_by_row():
    real = labelled([3, 1], per_class=2)
    figure = figures.replay_grid_figure(real.of_classes([1]), real, NAMES, per_class=2)
    left, right = (np.asarray(axes.images[0].get_array())[..., :1] for axes in figure.axes)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["class 1", "class 3"]
    assert left.shape == right.shape == (17, 17, 1)
    np.testing.assert_array_equal(right[:8, :8], real.of_classes([1]).images[0])
    np.testing.assert_array_equal(left[:8, 9:], real.of_classes([1]).images[1])
    np.testing.assert_array_equal(right[9:, 9:], real.of_classes([3]).images[1])
    assert (left[9:] == 255).all()


def test_replay_grid_without_any_replay():
    figure = figures.replay_grid_figure(LabelledImages.empty((8, 8, 1)), labelled([0, 1]), NAMES)
    rendered(figure)
    assert texts(figure).count("no replayed image") == 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
@pytest.mark.parametrize("count", [1, 10, 23])
def test_prototypes(shape, count):
    starts, ends = prototypes(range(count), shape), prototypes(range(count), shape)
    figure = figures.prototypes_figure(starts, ends, NAMES)
    assert rendered(figure).shape[1] <= 800
    assert len(figure.axes) == -(-count // 10)
    shown = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()]
    assert shown == [f"class {label}" for label in range(count)]


def test_prototypes_are_shown_from_black_to_white():
    start, end = np.full((1, 8, 8), -1.0), np.full((1, 8, 8), 1.5)
    figure = figures.prototypes_figure({5: start}, {5: end}, NAMES)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert (shown[:8] == 0).all()
    assert (shown[9:] == 255).all()


def test_prototypes_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"start for the classes \[1\] and end for \[2\]"):
        figures.prototypes_figure(prototypes([1]), prototypes([2]), NAMES)
    with pytest.raises(ValueError, match="at least one"):
        figures.prototypes_figure({}, {}, NAMES)


def test_a_class_name_is_no_mathematics_and_may_be_long():
    names = [r"$\frac$", "a very long name, much longer than a cell"]
    rendered(figures.prototypes_figure(prototypes([0, 1]), prototypes([0, 1]), names))
    rendered(figures.replay_grid_figure(labelled([0]), labelled([0, 1]), names))


def test_pyplot_keeps_no_figure():
    heat_maps.accuracy_matrix_figure(matrix(2))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("rows", "shape"), [(1, (8, 8, 1)), (12, (8, 8, 1)), (40, (28, 20, 1)), (300, (16, 16, 3))]
)
def test_stream_figure(rows, shape):
    image = np.full((9, *shape), 100, np.uint8)
    samples = [(i // 5 + 1, f"a_class_of_long name {i}", image[: 1 + i % 9]) for i in range(rows)]
    figure = stream_figure(samples)
    assert rendered(figure).shape[1] <= 800
    names = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert len(names) == min(rows, 120)
    assert names[0] == "1 · a class of long…"
    assert ("task · class (120 of 300 shown)" in texts(figure)) is (rows == 300)
