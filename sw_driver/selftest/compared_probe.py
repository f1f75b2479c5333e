"""A probe that compares regions of results and says where they differ."""

import numpy as np

from systola.sw_driver.selftest.probe import Finding, Probe

__all__ = ["ComparedProbe", "mask_fields", "regions_of", "vector_fields"]


def vector_fields(config, results, source, *, planes=1, **fields):
    """Return the fields of an operation from rows like `results` at `source`."""
    return {"src_base": source, "src_stride": planes * results.words, "src_plane": results.words,
            "rows": results.rows, "words": results.words,
            "lanes_last": results.width - (results.words - 1) * config.rows,
            **results.fields("dst_"), **fields}


def mask_fields(results, lanes):
    """Return the fields by which every row has all its elements, if there are masks."""
    return {"key_words": results.words, "key_last": results.width - (results.words - 1) * lanes}


def regions_of(kept, frames, lanes):
    """Return the stored words (size, R) of each region in `frames`.

    `kept` has the `Results` of each first, and something beside.
    """
    at, result = 0, []
    for results, _ in kept:
        words, count = [], 0
        while count < results.size:
            words.append(frames[at])
            count += len(frames[at])
            at += 1
        result.append(np.concatenate(words).reshape(-1, lanes))
    return result


class ComparedProbe(Probe):
    """Regions of results, each with a label; `unit` is what a difference is a fault of."""

    unit = ""

    def __init__(self, config):
        self.kept = []
        super().__init__(config)

    def keep(self, results, label):
        """STORE a region of results and compare it."""
        self.list.store(results.base, results.size)
        self.kept.append((results, label))

    def numbers(self, frames):
        """Return the numbers (rows, width) of each region."""
        lanes = self.config.rows
        return [results.numbers(words, lanes) for (results, _), words in zip(
            self.kept, regions_of(self.kept, frames, lanes), strict=True)]

    def diagnose(self, found):
        """Say which regions differ, and where each does first."""
        findings = []
        for (_, label), right, got in zip(self.kept, self.numbers(self.expected),
                                          self.numbers(found), strict=True):
            rows, channels = np.nonzero(right != got)
            if len(rows):
                row, channel = int(rows[0]), int(channels[0])
                findings.append(Finding(
                    f"{label}: {len(rows)} of {right.size} results differ, the first in row {row}, "
                    f"channel {channel}: {int(got[row, channel])}, not {int(right[row, channel])}",
                    {"unit": self.unit or self.part, "row": row, "channel": channel}))
        return findings
