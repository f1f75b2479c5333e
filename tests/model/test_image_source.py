"""Images of files and folders: formats, labels, what is refused, and how much is in memory."""

import gzip
import json
import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from systola.files.tensors import ModelError
from systola.model.data.images import float_inputs, has_training, load_data, open_images
from systola.model.data.synthetic import random_float_vit
from systola.model.evaluation.accuracy import calibration_images, evaluate, float_logits
from systola.model.graph.graph import Graph
from systola.model.quantization.quantize import quantize

NAMES = "ant", "bee", "cat"
FORMATS = "folder", "csv", "text", "idx", "idx.gz", "parquet", "npz", "safetensors"


def network(side=8, planes=1, classes=3, **meta):
    """Return a random float network for images of `side` pixels, which are taken as they are."""
    graph = random_float_vit(np.random.default_rng(0), channels=12, heads=2, blocks=1, hidden=8,
                             classes=classes, tokens=5, patch_dim=planes * (side // 2)**2)
    return Graph(nodes=graph.nodes, outputs=graph.outputs, meta={
        "patch_size": side // 2, "image_size": [side, side], "mean": [0.5] * planes,
        "std": [0.5] * planes, "crop_pct": 1.0, "interpolation": "bicubic", **meta})


def pixels(count=7, side=8, planes=1, seed=0):
    shape = (count, side, side, 3) if planes == 3 else (count, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def idx(path, array, opener=open):
    with opener(path, "wb") as file:
        file.write(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape))
        file.write(array.astype(np.uint8).tobytes())


def parquet(path, images, labels, classes=None, group=3):
    """Write a file as Hugging Face's library does."""
    import io

    import pyarrow as pa
    from pyarrow import parquet as pq

    content = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        content.append({"bytes": file.getvalue(), "path": None})
    table = pa.table({"image": content, "label": pa.array(labels, pa.int64())})
    if classes:
        features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


def written(folder, kind, images, labels):
    """Write images and labels as `kind`, and return the path for ``--data``."""
    if kind == "folder":
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            save(image, folder / "set" / NAMES[label] / f"{index:02}.png")
        return folder / "set"
    if kind in ("csv", "text"):
        for index, image in enumerate(images):
            save(image, folder / "set" / f"{index:02}.png")
        lines = [f"{index:02}.png{',' if kind == 'csv' else ' '}{label}"
                 for index, label in enumerate(labels)]
        if kind == "csv":
            lines.insert(0, "file_name,label")
        name = "labels.csv" if kind == "csv" else "labels.txt"
        (folder / "set" / name).write_text("\n".join(lines))
        return folder / "set"
    if kind.startswith("idx"):
        packed, opener = (".gz", gzip.open) if kind.endswith("gz") else ("", open)
        idx(folder / f"some-images-idx3-ubyte{packed}", images, opener)
        idx(folder / f"some-labels-idx1-ubyte{packed}", labels, opener)
        return folder / f"some-images-idx3-ubyte{packed}"
    if kind == "parquet":
        parquet(folder / "set.parquet", images, labels)
        return folder / "set.parquet"
    arrays = {"images": images, "labels": labels}
    if kind == "npz":
        np.savez_compressed(folder / "set.npz", **arrays)
    else:
        save_file(arrays, folder / "set.safetensors")
    return folder / f"set.{kind}"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_images_and_labels(tmp_path, kind):
    images, labels = pixels(), np.array([0, 2, 1, 2, 0, 1, 1])
    if kind == "folder":  # it goes by classes
        order = np.argsort(labels, kind="stable")
        images, labels = images[order], labels[order]
    found = open_images(written(tmp_path, kind, images, labels), graph=network())
    assert len(found) == 7
    assert (found.labels == labels).all()
    wanted = images.astype(np.float32) / 255
    for part in slice(0, 7), slice(2, 5), slice(1, 2), slice(6, None), slice(None, None, 3):
        got = found[part]
        assert got.dtype == np.float32
        assert (got.reshape(-1, 8, 8) == wanted[part]).all()
    thin = found.thinned(3)
    assert len(thin) == 3
    assert (thin[:].reshape(-1, 8, 8) == wanted[::3]).all()
    assert (thin.labels == labels[::3]).all()
    assert thin.shared_with(found) == 3
    unlabelled = open_images(written(tmp_path, kind, images, labels), graph=network(),
                             labelled=False)
    assert unlabelled.labels is None
    assert (unlabelled[:].reshape(-1, 8, 8) == wanted).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_network_takes_slices_as_it_takes_arrays(tmp_path, kind):
    images, graph = pixels(planes=3), network(planes=3)
    labels = np.array([0, 0, 1, 1, 1, 2, 2])
    data = images.transpose(0, 3, 1, 2) if kind == "npz" else images
    found, same = load_data(written(tmp_path, kind, data, labels), graph=graph)
    assert (same == labels).all()
    array = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / 255
    (got,), (wanted,) = (float_inputs(graph, part).values() for part in (found, array))
    assert (got[2:6] == wanted[2:6]).all()
    one, other = (quantize(graph, float_inputs(graph, part)) for part in (found, array))
    assert one.scales == other.scales
    assert (float_logits(graph, found, batch=3) == float_logits(graph, array, batch=3)).all()
    assert evaluate(graph, one, found, labels, batch=2) == evaluate(graph, one, array, labels)


def test_pictures_of_any_size_need_a_network(tmp_path):
    save(pixels(1, 20)[0], tmp_path / "ant" / "a.png")
    with pytest.raises(ModelError, match="need a network that takes images"):
        load_data(tmp_path)


def test_memory_does_not_grow_with_the_images(tmp_path):
    """An image is 12 kB of float32; what stays of it is a digest and a prediction."""
    graph = network(32, planes=3)
    arrays = np.zeros((240, 3, 32, 32), np.uint8)
    arrays[:, 0, 0, 0] = np.arange(240)
    np.savez(tmp_path / "a.npz", images=arrays, labels=np.arange(240) % 3)
    for index in range(240):
        folder = tmp_path / "set" / NAMES[index % 3]
        if index < 3:
            save(pixels(1, 40, 3, index)[0], folder / "0.png")
        else:
            os.symlink(folder / "0.png", folder / f"{index}.png")
    model = quantize(graph, float_inputs(graph, arrays[:3].astype(np.float32) / 255))
    for path in tmp_path / "a.npz", tmp_path / "set":
        peaks = []
        for count in 40, 240:
            images = open_images(path, graph=graph)
            images.indices, labels = range(count), images.labels[:count]
            tracemalloc.start()
            evaluate(graph, model, images, labels, batch=8)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] - peaks[0] < 200 * 800, path


def test_only_a_batch_is_decoded_at_once(tmp_path, monkeypatch):
    graph, labels = network(), np.zeros(7, int)
    images = open_images(written(tmp_path, "text", pixels(), labels), graph=graph)
    read, real = [], images.source.picture
    monkeypatch.setattr(images.source, "picture",
                        lambda index: read.append(index) or real(index))
    model, done = quantize(graph, float_inputs(graph, pixels().astype(np.float32) / 255)), []
    evaluate(graph, model, images, labels, batch=3,
             progress=lambda count, total: done.append((count, list(read))))
    assert done == [(3, [0, 1, 2]), (6, [*range(6)]), (7, [*range(7)])]  # each of them once


def splits_of(kind, folder):
    """Write a set of 6 training and 4 test images."""
    for split, name, count in ("train", "train", 6), ("test", "t10k", 4):
        images, labels = pixels(count, seed=count), np.arange(count) % 3
        if kind == "idx":
            idx(folder / f"{name}-images-idx3-ubyte", images)
            idx(folder / f"{name}-labels-idx1-ubyte", labels)
        elif kind == "parquet":
            (folder / "data").mkdir(exist_ok=True)
            parquet(folder / "data" / f"{split}-00000-of-00001.parquet", images, labels)
        else:
            written(folder / split, "folder", images, labels)
            (folder / split / "set").rename(folder / f"{split}2")
            (folder / split).rmdir()
            (folder / f"{split}2").rename(folder / split)


@pytest.mark.parametrize("kind", ["idx", "parquet", "folder"])
def test_parts_of_a_set(tmp_path, kind):
    if kind == "folder":
        for split in "train", "test":
            (tmp_path / split).mkdir()
    splits_of(kind, tmp_path)
    graph = network()
    assert has_training(tmp_path)
    test, train = (open_images(tmp_path, split, graph=graph) for split in ("test", "train"))
    assert (len(test), len(train)) == (4, 6)
    assert test.name == f"{tmp_path}, test images"
    assert train.name == f"{tmp_path}, training images"
    assert not has_training(tmp_path / "train")
    assert len(open_images(tmp_path / "train", "test", graph=graph)) == 6  # it is asked for
    ranges = calibration_images("model", graph, scored=tmp_path)
    assert ranges.name == train.name
    assert (ranges[:] == train[:]).all()
    assert ranges.shared_with(test) == 0


def test_validation_images_do_for_a_test(tmp_path):
    for split, count in ("train", 3), ("val", 2):
        for index in range(count):
            save(pixels(1)[0], tmp_path / split / NAMES[index % 3] / f"{index}.png")
        for name in NAMES:
            (tmp_path / split / name).mkdir(exist_ok=True)
    found = open_images(tmp_path, "test", graph=network())
    assert (len(found), found.name) == (2, f"{tmp_path}, validation images")
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(ModelError, match=r"must have train images; there are those of test, "
                                         r"validation only$"):
        open_images(tmp_path, "train", graph=network())
    (tmp_path / "test").rename(tmp_path / "dev")
    with pytest.raises(ModelError, match="one folder of validation images, not 'dev' and 'val'"):
        open_images(tmp_path, graph=network())


@pytest.mark.parametrize("kind", ["folder", "parquet", "csv"])
@pytest.mark.parametrize(("names", "wanted", "how"), [
    (["Cat", "ANT", "bee"], [1, 2, 0], "by the names of the checkpoint's classes"),
    (["ant", "bee", "cat"], [0, 1, 2], "names and order of the checkpoint's classes"),
    (["x", "y", "z"], [0, 1, 2], "no name is one of the checkpoint's classes"),
    (None, [0, 1, 2], "the checkpoint has no names")])
def test_labels_go_by_name_where_there_are_names(tmp_path, kind, names, wanted, how):
    if kind == "parquet":
        parquet(tmp_path / "a.parquet", pixels(3), [0, 1, 2], NAMES)
        path = tmp_path / "a.parquet"
    else:
        path = written(tmp_path, kind, pixels(3), np.arange(3))
    if kind == "csv":
        (path / "labels.csv").write_text("label,x,file_name\nant,,00.png\nbee,,01.png\n"
                                         "cat,,02.png\n")
    found = open_images(path, graph=network(**({"class_names": names} if names else {})))
    assert found.labels.tolist() == wanted
    assert how in found.remarks()[0]
    if names is None:
        assert "(ant, bee, cat)" in found.remarks()[0]


def test_classes_that_are_not_those_of_the_network_are_refused(tmp_path):
    path = written(tmp_path, "folder", pixels(3), np.arange(3))
    for graph, message in (
            (network(classes=4), r"the 4 of the network, .* not 3 \('ant', \.\.\.\)$"),
            (network(class_names=["ant", "bee", "dog"]), "^class 'cat' .* as 2 others are$"),
            (network(classes=4, class_names=["ant", "bee", "cat", "cat"]),
             "^class 'cat' must be .* which has 2 of that name")):
        with pytest.raises(ModelError, match=message):
            open_images(path, graph=graph)
    csv = written(tmp_path / "b", "csv", pixels(2), [0, 3])
    with pytest.raises(ModelError, match=r"^labels must be from 0 to 2, the classes there are, "
                                         r"not 3$"):
        open_images(csv, graph=network())


@pytest.mark.parametrize(("name", "content", "message"), [
    ("labels.csv", "file_name,label\n00.png,1\n", "have none for '01.png'$"),
    ("labels.csv", "file_name,label\n00.png,1\n01.png,0\n02.png,0\n", "which '02.png' is not$"),
    ("labels.csv", "file_name,label\n00.png,1\n00.png,0\n01.png,0\n", "not two for '00.png'$"),
    ("labels.csv", "name,label\n00.png,1\n", "must name a column file_name and a column label"),
    ("labels.csv", "file_name,label\n00.png\n01.png,1\n", "must have a file and a label"),
    ("labels.csv", b"file_name,label\n\xff", "cannot be read"),
    ("labels.txt", "00.png\n01.png 1\n", "every line must have a file and a label"),
    ("other.csv", "", "must have a folder for each class, or a file labels.csv")])
def test_every_picture_needs_one_label(tmp_path, name, content, message):
    for index in range(2):
        save(pixels(1)[0], tmp_path / f"{index:02}.png")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=message):
        open_images(tmp_path, graph=network())
    found = open_images(tmp_path, graph=network(), labelled=False)
    assert len(found) == 2
    assert ("other" in name) == any("1 files of" in text for text in found.remarks())


