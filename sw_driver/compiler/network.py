"""A network as a sequence of operations: what is computed, in which order, on which tensors.

The order is a valid sequential program. Rows are cut into chunks (`Plan`), and every layer works on
a chunk at a time, so that VECTOR normalises or activates one chunk while the array multiplies
another: a layer norm of a residual stream is emitted as soon as rows of that are complete.
"""

import numpy as np

from systola.model.graph.nodes import Constant, Input, Linear, Mean, Norm, Rows
from systola.sw_driver.compiler.attention import Attention
from systola.sw_driver.compiler.encoder_pipeline import EncoderPipeline
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.compiler.lowering import Loaded, Lowering, Place, finish
from systola.sw_driver.compiler.mlp import GELU, Behind, Mlp, Reordered, activate
from systola.sw_driver.compiler.moves import copy_rows, moved_rows, source_runs
from systola.sw_driver.compiler.narrow_nodes import narrow_nodes
from systola.sw_driver.compiler.patterns import AttentionPattern, arranged
from systola.sw_driver.compiler.payloads import code_words, split_planes
from systola.sw_driver.compiler.plan import growing
from systola.sw_driver.compiler.storage import homes, is_view

__all__ = ["lower"]


def lower(graph, config, plan, *, trace, param_words):
    """Return the `Lowering` of a network, its operations not yet placed."""
    build = Lowering(config, param_words=param_words, trace=trace,
                     narrow=narrow_nodes(graph, config))
    _Network(build, graph, plan).run()
    build.macs = graph.multiplications
    build.work = build.macs - sum(
        node.multiplications(graph.tensors[node.name], *graph.input_tensors(node))
        for node in map(graph.by_name.get, build.narrow)) // 2
    return build


