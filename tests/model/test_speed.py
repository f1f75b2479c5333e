"""What the integer model is compared with computes the same network; needs the extra `compare`."""

import numpy as np
import pytest

from systola.model.benchmark.speed import RUNNERS, speed_report
from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward

SIZES = {"channels": 12, "heads": 2, "blocks": 2, "hidden": 18, "classes": 5, "tokens": 9,
         "patch_dim": 5}
FORMS = [{}, {"prefixes": 2, "distilled": True}, {"prefixes": 5}]


def case(form):
    rng = np.random.default_rng(3)
    graph = random_float_vit(rng, **SIZES, **form)
    inputs = {node.name: rng.standard_normal((4, node.rows, node.channels), dtype=np.float32)
              for node in graph.inputs}
    return graph, inputs, float_forward(graph, inputs)[graph.outputs[0]]


@pytest.mark.torch
@pytest.mark.parametrize("form", [*FORMS, {"prefixes": 0, "pooling": "mean"}], ids=str)
def test_torch(form):
    pytest.importorskip("torch", reason="what is measured needs PyTorch: pip install "
                                        "'systola[train]'")
    from systola.model.benchmark.torch_network import torch_network

    graph, inputs, wanted = case(form)
    np.testing.assert_allclose(torch_network(graph, 1)(inputs), wanted, atol=1e-4)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_onnx(form, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from systola.model.benchmark.onnx_network import onnx_model, onnx_network, quantized_onnx

    graph, inputs, wanted = case(form)
    onnx_model(graph, tmp_path / "float.onnx")
    got = onnx_network(tmp_path / "float.onnx", 1)(inputs)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    for name, calibration in ("dynamic", None), ("static", inputs):
        path = tmp_path / f"{name}.onnx"
        quantized_onnx(tmp_path / "float.onnx", path, calibration=calibration)
        got = onnx_network(path, 1)(inputs)
        error = np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))
        assert 0 < error < 0.3


def test_what_is_not_installed_is_left_out(monkeypatch):
    import sys

    for name in "onnx", "torch":
        monkeypatch.setitem(sys.modules, name, None)
        for module in f"systola.model.benchmark.{name}_network", f"{name}_network":
            monkeypatch.delitem(sys.modules, module, raising=False)
    report = speed_report(blocks=1, batches=(1,), threads=(1,), rounds=1)
    others = RUNNERS.keys() - {"systola", "numpy"}
    assert report["left_out"].keys() == others
    assert report["images_per_processor_second"].keys() == {"systola", "numpy"}
