"""A network's graph as a diagram: the stream straight down, what branches off it beside.

Encoder blocks that only repeat the one before are drawn once.
"""

from dataclasses import dataclass

from systola.model.graph.nodes import Add, Constant, Input, Linear
from systola.report.diagram import INK, MUTED, Box, Line, Text, save
from systola.report.routes import Router, corners

__all__ = ["Repeat", "draw_graph", "graph_shapes", "repeated_part", "variant"]

_COLORS = {
    "input": ("#e8f5ee", "#1a7f4b"), "constant": ("#f1f3f6", "#8a94a6"),
    "linear": ("#e3f0fa", "#2684c9"), "scores": ("#fdeedd", "#d9822b"),
    "softmax": ("#fae3e1", "#b3261e"), "context": ("#fdeedd", "#d9822b"),
    "activation": ("#efe7f6", "#7d5ba6"), "norm": ("#fbf5d7", "#b59410"),
    "add": ("#e3f0fa", "#2684c9"), "rows": ("#f1f3f6", "#5d6b85"),
    "mean": ("#f1f3f6", "#5d6b85")}
_WHAT = {
    "input": "rows from outside", "constant": "the same for every image",
    "linear": "x · Wᵀ + b, + a residual", "scores": "Q · Kᵀ of every head",
    "softmax": "over the keys", "context": "attention · V", "activation": "of every element",
    "norm": "layer norm of rows", "add": "sum of two tensors", "rows": "rows in another order",
    "mean": "mean of rows"}
_STREAM = "#1f2a44"
_TIMES = " \u00d7 "

_CELL = 6
_WIDTH, _HEIGHT = 20, 5
_ACROSS, _DOWN = 27, 10
_MARGIN, _TOP = 3, 9
"""A cell in points; in cells a box, the distance to the next, and what is free around all."""


@dataclass(frozen=True)
class Repeat:
    """`count` equal parts of `nodes` nodes each, from node number `first` on."""

    first: int
    nodes: int
    count: int

    def part(self, index):
        """Return which part node number `index` is in, or None."""
        inside = self.first <= index < self.first + self.nodes * self.count
        return (index - self.first) // self.nodes if inside else None


def variant(node):
    """Return in a few words how a node computes: its function, variant and widths."""
    words = [getattr(node, "function", None), getattr(node, "variant", None)]
    if isinstance(node, Linear) and node.weight_bits:
        words.append(f"{node.weight_bits}-bit weights" + (
            "" if node.codebook is None else f" of {len(node.codebook)} values"))
    words.append("symmetric" if getattr(node, "symmetric", False) else None)
    count = len(getattr(node, "sequences", ()))
    words.append(f"{count} sequences" if count > 1 else None)
    words.append("masked" if getattr(node, "key_counts", None) is not None else None)
    words.append(f"{node.groups} groups" if getattr(node, "groups", 1) > 1 else None)
    return ", ".join(filter(None, words))


def repeated_part(graph):
    """Return the `Repeat` that leaves the fewest nodes to be drawn, or None.

    A part reads nothing but itself and the part before, and what is behind reads only the last.
    """
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    reads = [[place[name] for name in node.inputs] for node in graph.nodes]
    forms = [(node.kind, graph.tensors[node.name], variant(node),
              tuple(index - source for source in reads[index]))
             for index, node in enumerate(graph.nodes)]
    found = [repeat for run in _runs(forms) for repeat in _within(run) if _closed(repeat, reads)]
    return max(found, key=lambda repeat: (repeat.nodes * (repeat.count - 1), -repeat.nodes),
               default=None)


