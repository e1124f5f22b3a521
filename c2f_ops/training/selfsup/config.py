"""What a self-supervised run is made of, as plain data that is saved with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._typed import TypedConfig
from ..config import DEVICES, PRECISIONS, Stage


@dataclass(frozen=True)
class SelfsupConfig(TypedConfig):
    """Contrastive pre-training without labels.

    Attributes:
        data, root, train_images, data_seed: as for `c2f_ops.data.load_dataset`.
        backbone: as for `c2f_ops.models.make_backbone`.
        image_size: side of the images in memory, and of those that features are made of.
        view_size: side of the views; None for ``image_size``. Three quarters of it halve the time.
        epochs, batch_size, lr, momentum, weight_decay, warmup_epochs: SGD with Nesterov momentum, a linear rise, then a
            cosine to zero; ``batch_size`` images, two views of each, over all processes; no decay of vectors.
        temperature, decoupled, dim, hidden: of the loss and of the projector, a two-layer MLP.
        min_area: of random crops. jitter: strength of brightness, contrast and saturation; hue takes a quarter.
        jitter_share, grey_share, blur_share: shares of the views that are changed so.
        monitor_images, monitor_epochs: every so many epochs, how often the 20 nearest neighbours of so many training
            images have their coarse class; logged, and used for nothing.
        precision, device, threads, seed, checkpoint_minutes: of the run.
    """

    OP: ClassVar[str] = "selfsup"
    KIND: ClassVar[str | None] = "selfsup"

    data: str = "cifar100"
    root: str | None = None
    train_images: int | None = None
    data_seed: int = 0
    backbone: str = "cifar_resnet18"
    image_size: int = 32
    view_size: int | None = None
    epochs: float = 200.0
    batch_size: int = 512
    lr: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 5.0
    temperature: float = 0.2
    decoupled: bool = True
    dim: int = 128
    hidden: int = 1024
    min_area: float = 0.2
    jitter: float = 0.4
    jitter_share: float = 0.8
    grey_share: float = 0.2
    blur_share: float = 0.0
    monitor_images: int = 1000
    monitor_epochs: int = 5
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        self.check_words(precision=PRECISIONS, device=DEVICES)
        self.check_positive(
            "image_size", "epochs", "batch_size", "lr", "temperature", "dim", "hidden", "monitor_epochs"
        )
        self.check_shares("[0, 1]", "min_area", "jitter_share", "grey_share", "blur_share", "jitter", "momentum")
        if self.view_size is not None and self.view_size < 1:
            raise ValueError(f"selfsup: view_size must be positive or None, got {self.view_size}")
        if self.batch_size < 2:
            raise ValueError(f"selfsup: batch_size must be at least 2, for negatives, got {self.batch_size}")

    def stage(self, batches: int) -> Stage:
        """The schedule, for an epoch of ``batches`` steps."""
        return Stage("contrastive", lr=self.lr, schedule="cosine", warmup=round(self.warmup_epochs * batches))