def test_what_is_converted_is_said_once_for_each_image(tmp_path):
    colours = Image.fromarray(pixels(1, planes=3)[0])
    for name, picture in {"rgb": colours, "grey": colours.convert("L"),
                          "palette": colours.convert("P"), "alpha": colours.convert("RGBA"),
                          "print": colours.convert("CMYK")}.items():
        path = tmp_path / f"{name}.{'tif' if name == 'print' else 'png'}"
        exif = Image.Exif()
        exif[0x112] = 6 if name == "rgb" else 1
        picture.save(path, exif=exif)
    for planes, mode in (3, "RGB"), (1, "L"):
        found = open_images(tmp_path, graph=network(planes=planes), labelled=False)
        assert found.remarks() == []
        for _ in range(2):
            got = found[:]
        kept = {"RGB": "RGB", "L": "L"}[mode]
        assert set(found.remarks()) == {
            *(f"1 of 5 images are {other} and read as {mode}"
              for other in {"RGB", "L", "P", "RGBA", "CMYK"} - {kept}),
            "1 of 5 images say that they are to be turned (EXIF), which is not done"}
        names = sorted(path.name for path in tmp_path.iterdir())
        for name, image in zip(names, got, strict=True):
            with Image.open(tmp_path / name) as picture:
                wanted = np.asarray(picture.convert(mode), np.float32) / 255
            assert (image.transpose(1, 2, 0).squeeze() == wanted).all()


