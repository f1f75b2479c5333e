"""How rows are cut into chunks: as few and as large as overlap wants and memory allows."""

from dataclasses import dataclass

from systola.model.graph.nodes import Linear, Scores
from systola.sw_driver.compiler.lowering import split
from systola.sw_driver.compiler.narrow_nodes import is_narrow

__all__ = ["GROUPS", "Plan", "Unit", "growing", "plans"]

GROUPS = 4
"""Least groups of sequences that are computed one behind the other, see `encoder_pipeline.py`."""

_PASS = 1.25
"""Least rows that a chunk should have, in times of the cycles in which a tile is loaded."""

_UNITS, _MLP = 6, 4
"""Chunks with which everything overlaps; more need less memory, but load the weights more often."""

_FIRST = 1.5
"""The same of the first chunk of all, whose norm nothing hides."""

_HIDDEN = 0.78
"""Share of the time of a first chunk's projections that the norm of the next chunk may take.

The drain has the parameter memory first, which costs the norm about an eighth more.
"""


@dataclass(frozen=True)
class Unit:
    """Rows of attention that go through the softmax at once.

    ``parts`` are (first row, rows, (first key, keys)) of one sequence each; all have as many keys.
    """

    parts: tuple

    @property
    def low(self):
        """First row."""
        return self.parts[0][0]

    @property
    def rows(self):
        """All rows; they follow each other."""
        return sum(rows for _, rows, _ in self.parts)

    @property
    def keys(self):
        """Keys of a row."""
        return self.parts[0][2][1]


@dataclass(frozen=True)
class Plan:
    """Most rows of a chunk.

    ``unit`` of the attention: parts of a sequence, or whole ones of equal length; ``chunk`` of
    everything else. With a `group`, encoder blocks of several sequences are computed for as many
    rows at a time, whole sequences, and group by group (`encoder_pipeline.py`).
    """

    unit: int
    chunk: int
    group: int = 0

    def units(self, spans):
        """Return the rows of all sequences as `Unit`s; `spans` are those of their scores."""
        units = []
        for first, rows, keys in spans:
            parts = [(first + low, count, (first, keys))
                     for low, count in split(rows, -(-rows // self.unit))]
            if (units and len(parts) == 1 and units[-1].keys == keys
                    and len(units[-1].parts) * rows == units[-1].rows
                    and units[-1].rows + rows <= self.unit):
                units[-1] = Unit((*units[-1].parts, *parts))
            else:
                units += [Unit((part,)) for part in parts]
        return units

    def groups(self, spans):
        """Return the groups of equal sequences as `Unit`s, or nothing if there are not `GROUPS`."""
        lengths = {rows for _, rows, _ in spans}
        if (not self.group or len(lengths) != 1 or self.group % min(lengths)
                or len({keys for _, _, keys in spans}) > 1):
            return []
        units = self.units(spans)
        return units if len(units) >= GROUPS else []

    def chunks(self, rows):
        """Return `rows` rows in chunks: (first row, rows)."""
        if self.group:
            return [(low, min(self.group, rows - low)) for low in range(0, rows, self.group)]
        return split(rows, -(-rows // self.chunk))


def plans(graph, config, *, fewer=False):
    """Return lists of plans, each in order of preference, with more and more chunks.

    With `fewer`, there are lists that begin with fewer chunks than overlap wants, so that weights
    are loaded less often. The last ones, of groups, are there if all attention is in equal short
    sequences.
    """
    rows = max((graph.tensors[node.name].rows for node in graph.of(Linear)), default=1)
    sequences = [sequence for node in graph.of(Scores) for sequence in node.sequences]
    longest = max((length for _, length in sequences), default=1)
    least = _PASS * max(config.rows, config.cols)
    # All sequences of a node give units: with many, one each is enough.
    per_node = min((len(node.sequences) for node in graph.of(Scores)), default=1)
    units = _sizes(longest, min(-(-_UNITS // per_node), max(int(longest / least), 1)), config)
    wanted = min(_MLP, max(int(rows / least), 1))
    whole = [_whole(units, _sizes(rows, count, config))
             for count in range(wanted, 0 if fewer else wanted - 1, -1)]
    spans = [graph.tensors[node.name].spans for node in graph.of(Scores)]
    return [*whole, *_grouped(spans, longest, least, config)]


def _whole(units, chunks):
    """Return the plans of sizes of units and chunks, the largest first."""
    return [Plan(unit=units[index], chunk=chunks[more - index])
            for more in range(len(units) + len(chunks) - 1)
            for index in range(min(more, len(units) - 1), -1, -1)
            if more - index < len(chunks)]


def _grouped(attentions, longest, least, config):
    """Return the list of the plans of groups of sequences, if there is any."""
    if {length for spans in attentions for _, length, _ in spans} != {longest}:
        return []
    most = min(config.token_depth, -(-least // longest) * longest)
    sizes = [count * longest for count in range(int(most // longest), 0, -1)]
    found = [plan for plan in (Plan(unit=size, chunk=size, group=size) for size in sizes)
             if all(plan.groups(spans) for spans in attentions)]
    # The smallest groups whose tiles are loaded in time begin and end soonest.
    short = [plan for plan in found[1:] if plan.group >= max(config.rows, config.cols)]
    return [plans for plans in (found, short[-1:]) if plans]


def _sizes(rows, count, config):
    """Return sizes of chunks to try, from `count` chunks to one for each of `rows` rows."""
    count = max(count, -(-rows // config.token_depth))
    sizes = [-(-rows // count)]
    while count < rows:
        count = min(count + max(count // 4, 1), rows)
        if -(-rows // count) < sizes[-1]:
            sizes.append(-(-rows // count))
    return sizes


def growing(graph, scores, config):
    """Return chunks of the rows of `scores` whose norms nothing hides but the projections before.

    They grow from the first one by as much as the norm of a row takes less time than its
    projections to Q, and K and V of a head.
    """
    node = graph.by_name[scores.query]
    rows, channels = graph.tensors[node.name].rows, node.weight.shape[1]
    load, most = max(config.rows, config.cols), config.token_depth
    tile = config.tile_columns(narrow=is_narrow(node, graph, config))
    tiles = (scores.heads + 2) * -(-scores.head_dim // tile)
    share = tiles * -(-channels // config.rows) * config.norm_lanes / channels
    factor, size = _HIDDEN * share, float(min(int(_FIRST * load), most))
    sizes = []
    while sum(sizes) < rows:
        sizes.append(int(min(size, most)))
        size = min(max(size * factor, size), most)
    sizes[-1] -= sum(sizes) - rows
    if sizes[-1] < load and len(sizes) > 1:  # too short for its weights: part of the one before
        both = sizes.pop() + sizes.pop()
        sizes += [both] if both <= most else [both - both // 2, both // 2]
    edges = [sum(sizes[:index]) for index in range(len(sizes))]
    return list(zip(edges, sizes, strict=True))
