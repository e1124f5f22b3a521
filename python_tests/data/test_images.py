"""Labelled images: decoding, sizes, subsets, broken images."""

import io
import re
import threading

import numpy as np
import pytest
import torch

from c2f_ops.data import LabeledImages
from c2f_ops.data.images import decode_image, in_threads, resize_image
from c2f_ops.hierarchy import Hierarchy, HierarchyWarning

pil = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

TREE = Hierarchy.from_paths(["A/1", "A/2", "B/3", "B/4"])


def picture(height=8, width=8, *, value=None, seed=0):
    if value is not None:
        return np.full((height, width, 3), value, np.uint8)
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(array, kind="PNG", mode="RGB"):
    buffer = io.BytesIO()
    pil.fromarray(array).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def encoded_set(values, fine, **options):
    """Images of one colour each; None is a broken file."""
    images = [encode(picture(value=v)) if v is not None else encode(picture())[:60] for v in values]
    ids = [f"image{i}" for i in range(len(values))]
    return LabeledImages("toy", "test", TREE, TREE.from_fine(fine), ids, images, **options)


def test_items_and_labels():
    dataset = encoded_set([10, 20, 30], [0, 3, 2])
    image, label = dataset[1]
    assert len(dataset) == 3
    assert image.dtype == torch.uint8
    assert image.shape == (3, 8, 8)
    assert (image == 20).all()
    assert label.tolist() == [1, 3]
    assert dataset.labels.tolist() == [[0, 0], [1, 3], [1, 2]]
    assert [int(image[0, 0, 0]) for image, _ in torch.utils.data.DataLoader(dataset, batch_size=None)] == [10, 20, 30]
    with pytest.raises(IndexError):
        dataset[3]


def test_decode_keeps_pixels_and_takes_any_mode():
    array = picture(5, 7)
    assert np.array_equal(decode_image(encode(array)).numpy(), array.transpose(2, 0, 1))
    for mode in ("L", "P", "RGBA", "CMYK"):
        assert decode_image(encode(array, "TIFF" if mode == "CMYK" else "PNG", mode)).shape == (3, 5, 7)


def test_resize_modes():
    image = torch.zeros(3, 10, 30, dtype=torch.uint8)
    image[:, :, 10:20] = 240
    assert (resize_image(image, 10) == 240).all()  # the centre, pixels untouched
    assert (resize_image(image.transpose(1, 2), 10) == 240).all()
    squashed = resize_image(image, 10, mode="squash")
    assert squashed[0, 0].tolist()[0] == 0
    assert squashed[0, 0].tolist()[5] == 240
    for h, w in ((3, 1000), (227, 226), (7, 5)):
        assert resize_image(torch.zeros(3, h, w, dtype=torch.uint8), 11).shape == (3, 11, 11)


def test_stacked_is_the_items():
    images = [encode(picture(12, 9 + i, seed=i)) for i in range(4)]
    for mode in ("shorter", "squash"):
        dataset = LabeledImages("t", "test", TREE, TREE.from_fine(range(4)), "abcd", images, size=6, resize_mode=mode)
        assert torch.equal(dataset.stacked(), torch.stack([dataset[i][0] for i in range(4)]))
    assert dataset.stacked(4, resize_mode="shorter").shape == (4, 3, 4, 4)
    with pytest.raises(ValueError, match="size must be given"):
        encoded_set([1], [0]).stacked()


def test_threads_do_not_change_images():
    images = [encode(picture(20 + i, 30, seed=i), "JPEG") for i in range(17)]
    broken = [*images[:5], b"", *images[6:]]
    stacked = {}
    for policy, encoded in (("raise", images), ("skip", broken), ("substitute", broken)):
        for threads in (1, 2, 5):
            dataset = LabeledImages("t", "test", TREE, [[0, 0]] * 17, "abcdefghijklmnopq", encoded, corrupt=policy)
            stacked[threads] = dataset.stacked(16, threads=threads)
        assert torch.equal(stacked[1], stacked[2])
        assert torch.equal(stacked[1], stacked[5])
    dataset = LabeledImages("t", "test", TREE, [[0, 0]] * 17, "abcdefghijklmnopq", broken)
    with pytest.raises(ValueError, match="image f of t must be readable"):
        dataset.stacked(16, threads=2)
    for bad in (0, True, 2.0):
        with pytest.raises(ValueError, match=f"threads must be a positive int or None, got {bad}"):
            dataset.stacked(16, threads=bad)


