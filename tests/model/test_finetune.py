"""What is trained is what runs: the module against the models of the operators."""

import importlib
import json

import numpy as np
import pytest

from systola.files.tensors import ModelError, read_tensors, write_tensors
from systola.model.graph import float_forward
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.quantization.uniform import quantize as to_codes
from systola.model.training.training_settings import TrainingSettings
from tests.model.test_real_network import VARIANTS, differences, ident, made

torch = pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
finetune = importlib.import_module("systola.model.training.finetune").finetune
TrainedNetwork = importlib.import_module("systola.model.training.trained_network").TrainedNetwork

torch.set_num_threads(1)
pytestmark = pytest.mark.torch
QUICK = {"epochs": 2, "batch": 16, "rate": 3e-3, "least_rate": 1e-4, "validation": 0.25}


def codes_of(network, patches):
    """Return patches as input codes."""
    return {"patches": to_codes(patches["patches"], network.scales["patches"],
                                network.by_name["patches"].bits)}


def case(**settings):
    """Return an integer network, input codes, the float network's logits, and labels by them."""
    floats, patches, network = made(**settings)
    logits = float_forward.float_forward(floats, patches)["logits"][:, 0]
    return network, codes_of(network, patches), logits, logits.argmax(axis=1)


def stepped(network, codes, labels, scales="learned", steps=2):
    """Return a module after some steps of training."""
    module = TrainedNetwork(network, scales=scales)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(module(codes)[:, 0], torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("settings", VARIANTS, ids=ident)
def test_module_and_saved_integers_are_equal_in_every_logit(settings, tmp_path):
    """After steps of training, with gradients and without, and by the models in numpy."""
    network, codes, _, labels = case(**settings)
    module = stepped(network, codes, labels)
    trained = module(codes).detach().numpy()
    with torch.no_grad():
        plain = module(codes).numpy()
    save_network(module.integer(), tmp_path / "q.safetensors")
    saved = load_network(tmp_path / "q.safetensors")
    exact = forward(saved, codes, keep=["logits"])["logits"]
    wanted = exact.astype(np.float32) * np.float32(saved.scales["logits"])
    assert np.array_equal(plain, wanted)
    assert np.array_equal(trained, wanted)
    assert (exact != forward(network, codes, keep=["logits"])["logits"]).mean() > 0.2


@pytest.mark.parametrize("settings", [
    {}, {"attention": "published", "gelu": "published", "norm": "published"},
    {"weight_bits": 4, "act_bits": 4}, {"codebook": "kmeans"},
    {"norm": "compared", "act_bits": 4}], ids=ident)
def test_every_tensor_of_the_module_is_the_integer_networks(settings):
    network, codes, _, labels = case(**settings)
    module = stepped(network, codes, labels)
    exact, graph = forward(module.integer(), codes), module.integer()
    values = module.tensors(codes)
    for name, value in exact.items():
        got = values[name].detach().numpy()
        if graph.tensors[name].stage == "exponentials":
            np.testing.assert_allclose(got, value / value.sum(axis=-1, keepdims=True), atol=1e-6)
        elif graph.tensors[name].stage == "shares":
            np.testing.assert_allclose(got, value * graph.scales[name], atol=1e-6)
        else:
            assert np.array_equal(
                got, value.astype(np.float32) * np.float32(graph.scales[name])), name


def test_gradients_are_those_of_the_float_network():
    """Of 8 bits they point nearly where the float network's do: no node has a wrong one."""
    floats, patches, network = made(method="minmax")
    labels = torch.arange(32) % 5
    module = TrainedNetwork(network)
    loss = torch.nn.functional.cross_entropy(module(codes_of(network, patches))[:, 0], labels)
    loss.backward()
    inputs = {name: value[:32] for name, value in patches.items()}
    for name, what in (("blocks.0.qkv", "weight"), ("blocks.0.fc1", "weight"),
                       ("blocks.0.attn_out", "bias"), ("blocks.0.norm1", "weight"),
                       ("patch_embed", "weight"), ("logits", "bias")):
        node = floats.by_name[name]
        kept = getattr(node, what)
        direction = module.of(name, what).grad.numpy()
        direction = direction / np.linalg.norm(direction)
        size, losses = 1e-2 * np.linalg.norm(kept) / np.sqrt(kept.size), []
        for sign in (1, -1):
            object.__setattr__(node, what, (kept + sign * size * direction).astype(np.float32))
            logits = float_forward.float_forward(floats, inputs)["logits"][:, 0]
            losses.append(float(torch.nn.functional.cross_entropy(
                torch.from_numpy(logits), labels)))
        object.__setattr__(node, what, kept)
        slope = (losses[0] - losses[1]) / (2 * size)
        expected = float(np.linalg.norm(module.of(name, what).grad.numpy()))
        assert slope == pytest.approx(expected, rel=0.25), name


@pytest.mark.parametrize("norm", ["normalised", "compared"])
@pytest.mark.parametrize("scales", ["learned", "tracked", "fixed"])
def test_scales_move_as_they_should(scales, norm):
    network, codes, _, labels = case(weight_bits=4, act_bits=4, norm=norm)
    module = stepped(network, codes, labels, scales, steps=20)
    moved = [float(value.detach()) for name, value in module.named_parameters()
             if name.endswith("/scale")]
    assert any(moved) == (scales != "fixed")
    steps = [value.abs().max().item() for name, value in module.named_parameters()
             if name.endswith("/step")]
    assert any(steps) == (scales == "learned")
    module.freeze()
    before = module.integer().scales
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module(codes).sum().backward()
    optimizer.step()
    assert module.integer().scales == before


def test_training_lowers_the_loss_and_keeps_the_best_epoch():
    network, codes, logits, labels = case(weight_bits=3, act_bits=3)
    settings = TrainingSettings(**{**QUICK, "epochs": 20, "rate": 1e-2, "validation": 0.0,
                                   "smoothing": 0.0, "distill": 0.0})
    result = finetune(network, codes, labels, settings, teacher=logits)
    losses = [record["loss"] for record in result.history[1:]]
    assert losses[-1] < 0.7 * losses[0]
    assert result.epoch == 20
    assert result.network.meta["training"]["epoch"] == 20
    held = finetune(network, codes, labels, TrainingSettings(**QUICK), teacher=logits)
    best = max(held.history, key=lambda record: (record["validation_top1"],
                                                 -record["validation_loss"]))
    assert held.epoch == best["epoch"]
    assert held.network.meta["training"]["held_back"] == 8


def test_no_epoch_gives_the_network_back():
    network, codes, logits, labels = case(weight_bits=4)
    result = finetune(network, codes, labels, TrainingSettings(epochs=0), teacher=logits)
    assert result.epoch == 0
    assert differences(result.network, network) == []


def test_training_ends_when_nothing_gets_better():
    network, codes, logits, labels = case()
    settings = TrainingSettings(**{**QUICK, "epochs": 9, "rate": 0.0, "least_rate": 0.0,
                                   "patience": 2})
    result = finetune(network, codes, labels, settings, teacher=logits)
    assert [record["epoch"] for record in result.history] == [0, 1, 2]


@pytest.mark.parametrize("scales", ["learned", "tracked"])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(scales, tmp_path):
    network, codes, logits, labels = case(weight_bits=4, act_bits=4)
    settings = TrainingSettings(**{**QUICK, "epochs": 3, "scales": scales})
    whole = finetune(network, codes, labels, settings, teacher=logits)
    path = tmp_path / "state.safetensors"

    class Stopped(Exception):
        pass

    def stop(record):
        if record["epoch"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(network, codes, labels, settings, teacher=logits, checkpoint=path, report=stop)
    rest = finetune(network, codes, labels, settings, teacher=logits, checkpoint=path)
    assert differences(rest.network, whole.network) == []
    strip = [[{**record, "seconds": 0} for record in result.history] for result in (rest, whole)]
    assert strip[0] == strip[1]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    network, codes, logits, labels = case()
    settings, path = TrainingSettings(**{**QUICK, "epochs": 1}), tmp_path / "state.safetensors"
    finetune(network, codes, labels, settings, teacher=logits, checkpoint=path)
    other = TrainingSettings(**{**QUICK, "epochs": 1, "rate": 2e-3})
    with pytest.raises(ModelError, match="must be of the same settings"):
        finetune(network, codes, labels, other, teacher=logits, checkpoint=path)
    _, _, another = made(1)
    with pytest.raises(ModelError, match="must be of the same network"):
        finetune(another, codes, labels, settings, teacher=logits, checkpoint=path)
    tensors, metadata = read_tensors(path)
    for damage in ({name: value for name, value in tensors.items() if "|" not in name[:5]},
                   {**tensors, next(iter(tensors)): np.zeros(3)}):
        write_tensors(path, damage, metadata)
        with pytest.raises(ModelError, match="must be a complete one of `systola finetune`"):
            finetune(network, codes, labels, settings, teacher=logits, checkpoint=path)
    header = {**json.loads(metadata["systola_training"]), "history": [{"epoch": "x"}]}
    write_tensors(path, tensors, {"systola_training": json.dumps(header)})
    with pytest.raises(ModelError, match="its history must hold numbers"):
        finetune(network, codes, labels, settings, teacher=logits, checkpoint=path)


@pytest.mark.parametrize(("settings", "line"), [
    ({"epochs": -1}, "epochs must be an integer of at least 0, not -1"),
    ({"rate": "x"}, "rate must be a number from 0 to 1, not 'x'"),
    ({"distill": 2.0}, "distill must be a number from 0 to 1, not 2.0"),
    ({"mirror": 1}, "mirror must be True or False, not 1"),
    ({"shift": -1}, "shift must be an integer of at least 0, not -1"),
    ({"scales": "none"}, "scales must be 'learned' or 'tracked' or 'fixed', not 'none'"),
    ({"least_rate": 1e-3}, r"least_rate must be at most rate \(1e-06\), not 0.001"),
    ({"patience": 1, "validation": 0.0}, "patience must be left out with a validation of 0"),
])
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(ModelError, match=f"^{line}"):
        TrainingSettings(**settings)


def test_views_are_what_is_trained_on_and_a_training_with_them_goes_on(tmp_path):
    network, codes, logits, labels = case(weight_bits=4, act_bits=4)
    settings = TrainingSettings(**{**QUICK, "epochs": 2, "shift": 1})
    asked = []

    def views(epoch, chosen):
        asked.append((epoch, *chosen.tolist()))
        turned = codes["patches"][chosen][:, ::-1 if epoch else 1]
        return {"patches": np.ascontiguousarray(turned)}, logits[chosen]

    whole = finetune(network, codes, labels, settings, teacher=logits, views=views)
    assert {epoch for epoch, *_ in asked} == {0, 1}
    assert sum(len(chosen) for _, *chosen in asked) == 2 * 24
    plain = finetune(network, codes, labels, TrainingSettings(**QUICK), teacher=logits)
    losses = [[record["loss"] for record in result.history[1:]] for result in (whole, plain)]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]
    for wrong, given in ((settings, None), (TrainingSettings(**QUICK), views)):
        with pytest.raises(ModelError, match=r"^views must be given where settings mirror or shif"):
            finetune(network, codes, labels, wrong, teacher=logits, views=given)


def test_images_that_do_not_fit_are_refused():
    network, codes, logits, labels = case()
    for wrong, line in ((labels[:5], "input 'patches' must be of 5 images as the labels, not 32"),
                        (labels + 5, "labels must be from 0 to 4, the classes of the network")):
        with pytest.raises(ModelError, match=line):
            finetune(network, codes, wrong, teacher=logits)
    with pytest.raises(ModelError, match=r"teacher must be logits of shape \(32, 5\) .* not none"):
        finetune(network, codes, labels)
    with pytest.raises(ModelError, match="device must be one that PyTorch has"):
        finetune(network, codes, labels, teacher=logits, device="abacus")
