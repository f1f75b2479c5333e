"""What each operator is worth: every one replaced alone, in the integer model of any network."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import LEVELS
from systola.model.data.class_labels import check_labels
from systola.model.evaluation.accuracy import evaluate, float_logits, quantized
from systola.model.operators import (
    deferred,
    ibert_gelu,
    ibert_layernorm,
    ibert_softmax,
    ita_softmax,
    l1_layernorm,
    layernorm,
    log2,
    log2_exponentials,
    log_int_softmax,
    normalised,
    shiftgelu,
    shiftmax,
    sqrt2,
)
from systola.model.operators.operations import Operations
from systola.model.quantization import activation_table

__all__ = ["METHOD", "REPLACEMENTS", "Replacement", "ablate"]

METHOD = "minmax"
"""Recipe unless another is chosen: it does not make up for what an operator costs."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One operator that takes the place of another.

    Parameters
    ----------
    name : str
        For a reader.
    setting : str
        What it is a value of: ``attention``, ``gelu`` or ``norm``.
    variant : str
        The value.
    operations : Operations
        Of one row.
    model_only : bool
        Whether neither hardware nor kernel has it.
    """

    name: str
    setting: str
    variant: str
    operations: Operations
    model_only: bool = False

    @property
    def settings(self):
        """Keyword arguments of `systola.model.quantization.quantize.quantize`."""
        chosen = {self.setting: self.variant}
        return {"operators": chosen} if self.model_only else chosen


def _together(first, second):
    return Operations(element=first.element + second.element, row=first.row + second.row,
                      why=f"{first.why}; {second.why}")


_CODED = {scheme: _together(shiftmax.OPERATIONS, module.OPERATIONS)
          for scheme, module in (("shiftmax_half_16", log2), ("shiftmax_sqrt2_17", sqrt2))}

REPLACEMENTS = (
    Replacement(name="normalised softmax", setting="attention", variant="normalised",
                operations=normalised.OPERATIONS),
    Replacement(name="deferred softmax", setting="attention", variant="deferred",
                operations=deferred.OPERATIONS),
    Replacement(name="Shiftmax (I-ViT)", setting="attention", variant="published",
                operations=shiftmax.OPERATIONS),
    Replacement(name="I-BERT softmax", setting="attention", variant="ibert",
                operations=ibert_softmax.OPERATIONS, model_only=True),
    Replacement(name="log-int-softmax (FQ-ViT)", setting="attention", variant="log_int",
                operations=log_int_softmax.OPERATIONS, model_only=True),
    Replacement(name="streaming softmax (ITA)", setting="attention", variant="ita",
                operations=ita_softmax.OPERATIONS, model_only=True),
    Replacement(name="Shiftmax, Half_16 codes (BitLog2)", setting="attention",
                variant="shiftmax_half_16", operations=_CODED["shiftmax_half_16"],
                model_only=True),
    Replacement(name="Shiftmax, Sqrt2_17 codes (RepQ-ViT)", setting="attention",
                variant="shiftmax_sqrt2_17", operations=_CODED["shiftmax_sqrt2_17"],
                model_only=True),
    *(Replacement(name=f"exponentials with the levels of {scheme.capitalize()}",
                  setting="attention", variant=scheme, operations=log2_exponentials.OPERATIONS)
      for scheme in LEVELS),
    Replacement(name="activation table", setting="gelu", variant="table",
                operations=activation_table.OPERATIONS),
    Replacement(name="ShiftGELU (I-ViT)", setting="gelu", variant="published",
                operations=shiftgelu.OPERATIONS),
    Replacement(name="I-BERT GELU", setting="gelu", variant="ibert",
                operations=ibert_gelu.OPERATIONS, model_only=True),
    Replacement(name="normalised layer norm", setting="norm", variant="normalised",
                operations=layernorm.OPERATIONS["normalised"]),
    Replacement(name="I-LayerNorm (I-ViT)", setting="norm", variant="published",
                operations=layernorm.OPERATIONS["published"]),
    Replacement(name="I-BERT layer norm", setting="norm", variant="ibert",
                operations=ibert_layernorm.OPERATIONS, model_only=True),
    Replacement(name="L1 layer norm", setting="norm", variant="l1",
                operations=l1_layernorm.OPERATIONS, model_only=True),
)
"""All that are compared; those that the baseline has are not replaced, but their operations are
there to compare with."""


def ablate(source, vit, calibration, images, *, baseline, batch=32, engine="auto", cluster=None,
           measure=None, progress=None, **settings):
    """Return what an integer model loses with each operator replaced alone.

    Parameters
    ----------
    source : str or Path
        Where the network is from.
    vit : Graph
        The float network.
    calibration, images : Images
        What ranges are taken from, and the labelled images that are scored.
    baseline : dict of str to str
        ``attention``, ``gelu`` and ``norm`` of the model that the others differ from in one.
    batch, engine, cluster
        As of `systola.model.evaluation.accuracy.evaluate`.
    measure : callable, optional
        Called as ``measure(settings)`` with ``attention``, ``gelu`` and ``norm`` of each model
        whose operators hardware has; returns a dict that the row gets.
    progress : callable, optional
        Called as ``progress(rows done, rows, text)`` before each row.
    **settings
        Others, for `systola.model.quantization.quantize.quantize`; `METHOD` unless given.

    Returns
    -------
    dict
        ``images``, ``float_top1``, ``method`` and ``rows``, of which the first is the baseline:
        ``operator``, ``setting`` and ``variant`` (None there), ``int_top1``; ``agreement``, the
        share of predictions that are the float network's, and ``agreement_baseline``;
        ``error_float`` and ``error_baseline``, RMS errors of the logits divided by the RMS of the
        float ones; ``operations`` of one row, and ``in_baseline`` for those that were not
        replaced, whose figures are the baseline's. With ``model_only`` nothing but the model of
        the operator computes it.

    Raises
    ------
    ValueError
        If the network cannot be expressed with one of the operators, or the images do not fit.
    """
    labels = images.labels
    check_labels(vit, labels)
    settings = {"method": METHOD, **settings}
    replaced = [item for item in REPLACEMENTS if baseline[item.setting] != item.variant]
    names = ["baseline", *(item.name for item in replaced)]
    if progress:
        progress(0, len(names), "running the float network")
    exact = float_logits(vit, images, batch=batch).astype(np.float64)
    results = {}
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), f"replacing operators: {name}")
        item = replaced[done - 1] if done else None
        operators = {**baseline, **(item.settings if item else {})}
        model = quantized(source, vit, calibration, **settings, **operators)
        kept = {}
        evaluate(None, model, images, labels, batch=batch, keep=kept, engine=engine,
                 cluster=cluster)
        real = kept["integer"] * float(model.scales[model.outputs[0]])
        results[name] = {"real": real, **(measure(operators) if measure and not (
            item and item.model_only) else {})}
    rows = [_row(None, results["baseline"], results, exact, labels)]
    for item in REPLACEMENTS:
        found = results.get(item.name, results["baseline"])
        rows.append({**_row(item, found, results, exact, labels),
                     "in_baseline": item.name not in results,
                     "model_only": item.model_only, "operations": item.operations.to_dict()})
    return {"images": len(labels), "float_top1": float(np.mean(exact.argmax(axis=1) == labels)),
            "method": settings["method"], "baseline": baseline, "rows": rows}


def _row(item, found, results, exact, labels):
    """Return the figures of one model beside those of the float network and the baseline."""
    real, base = found["real"], results["baseline"]["real"]
    predicted, size = real.argmax(axis=1), _rms(exact)
    return {"operator": item.name if item else "baseline",
            "setting": item.setting if item else None, "variant": item.variant if item else None,
            "int_top1": float(np.mean(predicted == labels)),
            "agreement": float(np.mean(predicted == exact.argmax(axis=1))),
            "agreement_baseline": float(np.mean(predicted == base.argmax(axis=1))),
            "error_float": _rms(real - exact) / size, "error_baseline": _rms(real - base) / size,
            **{name: value for name, value in found.items() if name != "real"}}


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values))))