def test_decoding_side_by_side_leaves_torch_its_threads():
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        assert in_threads(lambda i: seen.append(threading.get_ident()) or i * i, 50) == [i * i for i in range(50)]
        assert threading.get_ident() not in seen
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda i: 1 // (i - 3), 50)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_tensor_images():
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 6, 6) * 10
    dataset = LabeledImages("t", "test", TREE, TREE.from_fine(range(4)), "abcd", images)
    assert torch.equal(dataset.stacked(), images)
    assert torch.equal(dataset.stacked(3), images[:, :, :3, :3])
    assert torch.equal(dataset[2][0], images[2])


def test_subset():
    part = encoded_set([10, None, 30, 40], [0, 1, 2, 3], corrupt="skip").subset([2, 0])
    assert part.ids == ["image3", "image0"]
    assert [int(part[i][0][0, 0, 0]) for i in range(2)] == [40, 10]
    assert part.labels[:, 1].tolist() == [3, 0]


def test_corrupt_raise_names_the_image():
    dataset = encoded_set([10, None], [0, 1])
    assert dataset[0][0].shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"image image1 of toy must be readable, got \w+: "):
        dataset[1]
    assert dataset.corrupt == []


def test_corrupt_skip_leaves_out_and_counts():
    dataset = encoded_set([10, None, 30, None], [0, 1, 2, 3], corrupt="skip")
    assert len(dataset) == 2
    assert dataset.ids == ["image0", "image2"]
    assert dataset.labels[:, 1].tolist() == [0, 2]
    assert [int(dataset[i][0][0, 0, 0]) for i in range(2)] == [10, 30]
    assert [image_id for image_id, _ in dataset.corrupt] == ["image1", "image3"]
    assert all(reason for _, reason in dataset.corrupt)
    with pytest.raises(ValueError, match="must have a readable image"):
        encoded_set([None], [0], corrupt="skip")


def test_corrupt_substitute_keeps_labels_and_length():
    dataset = encoded_set([10, None, 30, 40, None], [0, 0, 1, 0, 0], corrupt="substitute")
    assert dataset.ids == [f"image{i}" for i in range(5)]
    assert [int(dataset[i][0][0, 0, 0]) for i in range(5)] == [10, 40, 30, 40, 10]
    assert [image_id for image_id, _ in dataset.corrupt] == ["image1", "image4"]
    with pytest.raises(ValueError, match="image1 must have a readable one of its class"):
        encoded_set([10, None], [0, 1], corrupt="substitute")


def test_train_warns_of_empty_classes():
    with pytest.warns(HierarchyWarning, match="3 of 4 classes have no training image: nodes 1, 2, 4"):
        LabeledImages("t", "train", TREE, [[1, 2]], ["x"], [encode(picture())])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupt": "ignore"}, "corrupt must be one of raise, skip, substitute, got 'ignore'"),
        ({"size": 0}, "size must be a positive int or None, got 0"),
        ({"resize_mode": "pad"}, "resize_mode must be one of shorter, squash, got 'pad'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        encoded_set([1], [0], **options)


def test_bad_options_of_resizing():
    dataset = encoded_set([1], [0], size=8)
    with pytest.raises(ValueError, match=r"LabeledImages.stacked: size must be a positive int or None, got 0"):
        dataset.stacked(0)
    with pytest.raises(ValueError, match=r"LabeledImages.stacked: resize_mode must be one of shorter, squash, got ''"):
        dataset.stacked(resize_mode="")
    with pytest.raises(ValueError, match="resize_image: mode must be one of shorter, squash, got 'pad'"):
        resize_image(dataset[0][0], 4, mode="pad")


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="must have one length, got 1, 2, 1"):
        LabeledImages("t", "test", TREE, [[0, 0]], ["a", "b"], [b""])
