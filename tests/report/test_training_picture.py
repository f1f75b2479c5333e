"""Pictures of trainings show every epoch where it belongs."""

import json
import re

import numpy as np
import pytest

from systola.cli.main import main
from systola.files.tensors import ModelError
from systola.report.diagram import Line, Text
from systola.report.training_picture import MARK, draw_training, read_training, training_shapes

HISTORY = [{"epoch": 0, "seconds": 0.0, "validation_top1": 0.5, "validation_loss": 2.0},
           {"epoch": 1, "seconds": 1.0, "loss": 1.0, "top1": 0.6, "validation_top1": 0.7,
            "validation_loss": 1.0},
           {"epoch": 2, "seconds": 1.0, "loss": 0.9, "top1": 0.65, "validation_top1": 0.8,
            "validation_loss": 0.9}]


def marks(shapes):
    """Return the middles of the squares that mark epochs."""
    return [tuple(np.mean(shape.points, axis=0)) for shape in shapes
            if isinstance(shape, Line) and shape.line == MARK]


def test_points_are_where_accuracy_and_epoch_say():
    shapes, (width, height) = training_shapes({"one": HISTORY, "two": HISTORY})
    points = marks(shapes)
    assert len(points) == 2 * (3 + 2)
    (x0, y0), (x1, y1), (x2, y2) = points[:3]
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 > y1 > y2
    assert (y0 - y1) / (y1 - y2) == pytest.approx((0.7 - 0.5) / (0.8 - 0.7))
    assert points[3][0] == pytest.approx(x1)
    labels = [shape for shape in shapes if isinstance(shape, Text)]
    at = {shape.text: shape.y for shape in labels if re.fullmatch(r"0\.\d+", shape.text)}
    assert at["0.50"] == pytest.approx(y0)
    for x, y in [*points, *((shape.x, shape.y) for shape in labels)]:
        assert 0 <= x <= width
        assert 0 <= y <= height
    assert {"one", "two"} <= {shape.text for shape in labels}


def test_a_training_without_images_held_back_has_one_curve(tmp_path):
    history = [{"epoch": 0}, {"epoch": 1, "top1": 0.9}, {"epoch": 2, "top1": 0.9}]
    shapes, _ = training_shapes({"x": history})
    assert len(marks(shapes)) == 2
    draw_training({"x": history}, tmp_path / "x.svg")
    assert "shapes sha256" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", json.dumps({"history": []}), json.dumps({"history": [{"epoch": 0}]}),
    json.dumps({"history": [1, 2]}), json.dumps({"history": [{"epoch": 0}, {"epoch": 2}]}),
    json.dumps({"history": [{"epoch": 0, "top1": 2}, {"epoch": 1}]}),
    json.dumps({"history": [{"top1": "x"}, {}]}), json.dumps({"history": [{"top1": True}, {}]}),
    '{"history": [{"top1": NaN}, {}]}'])
def test_other_files_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"^record '.*r.json' must be what `systola finetune --js"):
        read_training(path)


def test_the_command_draws_what_finetune_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"history": HISTORY}))
    for arguments, code in ((["a.json", "-o", "a.svg"], 0), (["a.json", "-o", "a.txt"], 2),
                            (["none.json", "-o", "b.svg"], 2)):
        assert main(["report", "training", *arguments]) == code
    assert (tmp_path / "a.svg").exists()
    assert capsys.readouterr().err.count("\n") == 2