def _runs(forms):
    """Yield the longest runs of equal parts, for every length of a part."""
    total = len(forms)
    for length in range(2, total // 2 + 1):
        same = 0  # nodes in a row that equal the one `length` before
        for index in range(length, total + 1):
            if index < total and forms[index] == forms[index - length]:
                same += 1
                continue
            if same >= length:
                yield Repeat(index - same - length, length, same // length + 1)
            same = 0


def _within(run):
    """Yield a run, and those without some of its first and last parts."""
    for skipped in range(run.count - 1):
        for count in range(2, run.count - skipped + 1):
            yield Repeat(run.first + skipped * run.nodes, run.nodes, count)


def _closed(repeat, reads):
    end = repeat.first + repeat.nodes * repeat.count
    for index, sources in enumerate(reads):
        part = repeat.part(index)
        for source in sources:
            origin = repeat.part(source)
            if part is None and origin is not None and (
                    index < end or origin != repeat.count - 1):
                return False
            if part is not None and part > 0 and origin not in (part - 1, part):
                return False
    return True


class _Layout:
    """Which nodes are drawn, what for, and in which row and column.

    ``stands_for`` has the names of the nodes by the name of the one drawn, ``drawn`` the reverse.
    """

    def __init__(self, graph):
        self.graph = graph
        self.repeat = repeated_part(graph)
        self.stands_for, self.drawn = {}, {}
        for index, node in enumerate(graph.nodes):
            first = index
            if self.repeat and self.repeat.part(index):
                first -= self.repeat.part(index) * self.repeat.nodes
            name = graph.nodes[first].name
            self.stands_for.setdefault(name, []).append(node.name)
            self.drawn[node.name] = name
        self.nodes = [graph.by_name[name] for name in self.stands_for]
        self.repeated = [] if not self.repeat else [
            node.name for index, node in enumerate(graph.nodes) if self.repeat.part(index) == 0]
        self.spine = self._spine()
        self.places = {}
        self._place()

    def inputs(self, node):
        """Return the drawn inputs of a drawn node, each once."""
        return list(dict.fromkeys(self.drawn[name] for name in node.inputs))

    def through(self, node):
        """Return the input through which the stream goes on, a residual before all, or None."""
        by_name = self.graph.by_name
        moving = [name for name in self.inputs(node)
                  if not isinstance(by_name[name], Constant)]
        if isinstance(node, Linear) and node.residual is not None:
            residual = self.drawn[node.residual]
            if residual in moving:
                return residual
        order = {node.name: index for index, node in enumerate(self.nodes)}
        # Of two operands the older one is the stream, the other comes out of a branch.
        pick = min if isinstance(node, Add) else max
        return pick(moving, key=order.get, default=None)

    def _spine(self):
        name, spine = self.drawn[self.graph.outputs[0]], []
        while name is not None:
            spine.append(name)
            name = self.through(self.graph.by_name[name])
        return spine[::-1]

    def _place(self):
        """Give every node its row and its column, constants and late inputs beside the reader."""
        readers, aside, taken = {}, [], set()
        for node in self.nodes:
            for name in self.inputs(node):
                readers.setdefault(name, []).append(node.name)
        for node in self.nodes:
            name, inputs = node.name, self.inputs(node)
            if not inputs and name not in self.spine:
                aside.append(name)
                continue
            rows = [self.places[other][1] + 1 for other in inputs if other in self.places]
            row, column = max(rows, default=0), 0
            if name not in self.spine:
                moving = [other for other in inputs if other in self.places]
                column = max(1, min((self.places[other][0] for other in moving), default=1))
            while (column, row) in taken:
                if column:
                    column += 1
                else:
                    row += 1
            taken.add((column, row))
            self.places[name] = column, row
        for name in aside:
            reader = next((other for other in readers.get(name, ()) if other in self.places), None)
            column, row = self.places[reader] if reader else (0, 0)
            column = -1 if column == 0 else column + 1
            while (column, row) in taken:
                column += -1 if column < 0 else 1
            taken.add((column, row))
            self.places[name] = column, row


def graph_shapes(graph, title):
    """Return the shapes of a graph and the size of their page.

    Returns
    -------
    list
        Of `systola.report.diagram`.
    (float, float)
        Width and height in points.
    dict of str to list of str
        The nodes that are drawn: by name, the nodes that each of them stands for.
    """
    layout = _Layout(graph)
    left = min(column for column, _ in layout.places.values())
    right = max(column for column, _ in layout.places.values())
    bottom = max(row for _, row in layout.places.values())
    margin = _MARGIN
    if any(layout.places[name][0] == left for name in layout.repeated):
        margin += 18  # for the words beside the frame
    cells = {name: (margin + (column - left) * _ACROSS, _TOP + row * _DOWN)
             for name, (column, row) in layout.places.items()}
    legend = margin + (right - left + 1) * _ACROSS
    size = ((legend + 33) * _CELL, max(_TOP + bottom * _DOWN + 14, 52) * _CELL)
    shapes = [Text(x=_MARGIN * _CELL, y=3.2 * _CELL, text=_short(title, 60), size=12, align="left",
                   bold=True),
              Text(x=_MARGIN * _CELL, y=5.8 * _CELL, text=_summary(graph), size=8, color=MUTED,
                   align="left")]
    shapes += _frame(layout, cells)
    shapes += _lines(layout, cells, (legend - 1, size[1] // _CELL))
    for node in layout.nodes:
        shapes += _node(layout, node, *cells[node.name])
    read = {name for node in layout.nodes for name in layout.inputs(node)}
    for name in dict.fromkeys(map(layout.drawn.get, graph.outputs)):
        if name not in read:
            shapes += _output(graph, name, *cells[name])
    kinds = dict.fromkeys(node.kind for node in layout.nodes)
    shapes += _legend([kind for kind in _COLORS if kind in kinds], legend * _CELL, _TOP * _CELL)
    return shapes, size, layout.stands_for


def draw_graph(graph, title, path):
    """Write the diagram of a graph to a file, see `systola.report.diagram.save`."""
    shapes, size, _ = graph_shapes(graph, title)
    save(shapes, size, path)


def _summary(graph):
    images = f" for {graph.images} images" if graph.images > 1 else ""
    return (f"{'integer' if graph.is_integer else 'float'} network, {len(graph.nodes)} nodes, "
            f"{graph.multiplications:,} products{images}")


def _shape(tensor):
    bits = f", {tensor.bits} bits" if tensor.bits else ""
    return _TIMES.join(map(str, tensor.shape)) + bits


def _node(layout, node, x, y):
    """Return the shapes of a node whose box begins at cell (x, y)."""
    fill, edge = _COLORS[node.kind]
    name = node.name
    if name in layout.repeated:
        name = name.removeprefix(_common(layout.repeated))
    middle = (x + _WIDTH / 2) * _CELL
    detail = _detail(node, layout.graph)
    is_output = not {*layout.stands_for[node.name]}.isdisjoint(layout.graph.outputs)
    yield Box(x=x * _CELL, y=y * _CELL, width=_WIDTH * _CELL, height=_HEIGHT * _CELL, fill=fill,
              edge=_STREAM if is_output else edge, line=2.2 if is_output else 0.9)
    yield Text(x=middle, y=(y + 1.7) * _CELL, text=_short(name, 19), size=8.5, bold=True)
    yield Text(x=middle, y=(y + 3.6) * _CELL, text=_short(detail, 27), size=7, color=MUTED)


def _detail(node, graph):
    words = [node.kind]
    if isinstance(node, Linear):
        words[0] += f" {node.weight.shape[1]} → {node.weight.shape[0]}"
    elif node.kind == "scores":
        words[0] += f", {node.heads} heads of {node.head_dim}"
    elif node.kind == "rows":
        rows = sum(tensor.rows for tensor in graph.input_tensors(node))
        words[0] += f", {len(node.index)} of {rows}"
    more = variant(node)
    if isinstance(node, Linear):
        more = f"{node.weight_bits}-bit" if node.weight_bits else ""
    return ", ".join(filter(None, [*words, more]))


def _short(text, most):
    return text if len(text) <= most else text[:most - 1] + "…"


def _common(names):
    """Return what all names begin with, up to a dot."""
    first, last = min(names), max(names)
    same = next((index for index, (one, other) in enumerate(zip(first, last, strict=False))
                 if one != other), min(len(first), len(last)))
    return first[:first.rfind(".", 0, same) + 1]


def _frame(layout, cells):
    """Return the frame around the part that is drawn once for several."""
    if not layout.repeated:
        return
    places = [cells[name] for name in layout.repeated]
    left, right = min(places)[0] - 3, max(places)[0] + _WIDTH + 3
    heights = [height for _, height in places]
    top, end = min(heights) - 2.6, max(heights) + _HEIGHT + 2.7
    yield Box(x=left * _CELL, y=top * _CELL, width=(right - left) * _CELL,
              height=(end - top) * _CELL, fill="#f8fafc", edge="#c3cad5", dashed=True, layer=1)
    first, last = (_common(names).rstrip(".") for names in zip(
        *((names[0], names[-1]) for names in map(layout.stands_for.get, layout.repeated)),
        strict=True))
    words = [(f"{_TIMES.lstrip()}{layout.repeat.count}", 15, INK)]
    if first and last:
        words += [(_short(first, 20), 7.5, MUTED), (_short(f"to {last}", 20), 7.5, MUTED)]
    for line, (text, letters, color) in enumerate(words):
        yield Text(x=(left - 1.5) * _CELL, y=((top + end) / 2 + line * 2 + (line > 0)) * _CELL,
                   text=text, size=letters, color=color, align="right", bold=line == 0)


def _lines(layout, cells, size):
    """Return the lines between boxes, and the shapes of the tensors beside them."""
    blocked = {(x + across, y + down) for x, y in cells.values()
               for across in range(_WIDTH + 1) for down in range(_HEIGHT + 1)}
    router = Router(size, blocked)
    along = set(zip(layout.spine, layout.spine[1:], strict=False))
    edges = [(name, node.name) for node in layout.nodes for name in layout.inputs(node)]
    # The stream first, which goes straight; then the short ones.
    edges.sort(key=lambda edge: (edge not in along, abs(
        cells[edge[0]][1] - cells[edge[1]][1])))
    ends, lines = {}, []
    for source, target in edges:
        stream = (source, target) in along
        x, y = cells[source]
        starts = {((x + _WIDTH // 2, y + _HEIGHT + 1), (0, 1)): 0.0}
        if layout.places[source][0] < 0:
            starts[(x + _WIDTH + 1, y + 3), (1, 0)] = 0.0
        elif isinstance(layout.graph.by_name[source], Constant | Input):
            starts[(x - 1, y + 3), (-1, 0)] = 0.0
        goals = {goal: cost for goal, cost in _goals(*cells[target]).items()
                 if ends.get(goal, source) == source}
        way = router.route(source, starts, goals)
        ends[next(goal for goal in goals if goal[0] == way[-1] and (
            len(way) < 2 or goal[1] == (way[-1][0] - way[-2][0], way[-1][1] - way[-2][1])))] = (
                source)
        lines.append(Line(points=_points(way, cells[source], cells[target]),
                          color=_STREAM if stream else MUTED, line=2.2 if stream else 1.0,
                          layer=3 if stream else 2))
    for name in {source: None for source, _ in edges}:
        x, y = cells[name]
        if layout.places[name][0] >= 0:
            yield Text(x=(x + _WIDTH // 2 + 1.4) * _CELL, y=(y + _HEIGHT + 1.3) * _CELL, size=6.5,
                       text=_shape(layout.graph.tensors[name]), color=MUTED, align="left")
    yield from lines


def _goals(x, y):
    """Return where lines may come into the box that begins at cell (x, y)."""
    middle = x + _WIDTH // 2
    goals = {((middle + offset, y - 1), (0, 1)): abs(offset) * 0.5
             for offset in range(-6, 7, 2)}
    for row in 3, 2, 4:
        cost = 0.5 + abs(row - 3)
        goals[(x - 1, y + row), (1, 0)] = cost
        goals[(x + _WIDTH + 1, y + row), (-1, 0)] = cost
    return goals


def _points(way, source, target):
    """Return the points of a line, from the edge of one box to that of the other."""
    def edge(cell, box):
        (x, y), (left, top) = cell, box
        return min(max(x, left), left + _WIDTH), min(max(y, top), top + _HEIGHT)

    cells = [edge(way[0], source), *corners(way), edge(way[-1], target)]
    return tuple((x * _CELL, y * _CELL) for x, y in cells)


def _output(graph, name, x, y):
    """Return the line that leaves the network at an output."""
    middle = (x + _WIDTH // 2) * _CELL
    top = (y + _HEIGHT) * _CELL
    yield Line(points=((middle, top), (middle, top + 4 * _CELL)), color=_STREAM, line=2.2)
    yield Text(x=middle, y=top + 5.4 * _CELL, text=f"{name}: {_shape(graph.tensors[name])}",
               size=7.5, color=INK)


def _legend(kinds, x, y):
    for index, kind in enumerate(kinds):
        top = y + index * 3.4 * _CELL
        fill, edge = _COLORS[kind]
        yield Box(x=x, y=top, width=2.6 * _CELL, height=2 * _CELL, fill=fill, edge=edge)
        yield Text(x=x + 4 * _CELL, y=top + _CELL, text=kind, size=8, align="left", bold=True)
        yield Text(x=x + 13.5 * _CELL, y=top + _CELL, text=_WHAT[kind], size=7.5, color=MUTED,
                   align="left")
    top = y + (len(kinds) * 3.4 + 1) * _CELL
    for index, (color, width, text) in enumerate(((_STREAM, 2.2, "the stream"),
                                                  (MUTED, 1.0, "other tensors"))):
        height = top + index * 3 * _CELL
        yield Line(points=((x - 2, height), (x + 2.9 * _CELL, height)), color=color, line=width)
        yield Text(x=x + 4 * _CELL, y=height, text=text, size=8, align="left")
    top += 5 * _CELL
    yield Box(x=x, y=top, width=2.6 * _CELL, height=2 * _CELL, edge=_STREAM, line=2.2)
    yield Text(x=x + 4 * _CELL, y=top + _CELL, text="leaves the network", size=8, align="left")
