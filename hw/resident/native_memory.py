"""A memory behind LiteDRAM's native port, as a memory for resident programs."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_least, check_positive
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.memory_port import MemoryPort
from systola.hw.parts.pipeline import up_down

__all__ = ["READ_CYCLES", "NativeMemory", "NativePort", "native_command", "native_write",
           "queue_entries"]

READ_CYCLES = 3
"""Cycles that a read takes beside the native port's own latency, request to beat."""

_ROUND = 3
"""Cycles between two uses of an entry of the queue, beside the native port's own latency."""


def native_command(address_bits):
    """Return the layout of a command: whether it writes, and the address in native words."""
    return data.StructLayout({"we": 1, "addr": address_bits})


def native_write(word_bytes):
    """Return the layout of a word to be written, with a bit for each byte that is written."""
    return data.StructLayout({"data": 8 * word_bytes, "we": word_bytes})


class NativePort(wiring.Signature):
    """LiteDRAM's native port, as its user has it.

    Commands are carried out in order. A word that was read comes when it comes and cannot be
    stalled; a word to be written has to be there when it is asked for, which is after its command
    was taken.

    Parameters
    ----------
    word_bytes, address_bits : int
        Bytes of a native word; bits of an address, which counts native words.

    Members
    -------
    cmd : Out(stream of `native_command`)
        Commands.
    wdata : Out(stream of `native_write`)
        Words to be written.
    rdata : In(stream of 8 * word_bytes bits, always ready)
        Words that were read.
    """

    def __init__(self, *, word_bytes, address_bits):
        self.word_bytes, self.address_bits = word_bytes, address_bits
        super().__init__({
            "cmd": Out(stream.Signature(native_command(address_bits))),
            "wdata": Out(stream.Signature(native_write(word_bytes))),
            "rdata": In(stream.Signature(8 * word_bytes, always_ready=True)),
        })


