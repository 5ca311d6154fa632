"""What may be asked of a published model, and what is said of what may not."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.reference.tiny import CLASSIFIER, SHAPE, images_of, learn
from tests.serving.test_predictor import NAMES, png

from gppdm_pipeline.methods import Method
from gppdm_pipeline.serve import application
from gppdm_pipeline.serving.predictor import Predictor
from gppdm_pipeline.serving.requests import answered
from gppdm_pipeline.streams.conversion import Conversion

IMAGE = images_of(0, per_class=1).images[0]


@pytest.fixture(scope="module")
def predictor():
    method = Method.model_validate({"name": "finetune", "classifier": CLASSIFIER})
    return Predictor(learn(method, [(0, 2)])[1], NAMES, Conversion())


@pytest.fixture(scope="module")
def client(predictor):
    with TestClient(application(predictor, {"version": 3}, largest=20_000)) as client:
        yield client


def in_base64(pixels):
    return base64.b64encode(png(pixels)).decode()


def test_an_image_in_three_forms_is_the_same_image(predictor, client):
    forms = [IMAGE, IMAGE.tolist(), IMAGE[..., 0].tolist(), in_base64(IMAGE[..., 0])]
    rows = answered(predictor, forms)
    assert len(set(rows["probability"])) == 1
    answer = client.post("/invocations", json={"inputs": forms[1:]})
    assert answer.status_code == 200
    assert [row["probability"] for row in answer.json()["predictions"]] == rows["probability"][1:]
    assert client.get("/").json() == {"version": 3}


NAN = IMAGE[..., 0].astype(float)
NAN[0, 0] = np.nan
BAD = [
    (json.dumps({}), 400, "there is no image"),
    ("[]", 400, "there is no image"),
    ("{", 400, "the request is no JSON"),
    ("[" * 15_000, 400, "the request is no JSON"),
    (json.dumps({"inputs": []}), 400, "there are 0 images"),
    (json.dumps({"inputs": 3}), 400, "the input is a int"),
    (json.dumps({"inputs": [[1, 2, 3]]}), 400, "image 0: pixels of uint8 [3], not"),
    (json.dumps({"inputs": [[[1, 2], [3]]]}), 400, "nested lists of different lengths"),
    (json.dumps({"inputs": [IMAGE.tolist(), None]}), 400, "image 1: nothing, not an image"),
    (json.dumps({"inputs": [NAN.tolist()]}), 400, "image 0: numbers that are not whole"),
    (json.dumps({"inputs": [[[256]]]}), 400, "numbers from 256 to 256"),
    (json.dumps({"inputs": [[["a"]]]}), 400, "a list, not an image"),
    (json.dumps({"inputs": [{"a": 1}]}), 400, "a dict, not an image"),
    (json.dumps({"inputs": ["/etc/hostname!"]}), 400, "no base64"),
    (json.dumps({"inputs": [base64.b64encode(b"text").decode()]}), 400, "image 0: no image"),
    (" " * 20_001, 413, "send 20000 bytes at most"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD, ids=[message for *_, message in BAD])
def test_a_bad_request_is_told_why_and_the_next_one_is_answered(client, body, status, message):
    told = client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert told.status_code == status
    assert message in told.json()["error"]
    after = client.post("/invocations", json={"inputs": [IMAGE.tolist()]})
    assert after.status_code == 200


def test_a_large_body_is_refused_by_what_it_says_or_as_it_comes(client):
    def in_parts():  # without saying how much it will be
        for _ in range(21):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    assert client.post("/invocations", content=in_parts(), headers=headers).status_code == 413
    said = {**headers, "content-length": str(5 << 30)}
    assert client.post("/invocations", content=b" ", headers=said).status_code == 413


def test_other_kinds_of_content_are_refused(client):
    assert client.post("/invocations", content=b"x").status_code == 415
    assert client.get("/invocations").status_code == 405


def test_colours_of_another_stream_are_brought_to_this_one(predictor):
    rgb = np.repeat(IMAGE, 3, 2)
    assert answered(predictor, [rgb])["label"] == answered(predictor, [IMAGE])["label"]
    assert predictor.image_shape == SHAPE