@pytest.mark.parametrize(("content", "reason"), [
    (lambda good: good[:-200], "truncated"), (lambda good: b"no picture", "cannot identify"),
    (lambda good: b"", "cannot identify"),
    (lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify")])
def test_a_broken_picture_is_named(tmp_path, content, reason):
    save(pixels(1, 60)[0], tmp_path / "ant" / "good.png")
    good = (tmp_path / "ant" / "good.png").read_bytes()
    bad = tmp_path / "ant" / "worse.png"
    bad.write_bytes(content(good))
    found = open_images(tmp_path, graph=network(), labelled=False)
    assert found[:1].shape == (1, 1, 8, 8)
    with pytest.raises(ModelError, match=rf"^image '{re.escape(str(bad))}' must be a complete "
                                         rf"picture: .*{reason}"):
        found[1:]


def test_pictures_of_more_bits_or_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "a.png")
    good = (tmp_path / "a.png").read_bytes()
    for name, sides in ("b.png", (70000, 1000)), ("c.png", (30000, 4000)):  # says so, at least
        header = b"IHDR" + struct.pack(">II5B", *sides, 8, 0, 0, 0, 0)
        (tmp_path / name).write_bytes(good[:12] + header + struct.pack(">I", zlib.crc32(header))
                                      + good[33:])
    found = open_images(tmp_path, graph=network(), labelled=False)
    for index, message in enumerate([
            "must have at most 8 bits a colour, not mode I;16",
            "67,108,864 pixels, not 70000 x 1000", "exceeds limit of"]):
        with pytest.raises(ModelError, match=message):
            found[index:index + 1]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ModelError, match=r"^image '.*a\.png' does not exist$"):
        found[:1]


def test_idx_images_of_another_size_are_resized_and_that_is_said(tmp_path):
    images = pixels(4, 6)
    path = written(tmp_path, "idx", images, np.arange(4) % 3)
    found = open_images(path, graph=network(planes=3))
    got = found[:]
    for image, picture in zip(got, images, strict=True):
        wanted = np.array(Image.fromarray(picture).convert("RGB").resize((8, 8), Image.BICUBIC))
        assert (image.transpose(1, 2, 0) * 255 == wanted).all()
    assert set(found.remarks()) == {"4 of 4 images are 6 x 6 and resized to 8 x 8",
                                    "4 of 4 images are L and read as RGB"}


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx_files_are_named(tmp_path, packed):
    path = written(tmp_path, "idx.gz" if packed else "idx", pixels(), np.arange(7) % 3)
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    labels = Path(str(path).replace("images-idx3", "labels-idx1"))

    def found(changed):
        path.write_bytes(gzip.compress(changed) if packed else changed)
        return open_images(path, graph=network())[:]

    for size in (0, 3, 15, 16, 16 + 64, len(content) - 1):
        with pytest.raises(ModelError, match=rf"^IDX file '{re.escape(str(path))}' must be "):
            found(content[:size])
    with pytest.raises(ModelError, match="it must end after 7 rows"):
        found(content + b"\0")
    for at, value in (2, 13), (3, 1), (0, 1):
        with pytest.raises(ModelError, match="unsigned bytes in 3 dimensions"):
            found(content[:at] + bytes([value]) + content[at + 1:])
    with pytest.raises(ModelError, match=r"must be 6, one for each image, not 7$"):
        found(content[:7] + b"\6" + content[8:-64])
    if packed:
        path.write_bytes(gzip.compress(content)[:-4])
        with pytest.raises(ModelError, match="must be complete"):
            open_images(path, graph=network())[:]
    labels.unlink()
    with pytest.raises(ModelError, match=rf"^labels '{re.escape(str(labels)[:-3 * packed or None])}"
                                         rf"' do not exist$"):
        found(content)


def test_several_sets_in_a_folder_are_refused(tmp_path):
    for stem in "letters-train", "digits-train":
        idx(tmp_path / f"{stem}-images-idx3-ubyte", pixels())
    with pytest.raises(ModelError, match=r"one file of images for training .*digits-train"):
        open_images(tmp_path, graph=network())
    found = open_images(tmp_path / "letters-train-images-idx3-ubyte", graph=network(),
                        labelled=False)
    assert len(found) == 7


def test_parquet_files_that_cannot_be_used(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet as pq

    path = tmp_path / "train-0.parquet"
    for table, message in (
            ({"text": ["a"]}, "must have a column image, not "),
            ({"image": [b"1"]}, "must have a column label, not "),
            ({"image": [b"1"], "label": ["a"]}, "column label must hold integers, not string"),
            ({"image": [b"1"], "label": [None]}, "must have a label, which 1 have not"),
            ({"image": [b"1"], "label": [1]}, "row 0' must be a complete picture"),
            ({"image": [{"bytes": None, "path": "a.png"}], "label": [1]},
             "must hold the bytes of a picture, not")):
        pq.write_table(pa.table(table), path)
        with pytest.raises(ModelError, match=message):
            open_images(path, graph=network())[:]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="must be a complete Parquet file"):
        open_images(path, graph=network())
    (tmp_path / "more.parquet").write_bytes(b"")
    with pytest.raises(ModelError, match=r"begin with train, test or validation, not 'more"):
        open_images(tmp_path, graph=network())


def test_what_is_no_data_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for path, message in ((tmp_path / "notes.txt", "must be one of: arrays"),
                          (tmp_path / "none", "must exist, and be one of: arrays"),
                          (tmp_path, "must hold pictures"),
                          (tmp_path / "none.npz", "does not exist")):
        with pytest.raises(ModelError, match=message):
            open_images(path, graph=network())
