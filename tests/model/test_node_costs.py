from fractions import Fraction

import numpy as np
import pytest

from systola.model.allocation.node_costs import (
    bit_operations,
    measured,
    product_energy,
    weight_bytes,
)
from systola.model.allocation.node_precisions import NodePrecisions, Precision
from systola.model.data.synthetic import random_float_vit

SIZES = {"channels": 6, "heads": 2, "blocks": 1, "hidden": 9, "classes": 3, "tokens": 5,
         "patch_dim": 3}
FEW = Precision(8, 8), Precision(3, 8), Precision(3, 4)


@pytest.fixture(scope="module")
def graph():
    return random_float_vit(np.random.default_rng(1), **SIZES)


def test_counted_by_hand(graph):
    nodes = NodePrecisions(graph, FEW)
    assert nodes.nodes == ["patch_embed", "blocks.0.qkv", "blocks.0.attn_out", "blocks.0.fc1",
                           "blocks.0.out", "logits"]
    found = weight_bytes(graph, nodes)
    assert found.rows[0] == [18, 7, 7]  # 6 x 3 weights of 3 bits are 54 bits
    assert found.rows[1] == [108, 41, 41]
    assert (found.low, found.high) == (sum(row[1] for row in found.rows),
                                       sum(row[0] for row in found.rows))
    found = bit_operations(graph, nodes)
    assert found.rows[0] == [4 * 18 * 64, 4 * 18 * 24, 4 * 18 * 12]  # 4 patches
    assert found.rows[-1] == [18 * 64, 18 * 24, 18 * 12]
    assert (found.low, found.measure) == (sum(row[2] for row in found.rows), None)


def test_energy_is_of_the_wider_operand(graph):
    nodes = NodePrecisions(graph, FEW)
    found = product_energy(graph, nodes, {8: 2.0, 4: 0.5})
    assert found.rows[0] == [144.0, 144.0, 36.0]
    with pytest.raises(ValueError, match=r"^energy must be known for products of 4 bits, not only "
                                         r"of 8$"):
        product_energy(graph, nodes, {8: 2.0})


def test_what_is_measured_is_taken_apart(graph):
    nodes, calls = NodePrecisions(graph, FEW), []

    def measure(chosen):
        calls.append(tuple(chosen))
        return 1000 - sum(chosen) * 10 - 5 * (chosen[0] == 2)

    found = measured(nodes, measure)
    assert found.rows[0] == [1000, 990, 975]
    assert found.rows[1:] == [[0, -10, -20]] * 5
    assert (found.low, found.high, found.measure) == (1000 - 125, 1000, measure)
    assert len(calls) == 3 + 6 * 2


def test_tied_nodes_share_a_difference(graph):
    nodes = NodePrecisions(graph, FEW)
    nodes.tied = [[1, 2, 4]]
    found = measured(nodes, lambda chosen: 100 - sum(choice == 2 for choice in chosen[:2]) * 10)
    assert [row[2] for row in found.rows] == [90, Fraction(-10, 3), Fraction(-10, 3), 0,
                                             Fraction(-10, 3), 0]


def test_a_figure_that_no_precision_changes_is_a_number(graph):
    assert measured(NodePrecisions(graph, FEW), lambda chosen: 77) == 77
