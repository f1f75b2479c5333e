"""Every bit of the scratchpad, as 0 and as 1: random words and their inverse, out and in again."""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.sw_driver.selftest.instruction_list import STORED_ROWS
from systola.sw_driver.selftest.probe import Finding, Probe
from systola.sw_driver.selftest.stuck_bits import stuck_bits

__all__ = ["ScratchpadProbe", "ScratchpadSumProbe"]

_PERIOD = 1021
"""Words that are repeated where rows can be copied: a prime, so that two words whose addresses
differ in one bit always differ."""

_LOADED = 1 << 14
"""Words up to which all of them come from the host."""

_NAMED = 6
"""Most bits of a bank that are listed one by one."""


_GROUP = 128
"""Words that are added up: sums of so many bytes have 16 bits."""


def _patterns(config):
    """Return random words (n, R) uint8, and their inverse."""
    words = config.scratchpad_words
    some = _PERIOD if config.copies and words > _LOADED else words
    pattern = np.random.default_rng(1).integers(256, size=(some, config.rows), dtype=np.uint8)
    return pattern, ~pattern


def _fill(instructions, pattern):
    """Fill the scratchpad with `pattern`, and copies of it."""
    words, filled = instructions.config.scratchpad_words, len(pattern)
    instructions.load(0, pattern)
    while filled < words:
        rows = min(filled, words - filled, words // 2)
        instructions.add(Opcode.COPY, base=0, stride=1, rows=rows, words=1, to_base=filled,
                         to_stride=1)
        filled += rows


class ScratchpadProbe(Probe):
    """LOAD and STORE of all words; in large memories with COPY, most are copies."""

    part = "scratchpad"

    def build(self):
        for part in _patterns(self.config):
            _fill(self.list, part)
            self.list.store(0, self.config.scratchpad_words)

    def diagnose(self, found):
        """Name bank, lane and bit; of a single word, that as well."""
        config, count = self.config, -(-self.config.scratchpad_words // STORED_ROWS)
        passes = [self.frames(found, first, count) for first in (0, count)]
        banks, findings = {}, []
        for bank in range(config.banks):
            part = slice(bank * config.bank_depth, (bank + 1) * config.bank_depth)
            expected, got = (np.concatenate([words[k][part] for words in passes])
                             for k in range(2))
            if (expected != got).any():
                banks[bank] = expected, got
        places = {bank: stuck_bits(*words, np.arange(2 * config.bank_depth) % config.bank_depth)
                  for bank, words in banks.items()}
        alike = {tuple((bit.lane, bit.bit, bit.kind) for bit in bits) for bits in places.values()}
        if len(banks) == config.banks > 1 and len(alike) == 1 and all(
                bit.whole for bits in places.values() for bit in bits):
            return [Finding(f"all banks, lane {bit.lane} bit {bit.bit} {bit.kind}: the way from "
                            f"the stream to the scratchpad and back",
                            {"unit": "stream", "lane": bit.lane, "bit": bit.bit, "kind": bit.kind},
                            True) for bit in next(iter(places.values()))]
        for bank, words in banks.items():
            findings += self._bank(bank, *words, places[bank])
        return findings

    def _bank(self, bank, expected, got, bits):
        """Return the findings of one bank."""
        depth = self.config.bank_depth
        if len(bits) > _NAMED:
            address = self._address(expected, got)
            wrong = int((expected != got).any(axis=1).sum())
            if address is not None:
                return [Finding(f"bank {bank}: address bit {address}", {
                    "unit": "scratchpad", "bank": bank, "address": address}, True)]
            first = int(np.flatnonzero((expected != got).any(axis=1))[0]) % depth
            return [Finding(f"bank {bank}: {wrong} of {2 * depth} words read wrong in "
                            f"{len(bits)} bits, the first is word {first}",
                            {"unit": "scratchpad", "bank": bank})]
        return [self._bit(bank, bit) for bit in bits]

    def _bit(self, bank, bit):
        where = {"unit": "scratchpad", "bank": bank, "lane": bit.lane, "bit": bit.bit,
                 "kind": bit.kind}
        place = f"lane {bit.lane} bit {bit.bit} {bit.kind}"
        if bit.whole:
            return Finding(f"bank {bank}, {place} in every word", where, True)
        words = ", ".join(map(str, bit.entries[:4])) + (" ..." if len(bit.entries) > 4 else "")
        return Finding(f"bank {bank}, {place} in {len(bit.entries)} words: {words}",
                       {**where, "words": list(bit.entries[:4])}, True)

    def _address(self, expected, got):
        """Return the bit of the address that words are found at the wrong value of, or None."""
        depth = self.config.bank_depth
        for bit in range(depth.bit_length() - 1):
            there = np.arange(2 * depth) ^ 1 << bit
            wrong = (expected != got).any(axis=1)
            if (got[wrong] == expected[there][wrong]).all():
                return bit
        return None


class ScratchpadSumProbe(Probe):
    """All words of a large scratchpad as sums by lane, made on the accelerator by MEAN.

    A wrong bit changes a sum, and as one that is stuck always errs to the same side, several do not
    cancel. The words of a sum are neighbours in one pass and far apart in the other, so that an
    address bit moves words from sum to sum in one of them. ``detail`` is what finds the place.
    """

    part, detail = ScratchpadProbe.part, ScratchpadProbe

    @classmethod
    def fits(cls, config):
        """Return whether it is worth it, and possible."""
        return (config.copies and config.pooling == "mean"
                and config.scratchpad_words > _LOADED and config.bank_depth >= _GROUP)

    def build(self):
        config = self.config
        words = config.scratchpad_words
        groups = words // _GROUP
        for pattern, near in zip(_patterns(config), (True, False), strict=True):
            _fill(self.list, pattern)
            step, stride = (_GROUP, 1) if near else (1, groups)
            for group in range(groups):
                # A sum replaces two words that it is made of.
                base = group * step
                self.list.add(Opcode.MEAN, src_base=base, src_stride=stride, rows=_GROUP, words=1,
                              lanes_last=config.rows, dst_base=base, dst_plane=stride, mult=1,
                              out_bits=16)
            for plane in range(2):
                self.list.gather(plane * stride, groups, step)

    def diagnose(self, found):
        """Say that sums differ; where, the words themselves tell."""
        wrong = sum(int((got != right).any(axis=1).sum())
                    for got, right in zip(found, self.expected, strict=True))
        return [Finding(f"{wrong} sums of words differ, but single words do not: copies, or the "
                        f"mean", {"unit": "mean"})]
