"""`MLPH.save_pretrained` and `MLPH.from_pretrained`: what comes back, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors")

from c2f_ops._files import signed  # noqa: E402
from c2f_ops.hierarchy import Hierarchy  # noqa: E402
from c2f_ops.models import MLPH  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")

TREE = Hierarchy(("family", "species"), (("gulls", "owls"), ("kea", "tui", "ruru")), (None, (0, 0, 1)), {"source": "x"})
#: The owls have a name more, the order is another one.
OTHER = Hierarchy(("family", "species"), (("owls", "gulls"), ("ruru", "weka", "kea", "tui")), (None, (0, 0, 1, 1)))


def make(hierarchy: object = TREE, **changes: object) -> MLPH:
    given = {
        "backbone": "timm/resnet10t",
        "taps": ("layer3.0", "layer3.1", "layer3.2"),
        "backbone_options": {"layers": (1, 1, 3, 1), "channels": (8, 8, 16, 16), "stem_width": 8},
        "image_size": 32,
        "dim": 12,
        **changes,
    }
    return MLPH(hierarchy, **given)


def same(a: MLPH, b: MLPH) -> bool:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return all(torch.equal(p, q) for p, q in zip(a.eval()(x), b.eval()(x), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "interactions": ((0, 1), (2,)),
            "sqrt_mode": "plus_eps",
            "norm_scope": "joint",
            "pooling": "mean",
            "bias": False,
        },
        {"resolution_statistics": 2, "taps": None, "sqrt_eps": 0.1, "init": "torch"},
    ],
    ids=["mlp", "options", "statistics"],
)
def test_a_model_comes_back(tmp_path, changes) -> None:
    model = make(**changes)
    if model.statistics is not None:
        model.statistics.mean.normal_()
    model.mean = (0.1, 0.2, 0.3)  # of weights by name, which differ from those of the architecture
    model.save_pretrained(tmp_path / "new" / "model")
    again = MLPH.from_pretrained(tmp_path / "new" / "model")
    assert same(again, model) and not again.training
    assert again.hierarchy == TREE and again.hierarchy.meta == TREE.meta
    assert again.mean == model.mean and again.std == tuple(model.std)
    assert json.loads(json.dumps(again.config)) == json.loads(json.dumps(model.config))
    assert again.calibration is None
    assert {path.name for path in (tmp_path / "new" / "model").iterdir()} == {
        "model.safetensors",
        "config.json",
        "hierarchy.json",
    }
    with safetensors.safe_open(tmp_path / "new" / "model" / "model.safetensors", "pt") as file:
        assert file.metadata()["hierarchy"] == TREE.sha256


def test_calibration_goes_along_and_goes_away(tmp_path) -> None:
    model = make()
    model.calibration = {"temperatures": [1.5, 2.0]}
    model.save_pretrained(tmp_path)
    again = MLPH.from_pretrained(tmp_path, hierarchy=TREE)
    assert again.calibration == model.calibration
    again.calibration = None
    again.save_pretrained(tmp_path)  # over the first
    assert MLPH.from_pretrained(tmp_path).calibration is None
    assert not (tmp_path / "calibration.json").exists()


def test_class_counts_alone_are_not_saved(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"made with a Hierarchy, .* got one made with class counts \(2, 3\)"):
        make((2, 3)).save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_another_hierarchy_needs_a_word(tmp_path) -> None:
    model = make()
    model.calibration = {"temperatures": [1.0]}
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"sha256 {TREE.sha256[:12]}, got {OTHER.sha256[:12]}; map_names=True"):
        MLPH.from_pretrained(tmp_path, hierarchy=OTHER)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mapped = MLPH.from_pretrained(tmp_path, hierarchy=OTHER, map_names=True)
    told = [str(warning.message) for warning in seen if "from_pretrained" in str(warning.message)]
    assert told == [
        "MLPH.from_pretrained: 1 of 4 classes of level 'species' are new and keep their initial values: weka",
        "MLPH.from_pretrained: calibration belongs to the other hierarchy and is left",
    ]
    assert mapped.hierarchy == OTHER and mapped.calibration is None
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (family, species), (theirs, names) = model.eval()(x), mapped(x)
    torch.testing.assert_close(theirs, family[:, [1, 0]])
    torch.testing.assert_close(names[:, [0, 2, 3]], species[:, [2, 0, 1]])
    assert mapped.heads[1].weight[1].abs().sum() > 0
    levels = Hierarchy(("order", "species"), TREE.names, TREE.parents)
    with pytest.raises(ValueError, match="other must have levels"):
        MLPH.from_pretrained(tmp_path, hierarchy=levels, map_names=True)
    strange = Hierarchy(("family", "species"), (("a", "b"), ("c", "d")), (None, (0, 1)))
    with pytest.raises(ValueError, match="hierarchy must share class names"):
        MLPH.from_pretrained(tmp_path, hierarchy=strange, map_names=True)


def edited(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["sha256"]
    (folder / "config.json").write_text(json.dumps(signed({**content, **changes})))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "folder must hold config.json, got"),
        (lambda f: flip(f / "config.json"), r"config.json is no(t as it was written| JSON)"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list in place of values by name"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json has no sha256"),
        (lambda f: edited(f, kind="other"), "config.json must be of kind c2f_ops.MLPH, got 'other'"),
        (lambda f: edited(f, format=2), "config.json must have format 1, got 2 of c2f_ops"),
        (lambda f: flip(f / "model.safetensors"), "model.safetensors is not as it was written"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "hierarchy.json").write_text("{}"), "hierarchy.json is not as it was written"),
        (lambda f: (f / "calibration.json").unlink(), "calibration.json is missing"),
    ],
)
def test_damage_is_named(tmp_path, harm, message) -> None:
    model = make()
    model.calibration = {"temperatures": [1.0]}
    model.save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=f"^MLPH.from_pretrained: .*{message}") as error:
        MLPH.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_whose_writing_was_cut_off_is_told(tmp_path, monkeypatch) -> None:
    make().save_pretrained(tmp_path)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("c2f_ops.models.pretrained.write_json", power_cut)
        with pytest.raises(KeyboardInterrupt):
            make(dim=13).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors is not as it was written"):
        MLPH.from_pretrained(tmp_path)
