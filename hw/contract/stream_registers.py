"""Registers that carry both streams over AXI4-Lite, as data; behind those of the accelerator."""

from systola.hw.contract.regmap import ADDRESS_BITS, Register, RegisterField

__all__ = ["BASE", "SIZE", "SIZE_BITS", "STREAM_MAGIC", "STREAM_REGISTERS", "WORD_BYTES",
           "beat_words"]

SIZE_BITS = 12
SIZE = 1 << SIZE_BITS
"""Bytes of address space of a memory-mapped accelerator: a page."""

BASE = 1 << ADDRESS_BITS
"""Byte offset of the first of these registers; below are those of ``hw/contract/regmap.py``."""

WORD_BYTES = 4
"""Bytes of a register."""

STREAM_MAGIC = int.from_bytes(b"sysm", "little")
"""Value of ``STREAM_ID``."""


def beat_words(bus_bytes):
    """Return the words of a beat, lowest bytes first; two bytes are the lower half of a word."""
    return -(-bus_bytes // WORD_BYTES)


_WORDS = (
    ("STREAM_ID", "Magic number, the bytes `sysm`.", ()),
    ("STREAM_BEAT", "Bytes of a stream beat.", ()),
    ("STREAM_CONTROL", "Command.", (
        RegisterField("reset", 0, 1, "w1", "As after power-on, but for memories: the accelerator, "
                      "its registers, both streams and the words in them."),)),
    ("STREAM_STATUS", "What a host did against the rules since the reset.", (
        RegisterField("lost", 0, 1, "ro", "A word was written to SEND_DATA without space: it is "
                      "lost."),
        RegisterField("early", 1, 1, "ro", "RECEIVE_DATA was read when there was no word: it read "
                      "as zero."))),
    ("SEND_DATA", "Next word of the input stream; a beat goes on when its last word is there.", (
        RegisterField("word", 0, 32, "wo", "All four bytes at once; else SLVERR."),)),
    ("SEND_FREE", "Words that may be written to SEND_DATA now.", ()),
    ("RECEIVE_DATA", "Next word of the results; reading takes it away.", ()),
    ("RECEIVE_COUNT", "What may be read from RECEIVE_DATA now.", (
        RegisterField("words", 0, 16, "ro", "Words, all of one result frame."),
        RegisterField("last", 16, 1, "ro", "The last of these words ends the frame."))),
)

STREAM_REGISTERS = {name: Register(name, BASE + WORD_BYTES * index, doc, fields)
                    for index, (name, doc, fields) in enumerate(_WORDS)}
"""All of these registers by name; any other address from `BASE` on answers SLVERR."""
