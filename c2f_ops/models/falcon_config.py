"""The switches of FALCON, with the paper's, its reference code's and our settings of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .ema import BUFFER_POLICIES

_CHOICES = {
    "pseudo_label": ("soft", "cosine_to_hard"),
    "lambda_m_after_soft": ("unchanged", "zero"),
    "group_prior": ("equal", "proportional"),
    "ema_buffers": BUFFER_POLICIES,
    "mstep_source": ("student", "teacher"),
    "mstep_init": ("random", "reference", "kmeans"),
    "reg_ddp": ("global", "reference"),
    "predict_with": ("student", "teacher"),
    "neighbour_mode": ("forward", "bank"),
    "cross_dataset_neighbours": ("within", "meet"),
}


@dataclass(frozen=True)
class FalconConfig:
    """What FALCON does, apart from network, data and optimiser. The default is `recommended`.

    Attributes:
        lambdas: Weights of L_coarse, of L_nn + L_conf and of L_reg; or four, with L_nn and L_conf apart.
        temperature: T of the target distribution.
        pseudo_label: Target: "soft", or from soft to its argmax along a cosine over the soft epochs.
        soft_epochs: Length of that cosine in epochs; None: 0.3 of the epochs.
        label_smoothing_coarse: Share of a coarse label that L_coarse spreads evenly over the coarse classes of its data
            set; for labels that may be wrong.
        reg_ema: Decay of the running mean of predictions at which L_reg is taken, see `FalconLoss`; 0: the mean over
            the batch, as published. For batches of few samples for each fine class.
        lambda_m: Weight of balance in the relation solve. None: half of what would force groups of equal size where all
            fine classes have equal mass, ``K_C / (4 K_F)``; with ``balanced`` twice of it, ``K_C / K_F``.
        balanced: The groups are known to have equal size.
        group_prior: The group sizes that the balance term pulls to, and that a k-means start takes: "equal", as
            published, or "proportional" to the samples of each coarse class, as fine classes of equal mass imply, which
            L_reg asks for.
        lambda_m_after_soft: After the soft epochs "unchanged" or "zero".
        neighbours_retrieved: k of the nearest neighbours inside the coarse class.
        neighbours_per_step: How many of them a step draws for each sample.
        neighbour_mode: "forward": neighbours go through the teacher at every step, as published. "bank": the teacher's
            logits of all samples, renewed each epoch; cheaper, and another method.
        cross_dataset_neighbours: Neighbours with several data sets: "within", samples of equal labels, hence of the
            same data sets; "meet", after the soft epochs, samples of equal labels once the missing ones are predicted
            by the teacher given those there are, anew each epoch.
        ema_decay: Decay of the teacher.
        ema_warmup: ``min(decay, (1 + t) / (10 + t))`` at step t.
        ema_buffers: See `ema_update`. With "own" the teacher runs in train mode, as the reference code has it.
        mstep_source: Whose predictions the relations are solved from.
        mstep_every: Steps between solves.
        mstep_decay: What is kept of the co-occurrence counts after a solve; 0 is a window of ``mstep_every`` batches.
        mstep_carry_over: Counts and step counter live on from one epoch to the next. Off, an epoch of fewer than
            ``mstep_every`` steps never changes the relations.
        mstep_init: First relations: "random" costs divided by K_F, the "reference" code's (not divided: its balance is
            K_F times weaker), or "kmeans" inside each coarse class, which also sets the classifier, where features are
            given.
        learn_relations: Off, the relations stay as they were given.
        reg_ddp: Gradient of L_reg over processes: "global", or 1 / W of it as in the reference code.
        predict_with: Whose predictions count.
    """

    lambdas: tuple[float, ...] = (0.5, 0.5, 2.0)
    temperature: float = 0.9
    pseudo_label: str = "cosine_to_hard"
    soft_epochs: int | None = None
    label_smoothing_coarse: float = 0.0
    reg_ema: float = 0.0
    lambda_m: float | None = None
    balanced: bool = False
    group_prior: str = "proportional"
    lambda_m_after_soft: str = "unchanged"
    neighbours_retrieved: int = 20
    neighbours_per_step: int = 5
    neighbour_mode: str = "forward"
    cross_dataset_neighbours: str = "within"
    ema_decay: float = 0.99
    ema_warmup: bool = True
    ema_buffers: str = "copy"
    mstep_source: str = "teacher"
    mstep_every: int = 20
    mstep_decay: float = 0.5
    mstep_carry_over: bool = True
    mstep_init: str = "kmeans"
    learn_relations: bool = True
    reg_ddp: str = "global"
    predict_with: str = "student"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"FalconConfig: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name, wanted in get_type_hints(type(self)).items():
            if not _fits(getattr(self, name), wanted):
                words = str(wanted) if get_args(wanted) else wanted.__name__
                raise TypeError(f"FalconConfig: {name} must be {words}, got {getattr(self, name)!r}")
        if len(self.lambdas) not in (3, 4) or not all(0 <= x < math.inf for x in self.lambdas):
            raise ValueError(
                f"FalconConfig: lambdas must be three or four finite numbers, none negative, got {self.lambdas!r}"
            )
        for name in ("neighbours_retrieved", "neighbours_per_step", "mstep_every"):
            low = 0 if name == "neighbours_per_step" else 1
            if getattr(self, name) < low:
                raise ValueError(f"FalconConfig: {name} must be at least {low}, got {getattr(self, name)!r}")
        for name in ("ema_decay", "mstep_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"FalconConfig: {name} must be in [0, 1], got {getattr(self, name)!r}")
        for name in ("label_smoothing_coarse", "reg_ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"FalconConfig: {name} must be in [0, 1), got {getattr(self, name)!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"FalconConfig: temperature must be greater than 0, got {self.temperature!r}")
        if self.lambda_m is not None and not 0 <= self.lambda_m < math.inf:
            raise ValueError(f"FalconConfig: lambda_m must be None or not negative, got {self.lambda_m!r}")
        if self.soft_epochs is not None and self.soft_epochs < 1:
            raise ValueError(f"FalconConfig: soft_epochs must be None or at least 1, got {self.soft_epochs!r}")

    @classmethod
    def recommended(cls) -> FalconConfig:
        """Our settings; docs/models/falcon.md says why each differs from the paper's."""
        return cls()

    @classmethod
    def paper(cls) -> FalconConfig:
        """What the paper states, without what only its code has."""
        return cls(
            pseudo_label="soft", lambda_m=0.1, group_prior="equal", neighbours_per_step=20, ema_warmup=False,
            mstep_source="student", mstep_decay=0.0, mstep_init="random",
        )  # fmt: skip

    @classmethod
    def reference(cls) -> FalconConfig:
        """What the public reference code does where it differs from the paper."""
        return cls(
            soft_epochs=30, lambda_m=0.1, lambda_m_after_soft="zero", group_prior="equal", ema_buffers="own",
            mstep_decay=0.0, mstep_carry_over=False, mstep_init="reference", reg_ddp="reference",
        )  # fmt: skip

    @classmethod
    def preset(cls, name: str, **changes: object) -> FalconConfig:
        """A preset by name, "recommended", "paper" or "reference", with changes."""
        presets = {"recommended": cls.recommended, "paper": cls.paper, "reference": cls.reference}
        if name not in presets:
            raise ValueError(f"FalconConfig: preset must be one of {tuple(presets)}, got {name!r}")
        if unknown := sorted(set(changes) - {field.name for field in fields(cls)}):
            raise ValueError(f"FalconConfig: there is no switch {', '.join(unknown)}")
        return replace(presets[name](), **changes)  # type: ignore[arg-type]

    def soft_length(self, epochs: float) -> float:
        """Number of soft epochs of a training of ``epochs``."""
        return self.soft_epochs if self.soft_epochs is not None else 0.3 * epochs

    def tau(self, epoch: int, epochs: float) -> float:
        """Softness of the target in ``epoch``, counted from 1: ``(1 + cos(pi (e - 1) / E_soft)) / 2``, then 0."""
        if self.pseudo_label == "soft":
            return 1.0
        soft = self.soft_length(epochs)
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / soft)) if epoch <= soft else 0.0

    def balance(self, num_fine: int, num_coarse: int, epoch: int, epochs: float) -> float:
        """lambda_M in ``epoch``, counted from 1."""
        if self.lambda_m_after_soft == "zero" and epoch > self.soft_length(epochs):
            return 0.0
        if self.lambda_m is not None:
            return self.lambda_m
        return (1.0 if self.balanced else 0.25) * num_coarse / num_fine

    def decay(self, step: int) -> float:
        """Decay of the teacher after optimiser step ``step``, counted from 0."""
        return min(self.ema_decay, (1 + step) / (10 + step)) if self.ema_warmup else self.ema_decay


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value has the type of a field; whole numbers serve as float, lists as tuples."""
    if isinstance(wanted, UnionType):
        return any(_fits(value, option) for option in get_args(wanted))
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple | list) and all(_fits(item, get_args(wanted)[0]) for item in value)
    if wanted in (int, float):
        return isinstance(value, Integral if wanted is int else Real) and not isinstance(value, bool)
    return isinstance(value, wanted)