class _Network:
    """Emits a network node by node, or pattern by pattern.

    Tensors of more than 8 bits live in the memory of their `Home`. Codes are in parts of some rows
    each: ``parts`` lists (first row, rows, Tensor) by name.
    """

    def __init__(self, build, graph, plan):
        self.build, self.plan = build, plan
        self.moved = moved_rows(graph, build.config)
        self.graph, self.patterns, self.waiting = arranged(graph, self.moved)
        self.homes = homes(self.graph, self.moved)
        self.memory = {}   # of homes, by name
        self.parts = {}
        self.done = set()  # nodes that are emitted
        self.normal = {}   # how many rows of a layer norm are emitted
        self.later = {}    # what makes rows, by tensor: (first row, steps), for a pipeline
        self.loaded = set()  # memories whose constants are there

    def run(self):
        """Emit everything."""
        for node in self.graph.nodes:
            if node.name in self.done or node.name in self.waiting:
                continue
            pattern = self.patterns.get(node.name)
            chain = self._chain(pattern)
            if chain:
                EncoderPipeline(self, chain, self.plan.groups(self._spans(pattern))).run()
                self.done.update(member.name for pattern in chain for member in pattern.nodes)
            elif isinstance(pattern, AttentionPattern):
                self._attend(pattern)
            elif pattern is not None:
                self.load_table(pattern.activation)
                Mlp(self, pattern, self._mlp_chunks(pattern.first.input)).run()
                self.done.update(member.name for member in pattern.nodes)
            else:
                getattr(self, f"_{node.kind}")(node)
                self.done.add(node.name)
        assert not any(self.later.values()), "rows that were put off must be made by a pipeline"
        self.build.store_rest()

    # --- Where tensors are ---

    def runs(self, name, low, rows):
        """Yield (first row, view) of rows of a tensor that lie in memory at equal distances."""
        if name not in self.homes:
            yield from self._part_runs(name, low, rows)
            return
        home = self.homes[name]
        memory = self._memory(home.storage)
        where = home.rows[low:low + rows]
        for start, count, step in _steps(where):
            yield low + start, memory.view(row=int(where[start]), rows=count, step=step)

    def _part_runs(self, name, low, rows):
        if name not in self.parts:  # rows of codes that are only looked at
            node = self.graph.by_name[name]
            for start, which, first, count in source_runs(node.index[low:low + rows]):
                for row, view in self._part_runs(node.sources[which], first, count):
                    yield low + start + row - first, view
            return
        for first, count, tensor in self.parts[name]:
            start, end = max(first, low), min(first + count, low + rows)
            if start < end:
                yield start, tensor.view(row=start - first, rows=end - start)

    def _memory(self, storage):
        if storage not in self.memory:
            tensor = self.graph.tensors[storage]
            self.memory[storage] = self.build.tensor(storage, tensor.rows, tensor.channels,
                                                     planes=2)
        return self.memory[storage]

    def begin(self, name, low, rows):
        """Make room for rows that are computed next: of codes, a tensor of their own."""
        if name not in self.homes:
            self._room(name, low, rows)

    def _room(self, name, low, rows):
        """Return a view for rows of codes that are computed next.

        They are a part of their own, but for a mean, whose rows lie at equal distances.
        """
        if not any(isinstance(reader, Mean) for reader in self.graph.consumers[name]):
            return self._part(name, low, rows).view()
        if name not in self.parts:
            self._part(name, 0, self.graph.tensors[name].rows)
        ((_, _, whole),) = self.parts[name]
        return whole.view(row=low, rows=rows)

    def _part(self, name, low, rows):
        """Return a new tensor for some rows of codes."""
        part = self.build.tensor(name, rows, self.graph.tensors[name].channels)
        self.parts.setdefault(name, []).append((low, rows, part))
        return part

    # --- What happens when rows are complete ---

    def stores_later(self, name):
        """Return whether the result `name` is stored between the MATMULs that follow."""
        return (name in self.graph.outputs and not self.build.trace
                and not self.graph.consumers[name])

    def finish(self, name, low, rows, except_for=None):
        """Rows of a tensor are complete: store them, and normalise them for what follows."""
        build, tensor = self.build, self.graph.tensors[name]
        if name not in self.homes:
            self._store_if_wanted(name, low, rows)
            return
        if build.trace or name in self.graph.outputs:
            for row, view in self.runs(name, low, rows):
                if self.stores_later(name):
                    build.declare(name, tensor.shape)
                    build.store_later(name, view, tensor.channels, row)
                else:
                    self._store(name, view, row)
        for node in self.graph.consumers[name]:
            if isinstance(node, Norm) and node is not except_for:
                self._normalise(node, low, rows)

    def _store(self, name, view, row):
        tensor = self.graph.tensors[name]
        self.build.declare(name, tensor.shape)
        self.build.store(name, view, Place(columns=tensor.channels, row=row))

    def _store_if_wanted(self, name, low, rows):
        """Store rows of codes when tracing, or if they are a result."""
        if self.build.trace or name in self.graph.outputs:
            for row, view in self.runs(name, low, rows):
                self._store(name, view, row)

    def _normalise(self, node, low, rows):
        """Emit a layer norm of some rows, of codes as a part of its own."""
        if node.name in self.homes:
            out = self._memory(node.name).view(row=low, rows=rows)
        else:
            out = self._room(node.name, low, rows)
        op = None
        for row, view in self.runs(node.input, low, rows):
            op = self.build.norm(node, view, out.cut(row - low, view.rows),
                                 self.graph.tensors[node.name].channels)
        self.normal[node.name] = self.normal.get(node.name, 0) + rows
        if self.normal[node.name] == self.graph.tensors[node.name].rows:
            self.done.add(node.name)
        self.finish(node.name, low, rows)
        return op

    def norm_rows(self, node, out, low):
        """Emit a layer norm of the rows from `low` on to the view `out`."""
        shape = self.graph.tensors[node.name].shape
        for row, view in self.runs(node.input, low, out.rows):
            self.build.norm(node, view, out.cut(row - low, view.rows), shape[1])
            self.build.store_traced(node.name, out.cut(row - low, view.rows), shape,
                                    Place(columns=shape[1], row=row))

    def linear_rows(self, *operands, **options):
        """Emit a linear node of some rows at once, see `linear_steps`."""
        finish(self.linear_steps(*operands, **options))

    def linear_steps(self, node, act, low, rows, *, layer=None, **options):
        """Emit a linear node of the rows from `low` on of the view `act` to where they belong.

        Yields before each MATMUL.
        """
        layer = layer or node
        for row, out in self.runs(node.name, low, rows):
            if node.residual is None:
                yield from self.build.linear_steps(
                    node.name, layer, act.cut(row - low, out.rows), out, **options)
                continue
            for start, residual in self.runs(node.residual, row, out.rows):
                yield from self.build.linear_steps(
                    node.name, layer, act.cut(start - low, residual.rows),
                    out.cut(start - row, residual.rows), residual=residual, **options)

    # --- Patterns ---

    def _attend(self, pattern):
        """Emit an attention, and the MLP behind it if it is one pattern."""
        graph, build, plan = self.graph, self.build, self.plan
        norm = graph.by_name[pattern.source]
        todo = []
        if isinstance(norm, Norm) and norm.name not in self.done:
            todo = growing(graph, pattern.scores, build.config)

        def normalise():
            return self._normalise(norm, *todo.pop(0)) if todo else None

        for ahead in range(2):  # one chunk ahead of the projections
            op = normalise()
            if ahead == 0 and op is not None:
                build.hold = [op]
        attention = Attention(build, graph, pattern, self._whole_parts(pattern.source),
                              plan.units(self._spans(pattern)))
        mlp = pattern.mlp and Mlp(self, pattern.mlp)
        behind = (Reordered if pattern.order else Behind)(self, pattern, attention, mlp)

        tables, chunks = attention.tables(), len(attention.source) + len(todo)
        if mlp:
            tables.append(lambda: self.load_table(pattern.mlp.activation))

        def between(chunk):
            normalise()
            for index, load in enumerate(tables):  # apart, for weights wait until one is loaded
                if chunk == (2 * index + 1) * (chunks - 1) // (2 * len(tables)):
                    load()

        attention.first_projections(between)
        context, left = attention.run(behind.project, behind.normalise)
        if mlp:
            mlp.run_behind(behind, context, left)
        else:
            for task in (context, *(task for _, task in left)):
                task()
            behind.finish()
        self.done.update(node.name for node in pattern.nodes)

    def _chain(self, pattern):
        """Return patterns that follow each other and can be computed group by group, from this on.

        Nothing else may read what is between them, and groups must be what the plan says.
        """
        chain = []
        while (isinstance(pattern, AttentionPattern) and pattern.mlp is not None
               and self.plan.groups(self._spans(pattern))
               and (not chain or self._spans(pattern) == self._spans(chain[0]))
               and isinstance(self.graph.by_name[pattern.source], Norm)):
            chain.append(pattern)
            readers = self.graph.consumers[pattern.mlp.second.name]
            norms = [node for node in readers if isinstance(node, Norm)]
            behind = [self.patterns.get(reader.name) for norm in norms
                      for reader in self.graph.consumers[norm.name]]
            pattern = behind[0] if len(set(behind)) == 1 and len(norms) == 1 else None
            if pattern is not None and not {node.name for node in readers} <= {
                    norms[0].name, *(node.name for node in getattr(pattern, "nodes", ()))}:
                pattern = None
        return chain

    def _spans(self, pattern):
        """Return the sequences of an attention, and how many keys each has."""
        return self.graph.tensors[pattern.scores.name].spans

    def source_part(self, norm, low, rows):
        """Return the part of a norm with just these rows, emitted now if it was not."""
        finish(self.put_off(norm.input, low))
        for part in self.parts.get(norm.name, ()):
            if part[:2] == (low, rows):
                return part
        self._normalise(norm, low, rows)
        return self.parts[norm.name][-1]

    def _whole_parts(self, name):
        """Return the parts of a tensor, each a tensor of its own."""
        node = self.graph.by_name[name]
        if name not in self.parts and isinstance(node, Rows) and node.keeps_order(
                *self.graph.input_tensors(node)):
            return self._whole_parts(node.sources[0])
        if name not in self.parts:
            raise CompileError(f"node {name!r}: an operand must be made by a node of its own, and "
                               f"not be rows of others")
        return self.parts[name]

    def _mlp_chunks(self, name):
        """Return the operand of an MLP as views by first row, in the parts it was made in."""
        return {low: part.view() for low, _, part in self._whole_parts(name)}

    def load_table(self, node):
        """Load the table of an activation, if it has one."""
        if node.variant == "table":
            self.build.load_table(node.name, GELU, node.table)

    # --- Nodes ---

    def _input(self, node):
        if not self._streams(node):
            chunks = self.plan.chunks(node.rows) if node.bits <= 8 else [(0, node.rows)]
            for low, rows in chunks:
                self._load_input(node, low, rows)

    def _streams(self, node):
        """Return whether rows of an input are loaded when its only reader needs them."""
        readers = self.graph.consumers[node.name]
        return (node.bits <= 8 and len(readers) == 1 and isinstance(readers[0], Linear)
                and readers[0].name not in self.patterns and readers[0].residual != node.name)

    def _load_input(self, node, low, rows):
        """Load some rows of an input; returns their tensor."""
        build, wide = self.build, node.bits > 8
        zeros = np.zeros((rows, node.channels), np.int64)
        if wide:
            memory = self._memory(node.name)
            view, words = memory.view(row=low, rows=rows), split_planes(zeros, build.config)
        else:
            view = self._part(node.name, low, rows).view()
            words = code_words(zeros, build.config)
        op = build.load(view, words)
        build.inputs.append(Loaded(name=node.name, op=op, row=low, rows=rows,
                                   channels=node.channels, planes=1 + wide))
        return view.tensor

    def _constant(self, node):
        """Load all constants of the memory that this one lies in."""
        storage = self.homes[node.name].storage
        if storage in self.loaded:
            return
        self.loaded.add(storage)
        memory = self._memory(storage)
        values = np.zeros((memory.rows, self.graph.tensors[storage].channels), np.int64)
        there = np.zeros(memory.rows, bool)
        for other in self.graph.of(Constant):
            home = self.homes[other.name]
            if home.storage == storage:
                values[home.rows], there[home.rows] = other.values, True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], there, [0]])))
        for low, high in edges.reshape(-1, 2).tolist():
            self.build.load(memory.view(row=low, rows=high - low),
                            split_planes(values[low:high], self.build.config))

    def _linear(self, node):
        readers = self.graph.consumers[node.name]
        if any(isinstance(reader, Rows) and reader.name not in self.moved
               and not is_view(self.graph, reader, self.homes) for reader in readers):
            return  # emitted where its rows belong
        self._emit_rows(node, [(node, low, rows, low)
                               for low, rows in self.plan.chunks(
                                   self.graph.tensors[node.name].rows)])

    def _rows(self, node):
        """Emit the layers whose results belong here, chunk by chunk; or nothing, for a view."""
        if node.name in self.moved:
            self._move(node)
            return
        if is_view(self.graph, node, self.homes):
            if node.name in self.graph.outputs:
                self._store_if_wanted(node.name, 0, self.graph.tensors[node.name].rows)
            return
        rows = self.graph.tensors[node.name].rows
        pieces = []
        for low, count in self.plan.chunks(rows):
            chunk = [(self.graph.by_name[node.sources[which]], first, length, low + start)
                     for start, which, first, length in source_runs(node.index[low:low + count])]
            pieces.append((low, count, [piece for piece in chunk if isinstance(piece[0], Linear)]))
        self._emit_pieces(node.name, pieces)

    def _move(self, node):
        """Move rows to tensors of their own: of codes, in chunks."""
        tensor = self.graph.tensors[node.name]
        if tensor.bits > 8:
            self._move_rows(node, 0, tensor.rows, self._memory(node.name).view())
            self.finish(node.name, 0, tensor.rows)
            return
        for low, rows in self.plan.chunks(tensor.rows):
            self._move_rows(node, low, rows, self._room(node.name, low, rows))
            self._store_if_wanted(node.name, low, rows)

    def _move_rows(self, node, low, rows, target):
        """Move the rows from `low` on to the view `target` of these rows."""
        beside = node.beside
        goes = {}  # by the tensor in memory and the place in a row: rows there and here
        index = node.index[low * beside:(low + rows) * beside].tolist()
        for here, (which, row) in enumerate(index):
            (_, view), = self.runs(node.sources[which], row, 1)
            pairs = goes.setdefault((view.tensor, here % beside), ([], []))
            pairs[0].append(view.row)
            pairs[1].append(target.row + here // beside)
        for (source, place), (origins, targets) in goes.items():
            # Beside each other are the words of a plane; the planes of a row follow each other.
            words = source.words if beside > 1 else source.stride
            for plane in range(source.stride // words):
                copy_rows(self.build, node.name, (source, np.array(origins)),
                          (target.tensor, np.array(targets)), words=words,
                          places=(plane * words, (plane * beside + place) * words))

    def _emit_rows(self, node, chunks):
        self._emit_pieces(node.name, [(target, rows, [(source, low, rows, target)])
                                      for source, low, rows, target in chunks])

    def _emit_pieces(self, name, pieces):
        """Emit linear layers for rows of tensor `name`: (first row, rows, what makes them)."""
        build = self.build
        flat = [piece for _, _, parts in pieces for piece in parts]
        for node in dict.fromkeys(piece[0] for piece in flat):
            build.count_linear(node.name, node, self.graph.tensors[node.name].rows)
        operands = self._operands(flat)
        steps = [(piece[0], self._piece_steps(name, piece, operands)) for piece in pieces]
        if self._waits_for_groups(name):
            self.later[name] = steps
        else:
            for _, piece in steps:
                finish(piece)

    def _piece_steps(self, name, piece, operands):
        """Emit some rows of tensor `name`; yields before each MATMUL."""
        low, rows, parts = piece
        self.begin(name, low, rows)
        for node, *_ in parts:
            for start, view in next(operands):
                yield from self.linear_steps(node, view, start, view.rows)
        self.finish(name, low, rows)

    def _waits_for_groups(self, name):
        """Return whether rows are only read by encoder blocks that go group by group."""
        readers = {reader.name for reader in self.graph.consumers[name]}
        for node in self.graph.consumers[name]:
            behind = self.graph.consumers[node.name] if isinstance(node, Norm) else []
            pattern = self.patterns.get(behind[0].name) if behind else None
            if pattern and self._chain(pattern) and name not in self.graph.outputs:
                return readers <= {node.name, *(member.name for member in pattern.nodes)}
        return False

    def put_off(self, name, low):
        """Emit the rows of tensor `name` up to the piece from `low` on, if that is still to do."""
        while self.later.get(name) and self.later[name][0][0] <= low:
            yield from self.later[name].pop(0)[1]

    def _operands(self, pieces):
        """Yield the operand of every piece as [(first row, view)]; inputs come one piece ahead."""
        ready = []
        for index, (node, low, rows, _) in enumerate(pieces):
            for ahead, first, count, _ in pieces[len(ready):index + 2]:
                source = self.graph.by_name[ahead.input]
                if isinstance(source, Input) and self._streams(source):
                    ready.append([(first, self._load_input(source, first, count).view())])
                else:
                    ready.append(None)
            yield ready[index] or list(self.runs(node.input, low, rows))

    def _norm(self, node):
        tensor = self.graph.tensors[node.name]
        for low, rows in self.plan.chunks(tensor.rows):
            self._normalise(node, low, rows)

    def _activation(self, node):
        """Activate whole rows: in place if nothing else needs the operand."""
        self.load_table(node)
        graph, tensor = self.graph, self.graph.tensors[node.name]
        alone = (node.input in self.parts and node.input not in graph.outputs
                 and graph.consumers[node.input] == [node])
        for low, view in list(self.runs(node.input, 0, tensor.rows)):
            if alone:
                out = view
                self.parts.setdefault(node.name, []).append((low, view.rows, view.tensor))
            else:
                out = self._part(node.name, low, view.rows).view()
            activate(self.build, graph, node, view, tensor.channels, low, 0, out=out)
            if node.name in graph.outputs and not self.build.trace:
                self._store(node.name, out, low)

    def _mean(self, node):
        tensor, source = self.graph.tensors[node.name], self.graph.tensors[node.input]
        rows = source.rows // node.groups
        if tensor.bits <= 8:
            out = self._part(node.name, 0, node.groups).view()
        else:
            out = self._memory(self.homes[node.name].storage).view()
        for group in range(node.groups):
            found = list(self.runs(node.input, group * rows, rows))
            if len(found) != 1:
                raise CompileError(f"node {node.name!r}: the rows of a group must lie at equal "
                                   f"distances in memory, not in {len(found)} places")
            self.build.mean(node.name, found[0][1], out.cut(group, 1), tensor.channels,
                            mult=int(node.mult), shift=int(node.shift), bits=node.bits)
        if tensor.bits <= 8:
            self._store_if_wanted(node.name, 0, node.groups)
        else:
            self.finish(node.name, 0, node.groups)


def _steps(where):
    """Yield (start, count, step) of the fewest runs of `where` that grow by equal steps."""
    start = 0
    while start < len(where):
        if start + 1 == len(where):
            yield start, 1, 1
            return
        step = int(where[start + 1] - where[start])
        end = start + 1
        while end < len(where) and step > 0 and where[end] - where[end - 1] == step:
            end += 1
        yield start, end - start, step if end - start > 1 else 1
        start = end
