import pytest

from systola.files.tensors import ModelError
from systola.model.importers.class_names import class_names


@pytest.mark.parametrize(("config", "names"), [
    ({}, None), ({"id2label": {"0": "a", "1": "b"}}, ["a", "b"]), ({"label_names": ["x"]}, ["x"]),
    ({"id2label": {"1": "a"}}, None), ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
    ({"label_names": ["x", 3]}, None), ({"label_names": []}, None)])
def test_names(config, names):
    assert class_names(config) == names


def test_names_that_no_network_could_keep_are_refused():
    assert len(class_names({"label_names": ["a" * 2**19] * 2})) == 2
    with pytest.raises(ModelError, match=r"must have at most 1,048,576 characters together, not "
                                         r"1,048,577$"):
        class_names({"label_names": ["a" * 2**19, "a" * (2**19 + 1)]})
