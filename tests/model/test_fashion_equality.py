"""Training of the fashion example computes what runs; `fashion_equality.py` does more images."""

import importlib

import pytest

from tests.model.test_real_network import VARIANTS, ident

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
pytestmark = pytest.mark.torch
equality = importlib.import_module("tests.model.fashion_equality")


@pytest.fixture(scope="module")
def example():
    floats = equality.open_float("fashion")
    return floats, *(array[-96:] for array in equality.fashion_images(floats))


@pytest.mark.parametrize("settings", VARIANTS[::3], ids=ident)
def test_logits_of_images_are_those_of_the_saved_network(example, settings, tmp_path):
    floats, images, labels = example
    network = equality.fashion_network(floats, images, **settings)
    equal, changed = equality.compared(network, images[:40], labels[:40], tmp_path)
    assert equal == 40
    assert changed