def queue_entries(*, bus_bytes, word_bytes, latency, pause=0):
    """Return the entries of a `NativeMemory` that loses no bandwidth.

    Whatever is under way has an entry already, so that there must be as many as words come while
    one makes its round. With those of `pause` besides, a user that is slower than the memory never
    notices a pause that ends before the next one begins.

    Parameters
    ----------
    bus_bytes, word_bytes : int
        Bytes of a beat and of a native word.
    latency : int
        Cycles from a command that is taken to its word.
    pause : int
        Cycles in which the memory does nothing else, as for a refresh.
    """
    check_positive(bus_bytes=bus_bytes, word_bytes=word_bytes)
    check_least(latency=(latency, 1), pause=(pause, 0))
    joined, parts = max(1, bus_bytes // word_bytes), max(1, word_bytes // bus_bytes)
    cycles = latency + pause + _ROUND + joined - 1
    return max(2, -(-cycles // (joined * parts)) + (parts > 1))


class NativeMemory(wiring.Component):
    """Carries out a `MemoryPort`'s requests on a native port, whose words may be of another width.

    A beat is some native words, the lowest first, or a part of one; a part is written by itself,
    the bytes beside it are left alone. Writes wait in a queue of their own and go before reads, so
    that a request that is taken after a write sees it; never amid the words of a beat, which is
    seen before or after a write. A read command is given only when there is room for its word.

    Per cycle it gives one command, and takes one word. The first beat is on ``data`` `READ_CYCLES`
    cycles and those of the native port after its request was taken, and one more for each word of a
    beat but the first; the first command of a request is given two cycles after the last one of the
    request before. With `queue_entries` entries and a user that always takes them, beats come as
    fast as words do, or one a cycle.

    Model: none: moves data

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat, a power of two.
    word_bytes : int
        Bytes of a native word, a power of two.
    words : int
        Native words of the memory.
    entries : int
        Beats that are read ahead, or native words if those are wider; see `queue_entries`.
    writes : int
        Beats that wait to be written, a power of two.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        The user.
    native : Out(NativePort(...))
        The memory.

    Attributes
    ----------
    size : int
        Beats of the memory.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, word_bytes, words, entries, writes=4):
        check_least(words=(words, 2), entries=(entries, 2))
        for name, value, least in (("bus_bytes", bus_bytes, 1), ("word_bytes", word_bytes, 1),
                                   ("writes", writes, 2)):
            if not isinstance(value, int) or value < least or value & (value - 1):
                raise ValueError(f"{name} must be a power of two of at least {least}, "
                                 f"not {value!r}")
        if words * word_bytes < 2 * bus_bytes:
            raise ValueError(f"words must be enough for two beats of {bus_bytes} bytes, "
                             f"not {words!r}")
        self.bus_bytes, self.word_bytes, self.words = bus_bytes, word_bytes, words
        self.entries, self.writes = entries, writes
        self.size = words * word_bytes // bus_bytes
        self._joined, self._parts = max(1, bus_bytes // word_bytes), max(1, word_bytes // bus_bytes)
        super().__init__({
            "port": In(MemoryPort(bus_bytes=bus_bytes)),
            "native": Out(NativePort(word_bytes=word_bytes,
                                     address_bits=(words - 1).bit_length())),
        })

    def elaborate(self, platform):
        m = Module()
        cmd, free, writing = self.native.cmd, Signal(), Signal()
        write = self._elaborate_writes(m, free & writing)
        read = self._elaborate_reads(m, free & ~writing)
        # Not amid the words of a beat, which would then be of two writes.
        m.d.comb += [free.eq(~cmd.valid | cmd.ready), writing.eq(write["valid"] & ~read["amid"])]
        with m.If(free):
            m.d.sync += [
                cmd.valid.eq(write["valid"] | read["valid"]), cmd.p.we.eq(writing),
                cmd.p.addr.eq(Mux(writing, write["addr"], read["addr"])),
            ]
        return m

    def _elaborate_writes(self, m, granted):
        """Return the next word's command, which is given in a cycle with `granted`."""
        port, wdata = self.port.write, self.native.wdata
        beat_bits, count = range(self.size), range(self.writes + 1)
        word = data.StructLayout({"beat": 8 * self.bus_bytes, "part": range(self._parts)})
        # The words of a beat are needed long after its address.
        m.submodules.write_addresses = addresses = Memory(shape=beat_bits, depth=self.writes,
                                                          init=[])
        m.submodules.write_beats = beats = Memory(shape=word, depth=self.writes, init=[])
        fill, front = addresses.write_port(), addresses.read_port(domain="comb")
        beat_fill, beat_front = beats.write_port(), beats.read_port(domain="comb")
        waiting, held = Signal(count), Signal(count)
        # Words whose commands were given: a port that takes words early must not overtake those.
        owed = Signal(range(self.writes * self._joined + 1))
        taken, given, drained = Signal(), Signal(), Signal()
        place, command, drain = (Signal(range(self.writes), name=name)
                                 for name in ("place", "command", "drain"))
        valid, join, drain_join = Signal(), Signal(range(self._joined)), Signal(range(self._joined))
        m.d.comb += [
            port.ready.eq(held != self.writes), taken.eq(port.valid & port.ready),
            fill.addr.eq(place), fill.data.eq(port.p.address), fill.en.eq(taken),
            beat_fill.addr.eq(place), beat_fill.data.beat.eq(port.p.beat), beat_fill.en.eq(taken),
            beat_fill.data.part.eq(port.p.address), front.addr.eq(command),
            beat_front.addr.eq(drain), valid.eq(waiting != 0), wdata.valid.eq(owed != 0),
            given.eq(granted & valid & (join == self._joined - 1)),
            drained.eq(wdata.valid & wdata.ready & (drain_join == self._joined - 1)),
            wdata.p.data.eq(beat_front.data.beat.word_select(drain_join, 8 * self.word_bytes)
                            if self._joined > 1 else beat_front.data.beat.replicate(self._parts)),
            wdata.p.we.eq(-1),
        ]
        if self._parts > 1:
            m.d.comb += wdata.p.we.eq(Cat((beat_front.data.part == part).replicate(self.bus_bytes)
                                          for part in range(self._parts)))
        m.d.sync += [waiting.eq(up_down(waiting, taken, given)),
                     held.eq(up_down(held, taken, drained)),
                     owed.eq(up_down(owed, granted & valid, wdata.valid & wdata.ready)),
                     place.eq(place + taken), command.eq(command + given),
                     drain.eq(drain + drained)]
        if self._joined > 1:
            m.d.sync += [join.eq(join + (granted & valid)),
                         drain_join.eq(drain_join + (wdata.valid & wdata.ready))]
        return {"valid": valid, "addr": self._word_address(front.data, join)}

    def _word_address(self, address, join):
        """Return the native address of a beat's word `join`, or of the word that it is in."""
        if self._joined > 1:
            return Cat(join, address)
        return address[(self._parts - 1).bit_length():]

    def _elaborate_reads(self, m, granted):
        """Return the next word's command, which is given in a cycle with `granted`."""
        port, rdata, out = self.port.read, self.native.rdata, self.port.data
        joined, parts = self._joined, self._parts
        bits = (parts - 1).bit_length()
        m.submodules.queue = queue = CreditQueue(
            shape=8 * max(self.bus_bytes, self.word_bytes), depth=self.entries)
        address, join = Signal(range(self.size)), Signal(range(joined))
        left, active, valid = Signal(range(self.size)), Signal(), Signal()
        given, first, last = Signal(), Signal(), Signal()
        m.d.comb += [
            port.ready.eq(~active), given.eq(granted & valid),
            first.eq(join == 0), last.eq(join == joined - 1),
            valid.eq(active & (queue.room | ~first)), queue.take.eq(given & first),
        ]
        with m.If(~active):
            # Of wide words, their number less one; of beats else.
            beats, end = port.p.beats[:len(left) + 1], Signal(range(2 * self.size))
            m.d.comb += end.eq((port.p.address[:bits] if bits else 0) + beats - 1)
            m.d.sync += [active.eq(port.valid), address.eq(port.p.address), left.eq(end >> bits)]
        with m.Elif(given):
            if joined > 1:
                m.d.sync += join.eq(join + 1)
            with m.If(last):
                m.d.sync += [address.eq(Cat(Const(0, bits), address[bits:] + 1)),
                             left.eq(left - 1), active.eq(left != 0)]
        if joined > 1:
            self._join(m, rdata, queue)
        else:
            m.d.comb += [queue.push.eq(rdata.valid), queue.data.eq(rdata.p)]
        if parts > 1:
            self._part(m, queue, out, address, left, end)
        else:
            m.d.comb += [out.valid.eq(queue.o.valid), queue.o.ready.eq(out.ready),
                         out.p.beat.eq(queue.o.p)]
        return {"valid": valid, "amid": ~first, "addr": self._word_address(address, join)}

    def _join(self, m, rdata, queue):
        """Push native words as beats."""
        count = Signal(range(self._joined))
        words = Signal(8 * (self.bus_bytes - self.word_bytes))
        m.d.comb += [queue.push.eq(rdata.valid & (count == self._joined - 1)),
                     queue.data.eq(Cat(words, rdata.p))]
        with m.If(rdata.valid):
            m.d.sync += [words.eq(queue.data[8 * self.word_bytes:]), count.eq(count + 1)]

    def _part(self, m, queue, out, address, left, end):
        """Take those beats out of native words that were asked for."""
        part, final = (Signal(range(self._parts), name=name) for name in ("part", "final"))
        span = data.StructLayout({"first": range(self._parts), "last": range(self._parts)})
        # It has an entry for each one of the queue's words, and therefore room whenever that has.
        m.submodules.spans = spans = CreditQueue(shape=span, depth=self.entries)
        begun = Signal()
        with m.If(self.port.read.ready):
            m.d.sync += final.eq(end)
        m.d.comb += [
            spans.take.eq(queue.take), spans.push.eq(queue.take),
            spans.data.first.eq(address),
            spans.data.last.eq(Mux(left == 0, final, self._parts - 1)),
            spans.o.ready.eq(queue.o.ready), out.valid.eq(queue.o.valid),
        ]
        now, step = Signal.like(part), Signal()
        m.d.comb += [
            now.eq(Mux(begun, part, spans.o.p.first)), step.eq(out.valid & out.ready),
            out.p.beat.eq(queue.o.p.word_select(now, 8 * self.bus_bytes)),
            queue.o.ready.eq(step & (now == spans.o.p.last)),
        ]
        with m.If(step):
            m.d.sync += [part.eq(now + 1), begun.eq(now != spans.o.p.last)]
