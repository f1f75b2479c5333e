"""LUTs of units stand in the table of ablations and in the page of measurements: the same ones."""

from pathlib import Path

from systola.boards.synthesis.unit_sizes import SIZES_OF, UNIT_LUTS
from systola.hw.contract.config import PRESETS
from systola.model.evaluation.ablation import REPLACEMENTS

PAGE = Path(__file__).parents[2] / "docs" / "PERFORMANCE.md"
WORDS = {("attention", "normalised"): "normalised softmax {}",
         ("attention", "published"): "Published Shiftmax has {}",
         ("gelu", "table"): "the GELU table takes {} of LUT memory",
         ("norm", "normalised"): "normalised layer norm {};",
         ("norm", "published"): "I-LayerNorm {} |"}


def test_the_page_says_so():
    assert SIZES_OF in PRESETS
    assert WORDS.keys() == UNIT_LUTS.keys() <= {
        (item.setting, item.variant) for item in REPLACEMENTS if not item.model_only}
    line = next(line for line in PAGE.read_text().splitlines()
                if line.startswith("| LUT of softmax"))
    for key, words in WORDS.items():
        assert words.format(f"{UNIT_LUTS[key]:,}") in line, key
