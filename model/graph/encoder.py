"""Parts of a network of encoder blocks, by the names that their tensors have here.

``embed`` (or ``patch_embed`` without constant rows) is the stream that the first block reads, and
``blocks.i.out`` what block i makes.
"""

from systola.model.graph.nodes import GraphError

__all__ = ["encoder_blocks", "encoder_depth", "stream_name"]


def stream_name(graph):
    """Return the name of what the first encoder block of a `vision_transformer` reads."""
    return "embed" if "embed" in graph.by_name else "patch_embed"


def encoder_depth(graph):
    """Return how many encoder blocks a `vision_transformer` has."""
    return sum(f"blocks.{index}.out" in graph.by_name for index in range(len(graph.nodes)))


def encoder_blocks(graph, count):
    """Return the first `count` encoder blocks: their input stream, and ``blocks.<last>.out``.

    Raises
    ------
    GraphError
        If the network has fewer.
    """
    there = encoder_depth(graph)
    if not 1 <= count <= there:
        raise GraphError(f"blocks must be from 1 to {there}, the encoder blocks there are, "
                         f"not {count}")
    return graph.between([stream_name(graph)], [f"blocks.{count - 1}.out"])
