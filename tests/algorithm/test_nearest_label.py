"""The pull towards the nearest old label, against its formula."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    DenoiserConfig,
    build_unet,
    noisy_batch,
    signal_shares,
)
from gppdm_pipeline.algorithm.generator import learn as generator_training
from gppdm_pipeline.algorithm.generator.nearest_label import NearestLabel

# Classes 0 and 1 are old; 2 is nearest to 1 by the angle (to 0 by distance), 3 to 0.
VECTORS = np.random.default_rng(3).normal(size=(6, 50))  # wider than the denoiser's tokens
EMBEDDINGS = torch.tensor([[1.0, 0.2, 0.0], [0.0, 9.0, 1.0], [0.1, 0.9, 0.0], [1.0, 0.0, 0.1]])


def test_nearest_is_by_the_angle():
    told = torch.randn(4, 5)
    pull = NearestLabel.between(EMBEDDINGS.double(), told, 2, torch.ones(1000), "epsilon", 1.0)
    assert pull.embeddings is told
    assert pull.nearest.tolist() == [-1, -1, 1, 0]


@pytest.fixture
def settings(tmp_path):
    np.save(tmp_path / "e.npy", VECTORS)
    return {"embeddings": "file", "file": str(tmp_path / "e.npy")}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("route", ["none", "both"])
@pytest.mark.usefixtures("asks_all")
def test_the_term_against_its_formula(settings, prediction, route):
    method = gppdm(condition=settings, prototypes={"route": route})
    state = learn(method, [(5, 2), (0, 3)])[-1]
    table = ConditionTable(state.condition, (2, 5, 0, 3), 2, route == "both")
    denoiser = Denoiser(build_unet(state.denoiser), 1).eval()
    shares = signal_shares(DenoiserConfig(), CPU)
    images = images_of(2, 0, 3, 5, per_class=2).images
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    noisy = noisy_batch(x, shares, prediction, torch.Generator().manual_seed(0))
    rows = torch.tensor([0, 0, 2, 2, 3, 3, 1, 1])
    kept = torch.tensor([True, True, True, False, True, True, False, True])
    tokens, prototypes = table(rows, kept)
    output = denoiser(noisy.x, noisy.tau, tokens, prototypes)
    vectors = torch.from_numpy(VECTORS)
    of_rows = vectors[[2, 5, 0, 3]]
    pull = NearestLabel.between(of_rows, table.embeddings, 2, shares, prediction, 1e-4)
    loss = pull.loss(denoiser, noisy, tokens, prototypes, output, rows, kept)

    terms = []
    for i in (2, 4, 5):  # new, with their label
        cosines = torch.nn.functional.cosine_similarity(of_rows[rows[i]][None], of_rows[:2])
        changed = tokens[i : i + 1].clone()
        changed[0, 0] = table.embeddings[int(cosines.argmax())]
        beside = None if prototypes is None else prototypes[i : i + 1]
        said = denoiser(noisy.x[i : i + 1], noisy.tau[i : i + 1], changed, beside)
        tau, share = int(noisy.tau[i]), float(shares[noisy.tau[i]])
        one, other = output[i], said[0]
        if prediction == "v_prediction":  # the noise that v says
            one, other = (
                (1 - share) ** 0.5 * noisy.x[i] + share**0.5 * each for each in (one, other)
            )
        terms.append(1e-4 * tau * (one - other).square().mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)

    gradients = torch.autograd.grad(loss, output)[0].flatten(1).any(1)
    assert gradients.tolist() == [False, False, True, False, True, True, False, False]


def test_nearest_is_by_the_vectors_of_the_file(settings, monkeypatch):
    """Not by what a projection to fewer dimensions makes of them."""
    found, fit = [], generator_training.fit_denoiser

    def spy(*given):
        found.append(given[9])
        return fit(*given)

    monkeypatch.setattr(generator_training, "fit_denoiser", spy)
    learn(gppdm(condition=settings, denoiser={"nearest_label": 1e-4}), [(5, 2), (0, 3)])
    assert found[0] is None
    directions = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    expected = (directions[[0, 3]] @ directions[[2, 5]].T).argmax(1)
    assert found[1].nearest.tolist() == [-1, -1, *expected]


def test_it_is_zero_where_no_class_is_new(settings):
    vectors = EMBEDDINGS.double()
    pull = NearestLabel.between(vectors, EMBEDDINGS, 2, torch.ones(1000), "epsilon", 1.0)
    output = torch.randn(2, 1, 4, 4, requires_grad=True)
    given = (None, None, torch.zeros(2, 1, 3), None, output)
    loss = pull.loss(*given, torch.tensor([0, 1]), torch.tensor([True, True]))
    assert float(loss) == 0


def test_it_is_logged_and_changes_the_denoiser_from_the_second_task_on(settings):
    plain, pulled = (
        gppdm(condition=settings, denoiser={"nearest_label": weight, "steps": 10})
        for weight in (0, 1e-4)
    )
    train = images_of(0, 3)
    before, other = (learn(method, [(5, 2)])[-1] for method in (plain, pulled))
    for name, tensor in before.denoiser.tensors.items():
        assert torch.equal(tensor, other.denoiser.tensors[name])
    replay, _ = plain.synthesise_replay(before, Context(0, 2))
    after, log = plain.train_generator(before, train, replay, Context(0, 2))
    moved, logged = pulled.train_generator(before, train, replay, Context(0, 2))
    assert log.curves.keys() == {"denoiser_loss"}
    assert logged.curves.keys() == {"denoiser_loss", "nearest_label_loss"}
    assert logged.curves["nearest_label_loss"][0][1] > 0
    changed = after.denoiser.tensors["conv_in.weight"] != moved.denoiser.tensors["conv_in.weight"]
    assert changed.any()


def test_orthonormal_labels_have_no_nearest():
    text = "labels are orthonormal codes, none of which is nearer than another"
    with pytest.raises(ValidationError, match=text):
        gppdm(denoiser={"nearest_label": 1e-4})
