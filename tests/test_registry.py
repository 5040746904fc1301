"""The one registry shape."""

from __future__ import annotations

import pytest

from edgeface.errors import DuplicateNameError, UnknownEngineError, UnknownTargetError
from edgeface.registry import Registry
from edgeface.runtime.engines import engine


def test_an_entry_is_found_under_its_name() -> None:
    target: Registry[int] = Registry("target", UnknownTargetError)
    assert target("ncnn")(7) == 7
    assert target.get("ncnn") == 7


def test_a_second_entry_of_one_name_is_refused_and_the_first_stays() -> None:
    target: Registry[int] = Registry("target", UnknownTargetError)
    target("ncnn")(1)
    with pytest.raises(DuplicateNameError, match="target 'ncnn' is registered twice"):
        target("ncnn")(2)
    assert target.get("ncnn") == 1


def test_an_unknown_name_answers_with_the_nearest_and_the_choices() -> None:
    target: Registry[int] = Registry("target", UnknownTargetError)
    target("onnx")(1)
    target("ncnn")(2)
    with pytest.raises(UnknownTargetError) as caught:
        target.get("nncn")
    assert str(caught.value) == "no target 'nncn'. Did you mean 'ncnn'? Targets: ncnn, onnx."
    assert caught.value.exit_code == 2


def test_an_empty_registry_says_none() -> None:
    with pytest.raises(UnknownTargetError, match="Targets: none"):
        Registry("target", UnknownTargetError).get("ncnn")


def test_the_engines_are_registered() -> None:
    assert engine.names() == ["ncnn", "onnx", "tflite", "torch"]
    with pytest.raises(UnknownEngineError, match="Did you mean 'ncnn'"):
        engine.get("ncn")
