"""Ways for the lines of a diagram: on a grid, around its boxes, with few bends and crossings.

Lines of one net, such as all that come from one box, run together; lines of different nets cross
but do not share a piece of the way unless there is no other.
"""

import heapq
from itertools import count

__all__ = ["Router", "corners"]

_BEND, _CROSS, _SHARE, _TOGETHER = 3.0, 3.0, 60.0, 0.8
_WAYS = ((1, 0), (0, 1), (-1, 0), (0, -1))


class Router:
    """A grid of cells from (0, 0) to `size`, exclusive.

    Parameters
    ----------
    size : (int, int)
        Columns and rows.
    blocked : set of (int, int)
        Cells where no line can be.
    """

    def __init__(self, size, blocked):
        self.size = size
        self.blocked = blocked
        self._taken = {}

    def route(self, net, starts, ends):
        """Return the cells of a line of `net`, and take them.

        Parameters
        ----------
        net : str
            What the line belongs to.
        starts, ends : dict of ((int, int), (int, int)) to float
            Cells where it may begin and end, each with the direction in which the line passes
            it, and what that costs.

        Raises
        ------
        ValueError
            If there is no way.
        """
        lows, highs = ([extreme(axis) for axis in zip(*(cell for cell, _ in ends), strict=True)]
                       for extreme in (min, max))
        costs, before, order, queue = {}, {}, count(), []

        def offer(state, cost, origin):
            if cost < costs.get(state, float("inf")):
                costs[state], before[state] = cost, origin
                rest = 0 if state is None else _TOGETHER * sum(
                    max(low - place, 0, place - high)
                    for place, low, high in zip(state[0], lows, highs, strict=True))
                heapq.heappush(queue, (cost + rest, next(order), state, cost))

        for state, cost in starts.items():
            offer(state, cost + self._price(net, state), None)
        while queue:
            _, _, state, cost = heapq.heappop(queue)
            if state is None:
                break
            if cost > costs[state]:
                continue
            if state in ends:
                offer(None, cost + ends[state], state)
            for following, more in self._following(net, state):
                offer(following, cost + more, state)
        else:
            raise ValueError(f"there is no way for a line of {net!r}")
        states, state = [], before[None]
        while state is not None:
            states.append(state)
            state = before[state]
        states.reverse()
        for (cell, way), (_, onward) in zip(states, [*states[1:], states[-1]], strict=True):
            self._taken.setdefault(cell, {}).setdefault(net, set()).update((way[0] == 0,
                                                                            onward[0] == 0))
        return [cell for cell, _ in states]

    def _following(self, net, state):
        """Yield the states that may come next, and what they cost."""
        (x, y), way = state
        for turn in _WAYS:
            if turn == (-way[0], -way[1]):
                continue
            cell = x + turn[0], y + turn[1]
            if cell in self.blocked or not all(
                    0 <= place < most for place, most in zip(cell, self.size, strict=True)):
                continue
            bend = 0 if turn == way else _BEND + self._corner(net, state[0])
            yield (cell, turn), bend + self._price(net, (cell, turn))

    def _price(self, net, state):
        """Return the cost of passing a cell straight on."""
        cell, way = state
        nets = self._taken.get(cell, {})
        others = [axes for other, axes in nets.items() if other != net]
        upright = way[0] == 0
        cost = _TOGETHER if net in nets and upright in nets[net] else 1.0
        return cost + sum(_CROSS if axes == {not upright} else _SHARE for axes in others)

    def _corner(self, net, cell):
        """Return the cost of a bend in a cell where other lines are."""
        return _SHARE * sum(other != net for other in self._taken.get(cell, {}))


def corners(cells):
    """Return the cells where a line begins, bends and ends."""
    kept = [cells[0]]
    for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
        if (cell[0] - before[0], cell[1] - before[1]) != (after[0] - cell[0], after[1] - cell[1]):
            kept.append(cell)
    return [*kept, cells[-1]] if len(cells) > 1 else kept
