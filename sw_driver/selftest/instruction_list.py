"""A program written instruction by instruction, each behind what came before it."""

import numpy as np

from systola.hw.contract.isa import FORMATS, INSTRUCTION_BYTES, Opcode, encode
from systola.hw.contract.numbers import RECORD_BYTES, TABLE_BYTES
from systola.sw_driver.program.image import OutputPart, OutputTensor, Program

__all__ = ["STORED_ROWS", "InstructionList"]

STORED_ROWS = 1024
"""Most words that one LOAD or STORE moves: a result frame is as long."""


class InstructionList:
    """Instructions in order, with their data; each waits until the one before is complete.

    Only the weights of a MATMUL come while it runs. So results do not depend on the order in which
    engines move, and a fault is not hidden by a race.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    """

    def __init__(self, config):
        self.config = config
        self._items, self._frames, self._last = [], [], None

    def add(self, opcode, beats=None, **fields):
        """Append an instruction; fields that are not given are zero.

        `beats` (n, R) uint8 is its data, if it has any.
        """
        engine = FORMATS[opcode].engine
        item = self._append(opcode, beats, fields)
        before, self._last = self._last, item
        if before is None:
            return
        ahead = FORMATS[before["opcode"]].engine
        # An engine's own bit: the end of all that it has begun, which MATRIX overlaps.
        item["wait"] |= 1 << ahead
        if ahead is not engine:
            before["signal"] |= 1 << engine

    def feed(self, opcode, beats=None, **fields):
        """Append what fills the weight FIFO for the MATMUL before."""
        self._append(opcode, beats, fields)

    def _append(self, opcode, beats, fields):
        config, values = self.config, {field.name: 0 for field in FORMATS[opcode].fields}
        data = b""
        if beats is not None:
            lanes = np.zeros((len(beats), config.bus_bytes), np.uint8)
            lanes[:, :np.shape(beats)[1]] = np.asarray(beats) & 255
            data, values["beats"] = lanes.tobytes(), len(beats)
        item = {"opcode": opcode, "wait": 0, "signal": 0, "fields": values | fields, "data": data}
        self._items.append(item)
        return item

    def load(self, base, words):
        """LOAD `words` (n, R), one behind the other from word `base` on."""
        for start in range(0, len(words), STORED_ROWS):
            part = words[start:start + STORED_ROWS]
            self.add(Opcode.LOAD, part, base=base + start, stride=1, rows=len(part), words=1)

    def store(self, base, count):
        """STORE `count` words from `base` on, in frames of up to `STORED_ROWS`."""
        self.gather(base, count, 1)

    def gather(self, base, count, stride):
        """STORE `count` words that lie `stride` apart, in frames of up to `STORED_ROWS`."""
        for start in range(0, count, STORED_ROWS):
            rows = min(STORED_ROWS, count - start)
            self.add(Opcode.STORE, base=base + start * stride, stride=stride, rows=rows, words=1)
            self._frames.append(rows)

    def load_params(self, base, bias, mult, shift):
        """LOAD_PARAMS of records (words * lanes,), each array broadcast to `bias`."""
        config = self.config
        bias, mult, shift = np.broadcast_arrays(*(np.asarray(a, np.int64)
                                                  for a in (bias, mult, shift)))
        records = np.zeros((len(bias), RECORD_BYTES), np.uint8)
        for at, values in (0, bias), (4, mult):
            for byte in range(4):
                records[:, at + byte] = values >> 8 * byte & 255
        records[:, 8] = shift
        words = records.reshape(-1, RECORD_BYTES * config.lanes)
        beats = np.zeros((len(words), config.param_beats * config.bus_bytes), np.uint8)
        beats[:, :words.shape[1]] = words
        for start in range(0, len(words), STORED_ROWS):
            part = beats[start:start + STORED_ROWS]
            self.add(Opcode.LOAD_PARAMS, part.reshape(-1, config.bus_bytes), base=base + start,
                     count=len(part))

    def load_table(self, table, entries):
        """LOAD_TABLE of 256 bytes."""
        config = self.config
        lanes = np.zeros(config.table_beats * config.rows, np.uint8)
        lanes[:TABLE_BYTES] = np.asarray(entries) & 255
        self.add(Opcode.LOAD_TABLE, lanes.reshape(-1, config.rows), table=table)

    def program(self):
        """Return the `Program`; its outputs are the result frames, called ``0``, ``1`` ...."""
        config = self.config
        size = -(-INSTRUCTION_BYTES // config.bus_bytes) * config.bus_bytes
        ends = [{"opcode": opcode, "wait": 0, "signal": 0, "fields": fields, "data": b""}
                for opcode, fields in ((Opcode.BEGIN, {"config_hash": config.hash}),
                                       (Opcode.END, {}))]
        items = [ends[0], *self._items, ends[1]]
        stream = b"".join(
            encode(item["opcode"], wait=item["wait"], signal=item["signal"],
                   **item["fields"]).ljust(size, b"\0") + item["data"] for item in items)
        outputs = tuple(OutputTensor(
            name=str(index), shape=(rows, config.rows), parts=(OutputPart(
                frame=index, planes=1, digit_bits=0, rows=rows, words=1, lane=0,
                columns=config.rows, head=None, row=0, column=0),))
            for index, rows in enumerate(self._frames))
        return Program(config=config, stream=stream, inputs=(), outputs=outputs,
                       frames=tuple(self._frames), instructions=len(items), macs=0, work=0)
