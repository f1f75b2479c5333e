"""Which accelerators can run a network, with how many images at once, and what prevents it."""

import dataclasses

from systola.hw.contract.config import ConfigError
from systola.sw_driver.compiler.compiler import check_fit
from systola.sw_driver.compiler.layout import CompileError

__all__ = ["largest_batch", "requirements"]

_STEPS = 24  # fields that are changed one after the other, some of them several times


def requirements(graph, config):
    """Return what an accelerator like `config` needs to run `graph`.

    Returns
    -------
    needs : dict
        Fields of the configuration that have to change, with values that do; empty if it fits.
    refusal : str or None
        The first limit that stands in the way, as `CompileError` says it.
    able : bool
        Whether it fits with what is in `needs`.
    """
    needs, refusal, whole = {}, None, False
    for _ in range(_STEPS):
        try:
            check_fit(graph, config, whole=whole)
        except CompileError as error:
            refusal = refusal or str(error)
            if not error.needs:
                return needs, refusal, False
            needs |= error.needs
            try:
                config = dataclasses.replace(config, **error.needs)
            except ConfigError:
                return needs, refusal, False
        else:
            if whole:
                return needs, refusal, True
            whole = True
    return needs, refusal, False


def largest_batch(graph, config, most):
    """Return the most images, a power of two up to `most`, that fit at once; 0 if one does not."""
    count = 0
    for batch in (1 << power for power in range(most.bit_length())):
        try:
            check_fit(graph.repeated(batch), config, whole=batch == 1)
        except CompileError:
            break
        count = batch
    return count
