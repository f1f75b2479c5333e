"""An exploration: measures of all points from cheap to dear, and the front that they leave."""

import hashlib
import itertools
import json
import statistics
import time
from collections import Counter

from systola.boards.synthesis.area_model import area_model
from systola.explore.figures import AREA, FIGURES, better
from systola.explore.front import dominated, spread
from systola.explore.point_measures import MEASURES, identity, measured, network_identity
from systola.explore.space import general_reason

__all__ = ["Exploration"]

_ROUND = 4
"""Most points that are synthesized before it is asked again which ones can be on the front."""

_LEARNED, _SLACK, _LEAST = 4, 1.5, 0.01
"""From so many syntheses of a space on, estimates of the others are as far off as these were, times
the slack, after what they have in common was corrected; a hundredth at least."""

_EXAMPLES = 20


class Exploration:
    """The search of a space.

    The result does not depend on the cluster: what is measured next depends on results alone, and
    these are told in the order of the points, however they came.

    Parameters
    ----------
    space : systola.explore.space.Space
    store : systola.explore.store.Store
        Where results are kept, and found.
    cluster : systola.cluster.cluster.Cluster, optional
        What computes; by default this process.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.
    retry : bool
        Measure again what failed, not only what is not there.
    """

    def __init__(self, space, store, *, cluster=None, progress=None, retry=False):
        self.space, self.store, self.cluster, self.retry = space, store, cluster, retry
        self.progress = progress or (lambda *args, **more: None)
        self.network = network_identity(space.network)
        self.work = {name: Counter() for name in MEASURES}
        self.failures, self.skipped, self.dropped = [], Counter(), Counter()
        self.cut = Counter()
        minutes = space.search["minutes"]
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.points, self.known, self.estimates = {}, {}, {}
        self.tried, self.ratios = set(), {}

    def run(self):
        """Explore, and return what came out as plain data; `docs/EXPLORE.md` has the entries."""
        start = time.monotonic()
        if self.space.search["sampler"] == "exhaustive":
            self.progress(0, None, text="enumerating the points")
            points, self.skipped = self.space.points()
            self.cheap(points)
        else:
            from systola.explore.sampler import sample

            self.skipped = sample(self.space, self.cheap, self.best)
        self.settle()
        front = self.front()
        finalists = self.finals(front)
        front = [number for number in self.front() if number in self.known]
        return self._report(front, finalists, round(time.monotonic() - start, 1))

    # --- Measuring ---

    def measure(self, name, wanted):
        """Return ``{point number: outcome}`` of a measure; what is in the store is not computed.

        Parameters
        ----------
        name : str
            One of `MEASURES`.
        wanted : dict of int to dict
            By point, what the measure takes. Points for which that is the same share one result.
        """
        keys = {number: identity(name, inputs) for number, inputs in wanted.items()}
        tasks = {keys[number]: inputs for number, inputs in wanted.items()}
        found = {key: outcome for key, (outcome, _) in self.store.get(tasks).items()
                 if not (self.retry and "failed" in outcome)}
        count, clock = self.work[name], _Clock(len(tasks) - len(found))
        count["found"] += len(found)
        todo = {key: inputs for key, inputs in tasks.items() if key not in found}
        names = list(todo)

        def ended(index, result):
            outcome, seconds = result
            key = names[index]
            self.store.put(key, name, todo[key], outcome, seconds)
            found[key] = outcome
            count["measured"] += 1
            text = f"{_DOING[name]}: {clock.done + 1} of {len(todo)}{clock.ended()}"
            self.progress(clock.done, len(todo), text=text)

        self.progress(0, len(todo) or None, text=f"{_DOING[name]}: 0 of {len(todo)}")
        given = ((name, inputs) for inputs in self._in_time(todo.values(), name))
        if not todo:
            pass
        elif self.cluster is None:
            for index, task in enumerate(given):
                ended(index, measured(None, *task))
        else:
            self.cluster.map(measured, None, given, each=ended,
                             lost=lambda reason: ({"failed": reason}, 0.0))
        for key in found:
            kind = next(iter(found[key]))
            if kind != "values":
                count[kind] += 1
        outcomes = {number: found[key] for number, key in keys.items() if key in found}
        for number, outcome in outcomes.items():
            if "failed" in outcome:
                self.failures.append({"point": self.points[number].name, "measure": name,
                                      "reason": outcome["failed"]})
        return outcomes

    def _in_time(self, tasks, name):
        """Give tasks out until the time is over."""
        for task in tasks:
            if self.end is not None and time.monotonic() > self.end:
                self.cut[name] += 1
                continue
            yield task

    def cheap(self, points):
        """Measure accuracy and what the compiler says of points, and estimate their area."""
        self.points |= {point.number: point for point in points}
        alive = {point.number: {} for point in points}
        if self._needs("accuracy"):
            alive = self._stage("accuracy", alive, lambda point: {
                "network": self.network, "settings": point.quantization})
        alive = self._stage("compile", alive, lambda point: {
            "network": self.network, "settings": point.quantization,
            "config": point.config.to_dict(), "batch": point.batch})
        model, area = area_model(), self._needs("synthesis")
        for number, values in alive.items():
            values["fps"] = round(1e6 * self.space.clock_mhz / values["cycles"], 4)
            self.estimates[number] = model.sizes(self.points[number].config) if area else {}
            self.known[number] = values
            self._check(number)
        return [number for number in alive if number in self.known]

    def _stage(self, name, alive, inputs):
        """Measure what is `alive`, a dictionary of figures by point; return what still is."""
        outcomes = self.measure(name, {number: inputs(self.points[number]) for number in alive})
        left = {}
        for number, values in alive.items():
            outcome = outcomes.get(number)
            if outcome is None:
                self.dropped[f"not measured in time: {name}"] += 1
            elif "values" not in outcome:
                reason = outcome.get("refused")
                self.dropped[f"does not fit: {general_reason(reason)}" if reason
                             else f"{name} failed"] += 1
            else:
                left[number] = values | {key: value for key, value in outcome["values"].items()
                                         if key in FIGURES}
        return left

    def _needs(self, measure):
        return any(FIGURES[name].measure == measure for name in self.space.wanted
                   if name in FIGURES)

    def _ends(self, number):
        """Return the least and the most that figures of a point may be."""
        values = self.known[number]
        low, high = dict(values), dict(values)
        for name, value in self.estimates[number].items():
            if name not in values:
                factor, margin = self.correction(name)
                low[name] = value * factor / (1 + margin)
                high[name] = value * factor * (1 + margin)
        return low, high

    def _values(self, number):
        """Return figures of a point, as measured or else as estimated."""
        return {**{name: value * self.correction(name)[0]
                   for name, value in self.estimates[number].items()}, **self.known[number]}

    def correction(self, figure):
        """Return ``(factor, margin)`` of estimates, by what was synthesized of this space.

        Accelerators of one space have much in common, and so have the errors of their estimates.
        """
        margin, ratios = area_model().tail(figure), self.ratios.get(figure, {})
        if len(ratios) < _LEARNED:
            return 1.0, margin
        factor = statistics.median(ratios.values())
        off = max(max(ratio / factor, factor / ratio) for ratio in ratios.values()) - 1
        return factor, min(margin, max(_SLACK * off, _LEAST)) if margin else 0.0

    def _check(self, number):
        """Drop a point that is beyond a limit for sure."""
        low, high = self._ends(number)
        known = self.points[number].fields()
        for limit in self.space.limits:
            if set(limit.names) <= set(known):
                continue
            if not limit.may_hold(known | low, known | high):
                # What was not synthesized, though the limit is of that, is pruned by the model.
                estimated = any(FIGURES[name].measure == "synthesis" and
                                name not in self.known[number]
                                for name in limit.names if name in FIGURES)
                self.dropped[f"{'area model: ' if estimated else ''}limit {limit}"] += 1
                del self.known[number]
                return

    # --- The front ---

    def best(self, numbers):
        """Return the objectives of points, less is better; for a sampler."""
        return [[better(name, self._values(number)[name]) for name in self.space.objectives]
                for number in numbers]

    def front(self):
        """Return the numbers of the points on the front, by what is measured or else estimated.

        In the order of the objectives, the first one first.
        """
        numbers = [number for number in sorted(self.known) if self._holds(number)]
        if not numbers:
            return []
        values = self.best(numbers)
        out = dominated(values)
        found = [(value, number) for value, number, is_out in zip(values, numbers, out, strict=True)
                 if not is_out]
        return [number for _, number in sorted(found)]

    def _holds(self, number):
        values = {**self.points[number].fields(), **self._values(number)}
        return all(limit.holds(values) for limit in self.space.limits
                   if not set(limit.names) - set(values))

    def candidates(self):
        """Return the points that may be on the front, whatever the errors of estimates are."""
        numbers = sorted(self.known)
        if not numbers:
            return []
        # Of points with one accelerator the area is the same, however large it is.
        alike = {}
        for number in numbers:
            alike.setdefault(self.points[number].config.hash, []).append(number)
        numbers = sorted(number for group in alike.values() for number, is_out in zip(
            group, dominated(self.best(group)), strict=True) if not is_out)
        ends = [self._ends(number) for number in numbers]
        best, worst = ([[better(name, (high if FIGURES[name].larger != most else low)[name])
                         for name in self.space.objectives] for low, high in ends]
                       for most in (False, True))
        out = dominated(best, worst)
        return [number for number, is_out in zip(numbers, out, strict=True) if not is_out]

    def settle(self):
        """Synthesize what can be on the front, as far as the number of syntheses goes."""
        left = self.space.finalists["syntheses"]
        if not self._needs("synthesis"):
            return
        while left > 0:
            open_ones = [number for number in self.candidates()
                         if number not in self.tried and "lut" not in self.known[number]]
            front = [number for number in self.front() if number in set(open_ones)]
            todo = spread(front or open_ones, min(_ROUND, left))
            if not todo:
                break
            left -= len(todo)
            self.synthesize(todo)

    def synthesize(self, numbers):
        """Replace the estimated area of points by that of a synthesis; drop those that fail."""
        self.tried |= set(numbers)
        outcomes = self.measure("synthesis", {
            number: {"config": self.points[number].config.to_dict()} for number in numbers})
        for number, outcome in outcomes.items():
            if number not in self.known:
                continue
            if "values" in outcome:
                self.known[number] |= {name: outcome["values"][name] for name in AREA}
                for name, value in self.estimates[number].items():
                    if value and outcome["values"][name]:
                        self.ratios.setdefault(name, {})[self.points[number].config.hash] = (
                            outcome["values"][name] / value)
                self._check(number)
            else:
                self.dropped["synthesis failed"] += 1
                del self.known[number]

    def finals(self, front):
        """Measure what is dear of some of the front, evenly spaced; returns what came of each."""
        chosen = spread(front, self.space.finalists["count"])
        found = {number: {} for number in chosen}
        for name in self.space.finalists["measures"]:
            if name == "synthesis":
                self.synthesize([number for number in chosen if number in self.known
                                 and "lut" not in self.known[number]])
                continue
            outcomes = self.measure(name, {
                number: self._inputs(name, self.points[number]) for number in chosen
                if number in self.known})
            for number, outcome in outcomes.items():
                if "values" in outcome:
                    found[number] |= outcome["values"]
                else:
                    found[number].setdefault("failed", {})[name] = next(iter(outcome.values()))
        return found

    def _inputs(self, name, point):
        config = {"config": point.config.to_dict()}
        if name == "route":
            return config | {"seeds": 1, "device": "85k", "target": 100}
        run = config | {"network": self.network, "settings": point.quantization}
        return run | ({"mhz": self.space.clock_mhz} if name == "power" else
                      {"batch": point.batch, "images": self.space.finalists["images"]})

    # --- What comes out ---

    def _report(self, front, finalists, seconds):
        space = self.space
        rows = [self._row(number, finalists.get(number)) for number in front]
        text = json.dumps([(row["point"], row["figures"]) for row in rows], sort_keys=True)
        area = area_model() if self._needs("synthesis") else None
        candidates = self.candidates()
        pruned = None if area is None else {
            "candidates": len(candidates),
            "dominated": len(self.known) - len(candidates),
            "beyond limits": sum(count for reason, count in self.dropped.items()
                                 if reason.startswith("area model: ")),
            "synthesized": sum("lut" in values for values in self.known.values()),
            "undecided": sum("lut" not in self.known[number] for number in candidates)}
        return {
            "space": space.name, "network": space.network, "board": space.board,
            "clock_mhz": space.clock_mhz, "objectives": list(space.objectives),
            "limits": [str(limit) for limit in space.limits],
            "axes": {axis.name: list(axis.values) for axis in space.axes},
            "sampler": space.search["sampler"], "seed": space.search["seed"],
            "combinations": space.size, "skipped": dict(self.skipped.most_common()),
            "points": len(self.points), "dropped": dict(self.dropped.most_common()),
            "compared": len(self.known), "area_model": area and {**area.about(), "corrected": {
                name: dict(zip(("factor", "margin"), (round(value, 4) for value in
                                                      self.correction(name)), strict=True))
                for name in ("lut", "ff", "bram36")}}, "pruned": pruned,
            "work": {name: dict(count) for name, count in self.work.items() if count},
            "not_in_time": dict(self.cut),
            "failures": self.failures[:_EXAMPLES], "failures_in_all": len(self.failures),
            "front_digest": hashlib.sha256(text.encode()).hexdigest()[:16],
            "front": rows,
            "finalists": [self._row(number, found) for number, found in finalists.items()],
            "cloud": [[self._rounded(number, name) for name in space.objectives]
                      for number in itertools.islice(sorted(self.known), 5000)],
            "seconds": seconds}

    def _rounded(self, number, name):
        value = self._values(number)[name]
        if name in AREA and name not in self.known[number]:
            return round(2 * value) / 2 if name == "bram36" else round(value)
        return round(value, 4) if isinstance(value, float) else value

    def _row(self, number, found):
        point = self.points[number]
        row = {"point": point.name, "choices": point.choices}
        if number in self.known:
            row["figures"] = {name: self._rounded(number, name)
                              for name in FIGURES if name in self._values(number)}
            if self.estimates[number]:
                row["area"] = "synthesis" if "lut" in self.known[number] else "model"
        else:
            row["dropped"] = True
        row |= {"config": point.config.to_dict(), "quantization": point.quantization,
                "batch": point.batch}
        return row if found is None else row | {"checked": found}


class _Clock:
    """How long the rest takes, by what was done."""

    def __init__(self, total):
        self.total, self.done, self.start = total, 0, time.monotonic()

    def ended(self):
        """Count one, and return in words what is left."""
        self.done += 1
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        if self.done == self.total or seconds < 1:
            return ""
        return f", {seconds:.0f} s left" if seconds < 100 else f", {seconds / 60:.0f} minutes left"


_DOING = {"accuracy": "quantizing and scoring", "compile": "compiling", "synthesis": "synthesizing",
          "rtl": "simulating", "power": "simulating the netlist", "route": "placing and routing"}

