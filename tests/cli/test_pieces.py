"""`systola simulate --pieces`: what it refuses, and who points at it."""

import pytest


@pytest.mark.parametrize("options", [("--stalls", 1), ("--images", 2, "--batch", 2),
                                     ("--timeline", "t.html")], ids=str)
def test_options_that_need_the_whole_are_refused(run, options):
    code, out, err = run("simulate", "--model", "digits", "--pieces", *options)
    assert (code, out) == (2, "")
    assert ("--pieces runs one image after the other, without --batch, --stalls and --timeline"
            in err)


def test_a_refusal_for_want_of_memory_says_that_there_are_pieces(run, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text('preset = "texts"\nbanks = 1\nbank_depth = 64\n')
    code, out, err = run("simulate", "--model", "text_padded", "--random-weights", "--config", path)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("; or --pieces, with tensors out and in over the streams")
    assert "scratchpad must have at least" in err
