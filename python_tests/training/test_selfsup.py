"""Contrastive pre-training: the loss, the views, runs that repeat and resume, and the commands."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

for library in ("torchvision", "accelerate", "safetensors", "typer"):
    pytest.importorskip(library)

from c2f_ops import cli  # noqa: E402
from c2f_ops.training import Interrupted  # noqa: E402
from c2f_ops.training.augment import crop_maps  # noqa: E402
from c2f_ops.training.selfsup import (  # noqa: E402
    SelfsupConfig,
    SimCLR,
    embed,
    knn_accuracy,
    load_images,
    load_selfsup,
    nt_xent,
    pretrain,
    two_views,
    write_features,
)
from c2f_ops.training.selfsup import run as run_module  # noqa: E402
from c2f_ops.training.selfsup.augment import _change_colours, _colours, blur  # noqa: E402

TINY = SelfsupConfig(
    data="birds", train_images=48, backbone="cifar_resnet_small", image_size=16, epochs=3, batch_size=16, lr=0.05,
    warmup_epochs=1, hidden=32, dim=16, monitor_images=16, monitor_epochs=1, precision="fp32", device="cpu", threads=1,
    checkpoint_minutes=60,
)  # fmt: skip


# ---- loss ------------------------------------------------------------------------------------------------------------


def direct(a, b, temperature, decoupled):
    """Compute the formula of `nt_xent`, term by term."""
    z = torch.nn.functional.normalize(torch.cat([a, b]).double(), dim=1)
    n, total = len(a), 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        left_out = {i, p} if decoupled else {i}
        below = sum(math.exp(float(z[i] @ z[j]) / temperature) for j in range(2 * n) if j not in left_out)
        total += math.log(below) - float(z[i] @ z[p]) / temperature
    return total / (2 * n)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_is_its_formula(decoupled, temperature):
    a, b = torch.randn(2, 6, 5)
    assert float(nt_xent(a, b, temperature=temperature, decoupled=decoupled)) == pytest.approx(
        direct(a, b, temperature, decoupled), rel=1e-5
    )


def test_loss_has_a_gradient_that_pulls_views_together():
    a, b = torch.randn(2, 8, 4, dtype=torch.float64).requires_grad_().unbind()
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    before = nt_xent(a, b)
    before.backward()
    assert torch.isfinite(a.grad).all() and a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0
    assert nt_xent(a - 0.1 * a.grad, b - 0.1 * b.grad) < before


def test_collapse_is_no_way_to_a_low_loss():
    same = torch.ones(16, 8)
    apart = torch.eye(16)
    assert float(nt_xent(same, same)) == pytest.approx(math.log(31), rel=1e-5)
    assert float(nt_xent(apart, apart)) < 0.5 * math.log(31)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(2, 4), {}, r"a and b must be \[B, d\] alike, got \[3, 4\] and \[2, 4\]"),
        (torch.zeros(2, 4), torch.zeros(2, 4), {"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_loss_names_bad_arguments(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        nt_xent(a, b, **options)


def _worker(rank, port, a, b, weight, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = slice(rank * 4, rank * 4 + 4)
    loss = nt_xent(a[rows] @ weight, b[rows] @ weight, decoupled=True, gather=True)
    (grad,) = torch.autograd.grad(loss, weight)
    both = torch.stack([loss.detach().expand_as(grad), grad])
    torch.distributed.all_reduce(both)
    if rank == 0:
        torch.save(both / 2, out)
    torch.distributed.destroy_process_group()


def test_two_processes_share_their_negatives(tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    a, b, weight = torch.randn(8, 6), torch.randn(8, 6), torch.randn(6, 5).requires_grad_()
    loss = nt_xent(a @ weight, b @ weight, decoupled=True)
    (grad,) = torch.autograd.grad(loss, weight)
    mp.start_processes(_worker, (port, a, b, weight, tmp_path / "r"), nprocs=2, start_method="fork")
    shared_loss, shared_grad = torch.load(tmp_path / "r")
    torch.testing.assert_close(shared_loss[0, 0], loss.detach())
    torch.testing.assert_close(shared_grad, grad)


# ---- views -----------------------------------------------------------------------------------------------------------


def test_views_follow_from_seed_and_step_and_not_from_the_share_of_a_process():
    images = load_images(TINY, "train").stacked(16)[:8]
    config = replace(TINY, blur_share=0.5)
    whole = two_views(images, config, 3, batch=8, rows=slice(0, 8))
    assert whole.shape == (16, 3, 16, 16) and whole.min() >= 0 and whole.max() <= 1
    assert torch.equal(whole, two_views(images, config, 3, batch=8, rows=slice(0, 8)))
    assert not torch.equal(whole, two_views(images, config, 4, batch=8, rows=slice(0, 8)))
    assert not torch.equal(whole[:8], whole[8:])
    second = two_views(images[4:], config, 3, batch=8, rows=slice(4, 8))
    torch.testing.assert_close(second, torch.cat([whole[4:8], whole[12:]]))


def test_views_without_changes_are_the_images():
    images = load_images(TINY, "train").stacked(16)[:8]
    config = replace(TINY, min_area=1.0, jitter=0.0, grey_share=0.0)
    maps = crop_maps(8, config.min_area, torch.Generator().manual_seed(0), torch.zeros(8, dtype=torch.bool))
    assert maps[:, 0, 0].min() > 0.85  # only the aspect differs
    contrast, matrix = _colours(8, config, torch.Generator().manual_seed(0))
    torch.testing.assert_close(_change_colours(images.float() / 255, contrast, matrix), images.float() / 255)
    assert two_views(images, replace(config, view_size=12), 0, batch=8, rows=slice(0, 8)).shape[-1] == 12


def test_grey_is_grey_and_colours_keep_it():
    config = replace(TINY, grey_share=1.0)
    x = torch.rand(8, 3, 4, 4) * 0.5 + 0.25
    contrast, matrix = _colours(8, config, torch.Generator().manual_seed(0))
    out = _change_colours(x, contrast, matrix)
    torch.testing.assert_close(out[:, 0], out[:, 2])
    _, matrix = _colours(64, replace(TINY, grey_share=0.0), torch.Generator().manual_seed(0))
    grey = matrix @ torch.ones(3)  # brightness alone
    torch.testing.assert_close(grey[:, 0], grey[:, 1], atol=2e-3, rtol=0)  # three digits of YIQ
    assert grey.min() >= 0.6 - 1e-3 and grey.max() <= 1.4 + 1e-3


def test_blur_keeps_flat_images_and_smooths_others():
    flat = torch.full((2, 3, 64, 64), 0.3)
    torch.testing.assert_close(blur(flat, torch.tensor([0.1, 2.0])), flat)
    noise = torch.rand(2, 3, 64, 64)
    sharp, soft = blur(noise, torch.tensor([0.1, 2.0])).flatten(1).std(1)
    assert soft < 0.5 * sharp


# ---- runs ------------------------------------------------------------------------------------------------------------


def tensors(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def test_a_run_repeats_learns_and_resumes_bit_for_bit(tmp_path, monkeypatch, stop_after):
    whole = pretrain(TINY, tmp_path / "whole")
    records = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    monitored = [record for record in records if record["kind"] == "monitor"]
    assert len(monitored) == 3 and all(0 <= r["knn_coarse"] <= 1 and r["spread"] > 0.001 for r in monitored)

    with monkeypatch.context() as patch:
        stop_after(patch, run_module, 5)
        with pytest.raises(Interrupted):
            pretrain(TINY, tmp_path / "parts")
    assert not torch.equal(tensors(load_selfsup(tmp_path / "parts", "cpu")[0]), tensors(whole))
    resumed = pretrain(TINY, tmp_path / "parts", resume=True)
    assert torch.equal(tensors(resumed), tensors(whole))
    assert torch.equal(tensors(load_selfsup(tmp_path / "parts", "cpu")[0]), tensors(whole))
    with pytest.raises(FileExistsError, match="folder must be new"):
        pretrain(TINY, tmp_path / "whole")


def test_labels_do_not_enter(tmp_path, monkeypatch):
    config = replace(TINY, epochs=1)
    plain = pretrain(config, tmp_path / "plain")
    read = run_module.load_images

    def shuffled(*arguments):
        dataset = read(*arguments)
        dataset.labels = dataset.labels.flip(0)
        return dataset

    monkeypatch.setattr(run_module, "load_images", shuffled)
    assert torch.equal(tensors(pretrain(config, tmp_path / "other")), tensors(plain))


def test_embedding_does_not_depend_on_the_batch_and_leaves_the_mode():
    images = load_images(TINY, "train").stacked(16)[:10]
    model = SimCLR(TINY).train()
    whole = embed(model, images)
    assert model.training and whole.shape == (10, 256)
    torch.testing.assert_close(embed(model, images, batch_size=3), whole, rtol=1e-4, atol=1e-5)


def test_knn_votes():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    queries, wanted = torch.tensor([[5.0, 0.1], [0.0, 3.0]]), torch.tensor([0, 1])
    assert knn_accuracy(bank, labels, queries, wanted, k=3) == 1.0
    assert knn_accuracy(bank, labels, queries, 1 - wanted, k=3) == 0.0
    assert knn_accuracy(bank, labels, queries, wanted, k=99) == 0.5  # all vote, 0 and 1 alike: the lowest label


def test_features_must_fit_the_data(tmp_path):
    with pytest.raises(ValueError, match="features must be 48 rows"):
        write_features(tmp_path / "x.npz", torch.zeros(3, 4), load_images(TINY, "train"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"grey_share": 1.5}, r"grey_share must be in \[0, 1\]"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"view_size": 0}, "view_size must be positive or None"),
        ({"precision": "fp8"}, "precision must be one of"),
    ],
)
def test_config_names_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


# ---- commands --------------------------------------------------------------------------------------------------------


def call(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["c2f", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_commands_train_and_embed(tmp_path, monkeypatch, capsys):
    run, out = tmp_path / "run", tmp_path / "features.npz"
    assert call(
        monkeypatch, "train", "selfsup", "--data", "birds", "--train-images", 32, "--image-size", 16, "--epochs", 1,
        "--backbone", "cifar_resnet_small", "--batch-size", 16, "--device", "cpu", "--threads", 1, "--out", run,
    ) == 0  # fmt: skip
    assert call(monkeypatch, "embed", "--run", run, "--split", "test", "--images", 20, "--out", out) == 0
    model, config = load_selfsup(run, "cpu")
    dataset = load_images(config, "test", 20)
    with np.load(out, allow_pickle=False) as file:
        assert file["X"].shape == (20, 256) and file["X"].dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(file["X"]), embed(model, dataset.stacked(16)))
        assert file["coarse"].tolist() == dataset.labels[:, 0].tolist()
        assert file["fine"].tolist() == dataset.labels[:, -1].tolist()
        assert file["fine_to_coarse"][file["fine"]].tolist() == file["coarse"].tolist()
        assert file["id"].tolist() == dataset.ids
        assert len(file["fine_names"]) == dataset.hierarchy.sizes[-1]
        expected = file["X"].copy()

    from c2f_ops.data.embeddings import load_embeddings

    read = load_embeddings(out)
    assert np.array_equal(read.coarse, dataset.labels[:, 0]) and read.fine_names == dataset.hierarchy.names[-1]

    (checkpoint,) = (run / "checkpoints").glob("step-*")
    assert call(
        monkeypatch, "embed", "--checkpoint", checkpoint, "--backbone", "cifar_resnet_small", "--data", "birds",
        "--split", "test", "--images", 20, "--image-size", 16, "--device", "cpu", "--out", out,
    ) == 0  # fmt: skip
    with np.load(out, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["X"], expected)

    capsys.readouterr()
    assert call(monkeypatch, "embed", "--out", out) == 2
    assert "one of --run and --checkpoint" in capsys.readouterr().err
    assert call(monkeypatch, "embed", "--run", tmp_path, "--out", out) == 2
    assert "config.json" in capsys.readouterr().err
