"""The self-test of one configuration: its probes, run on an accelerator, and what they tell."""

from dataclasses import dataclass

import numpy as np

from systola.sw_driver.driver.errors import DriverError, LinkError
from systola.sw_driver.selftest.accumulator_probe import AccumulatorProbe
from systola.sw_driver.selftest.array_probe import ArrayProbe
from systola.sw_driver.selftest.matrix_probes import (
    CORE,
    CodeProbe,
    CopyProbe,
    FetchProbe,
    ReadProbe,
    RequantizerProbe,
    WeightFifoProbe,
)
from systola.sw_driver.selftest.narrow_probe import NarrowProbe
from systola.sw_driver.selftest.parameter_probe import ParameterProbe, VectorParameterProbe
from systola.sw_driver.selftest.probe import Finding, TooSmallError
from systola.sw_driver.selftest.scratchpad_probe import ScratchpadProbe, ScratchpadSumProbe
from systola.sw_driver.selftest.table_probes import ExponentialTableProbe, GeluTableProbe
from systola.sw_driver.selftest.vector_probes import (
    ActivationProbe,
    FactorProbe,
    MeanProbe,
    NormProbe,
    SoftmaxProbe,
)

__all__ = ["PartReport", "SelfTest", "line_seconds"]

_PROBES = (ScratchpadSumProbe, ScratchpadProbe, ReadProbe, AccumulatorProbe, ParameterProbe,
           ArrayProbe, RequantizerProbe, FetchProbe, WeightFifoProbe, NarrowProbe, CodeProbe,
           CopyProbe, GeluTableProbe, ExponentialTableProbe, SoftmaxProbe, ActivationProbe,
           VectorParameterProbe, NormProbe, MeanProbe, FactorProbe)
"""In an order in which each needs only those before it; of a part, the first that fits."""

_LINE_SHARE = 1.07
"""Bytes on a serial line for each one of a stream: frames, escapes and commands."""


@dataclass(frozen=True)
class PartReport:
    """What came of one part.

    ``outcome`` is ``passed``, ``failed``, ``unclear`` (it differs, but needs a part that failed) or
    ``untested`` (its test does not fit, or the board had stopped answering). ``findings`` are of a
    failed one, ``note`` says why of the last two.
    """

    part: str
    outcome: str
    findings: tuple = ()
    note: str = ""


class SelfTest:
    """All probes that fit accelerators of `config`.

    Attributes
    ----------
    probes : list of Probe
        In the order in which they run.
    untested : list of PartReport
        Parts whose probe does not fit.
    """

    def __init__(self, config):
        self.config, self.probes, self.untested = config, [], []
        for probe in _PROBES:
            if not probe.fits(config) or probe.part in {one.part for one in self.probes}:
                continue
            try:
                self.probes.append(probe(config))
            except TooSmallError as error:
                self.untested.append(PartReport(probe.part, "untested", note=str(error)))

    @property
    def bytes_in(self):
        """Bytes of all programs."""
        return sum(len(probe.program.stream) for probe in self.probes)

    @property
    def bytes_out(self):
        """Bytes of all results: of a beat, its words and the byte before them."""
        return sum(sum(probe.program.frames) for probe in self.probes) * (
            self.config.bus_bytes + 1)

    def run(self, accelerator, progress=None):
        """Run all probes on an `Accelerator`; returns a `PartReport` for each part.

        `progress` is called with probes done, their number and the next part's name. Before every
        program the accelerator is reset, so that none meets what another left.

        Raises
        ------
        LinkError
            If the line is dead: that says nothing about the accelerator.
        """
        outcomes = {}
        for index, probe in enumerate(self.probes):
            if progress:
                progress(index, len(self.probes), f"testing {probe.part}")
            outcomes[probe.part] = _outcome(probe, accelerator)
            if probe.detail and self._report(probe, outcomes[probe.part]).outcome == "failed":
                detail = probe.detail(self.config)
                outcome = _outcome(detail, accelerator)
                if self._report(detail, outcome).outcome == "failed":
                    self.probes[index], outcomes[probe.part] = detail, outcome
        return [*self.judge(outcomes), *self.untested]

    def judge(self, outcomes):
        """Return the reports of what came out of each part's program: outputs, or an exception."""
        reports = [self._report(probe, outcomes[probe.part]) for probe in self.probes]
        explained = next((report for name in CORE for report in reports if report.part == name
                          and any(one.certain for one in report.findings)), None)
        judged, failed = [], set()
        for probe, report in zip(self.probes, reports, strict=True):
            if report.outcome == "failed":
                doubt = next((part for part in probe.needs if part in failed), None)
                if doubt is None and explained and report.part in CORE:
                    doubt = explained.part if report is not explained else None
                if doubt:
                    report = PartReport(report.part, "unclear", note=f"differs, but needs {doubt}")
                failed.add(report.part)
            judged.append(report)
        return judged

    def _report(self, probe, outcome):
        if isinstance(outcome, Exception):
            return PartReport(probe.part, "failed", (Finding(f"its program did not end: {outcome}",
                                                             {"unit": probe.part}),))
        found = [np.asarray(outcome[str(index)]).astype(np.uint8)
                 for index in range(len(probe.expected))]
        if probe.same(found):
            return PartReport(probe.part, "passed")
        return PartReport(probe.part, "failed", tuple(probe.diagnose(found)))


def _outcome(probe, accelerator):
    """Return the outputs of a probe's program, or the exception that it ended with."""
    accelerator.reset()
    accelerator.load(probe.program)
    try:
        return accelerator.run({})
    except DriverError as error:
        if isinstance(error, LinkError):
            accelerator.reset()  # fails as well if it is the line that is dead
        return error


def line_seconds(count, baud):
    """Return the seconds that `count` bytes of streams take on a line of `baud` bits per second."""
    return count * _LINE_SHARE * 10 / baud


