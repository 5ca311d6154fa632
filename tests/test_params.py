"""One reading of `--params`, for `kedro run`, sweeps and plans."""

from __future__ import annotations

import click
import pytest

from gppdm_pipeline.cli import run
from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.configuration.params import parse, scalar, written


def test_nested_keys_and_values_of_every_kind():
    text = "a.b=1,a.c=0.5,name=x y,on=true,off=false,nothing=null,empty="
    assert parse(text) == {
        "a": {"b": 1, "c": 0.5},
        "name": "x y",
        "on": True,
        "off": False,
        "nothing": None,
        "empty": None,
    }
    assert parse("") == {}


@pytest.mark.parametrize(
    "name", ["1.10", "010", "1e3", "2024-05-01", "1_000", "0x10", "12:30", "+1", "yes", "off", ".5"]
)
def test_a_name_that_looks_like_something_else_stays_as_it_was_typed(name):
    assert parse(f"variant={name},names=[{name}, other]") == {
        "variant": name,
        "names": [name, "other"],
    }


@pytest.mark.parametrize("text", ["0", "10", "-3", "\N{MINUS SIGN}3", "0.5", "1e-05"])
def test_numbers_as_python_writes_them_are_numbers(text):
    assert scalar(text) == float(text.replace("\N{MINUS SIGN}", "-"))
    assert not isinstance(scalar(text), str)


@pytest.mark.parametrize(
    "value",
    ["/data/[v2]/images", "[v2]/images", "/data/it's", "a: b", "C:\\images", "50%", "#1", "a=b"],
)
def test_what_is_no_list_is_text(value):
    assert parse(f"stream.source.folder={value},seed=1") == {
        "stream": {"source": {"folder": value}},
        "seed": 1,
    }


def test_brackets_and_quotes_hold_commas_together():
    text = "sizes=[2, 2,1],tasks=[['cat, tabby', dog], [bird]],name=\"a,b\",seed=1"
    assert parse(text) == {
        "sizes": [2, 2, 1],
        "tasks": [["cat, tabby", "dog"], ["bird"]],
        "name": "a,b",
        "seed": 1,
    }


def test_what_is_written_is_read_as_it_was():
    values = {
        "a": {"b": 1, "c": None, "d": True, "e": 0.25},
        "sizes": [2, [3, "4"]],
        "names": ["1.10", "yes", "null", "cat, tabby", "dog's", 'a "b"', " x ", "[", "猫"],
        "digits": "10",
        "text": "true",
    }
    assert parse(written(values)) == values


@pytest.mark.parametrize("text", ["a", "a=1,b", "=1", "a..b=1", ".=1"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"no key=value\. Write a\.b=1"):
        parse(text)


@pytest.mark.parametrize("text", ["a=1,a.b=2", "a.b=2,a=1"])
def test_a_setting_is_a_value_or_has_parts(text):
    with pytest.raises(ConfigurationError, match="is given a value and, in the same command,"):
        parse(text)


@pytest.mark.parametrize("text", ["seed=1,seed=2", "a.b=1,c=2, a.b =1"])
def test_a_setting_that_is_given_twice_is_refused(text):
    with pytest.raises(ConfigurationError, match="is given twice"):
        parse(text)


def test_kedro_run_reads_so_too():
    with run.make_context("run", ["--params=variant=010,seed=1"]) as context:
        assert context.params["params"] == {"variant": "010", "seed": 1}
    with pytest.raises(click.ClickException, match="no key=value"):
        run.make_context("run", ["--params=variant"])
