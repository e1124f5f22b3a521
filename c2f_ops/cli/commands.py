"""The commands of `c2f`: this is where each gets its name."""

from __future__ import annotations

from typing import Annotated

import typer

from . import bench, contrastive, data, discover, evaluate, falcon, mlph, predict, resolutions, selfsup

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _common(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Coarse-to-fine visual recognition."""


def _print_info() -> None:
    """Show what was built, what this machine has and which backends work."""
    from .._info import format_info, info

    print(format_info(info()))


app.command("evaluate")(evaluate.evaluate_run)
app.command("predict")(predict.predict_images)
app.command("resolutions")(resolutions.search)
app.command("info")(_print_info)
app.command("embed")(selfsup.embed_images)

_train = typer.Typer(no_args_is_help=True, help="Train a model.")
app.add_typer(_train, name="train")
_train.command("contrastive")(contrastive.train_contrastive)
_train.command("falcon")(falcon.train_falcon)
_train.command("mlph")(mlph.train_mlph)
_train.command("selfsup")(selfsup.train_selfsup)

_discover = typer.Typer(no_args_is_help=True, help="Discover fine classes in embeddings that have coarse labels only.")
app.add_typer(_discover, name="discover")
_discover.command("fit")(discover.fit)
_discover.command("predict")(discover.predict)
_discover.command("relations")(discover.relations)
_discover.command("estimate-k")(discover.estimate_k)
_discover.command("eval")(discover.evaluate)

_data = typer.Typer(no_args_is_help=True, help="Look at data.")
app.add_typer(_data, name="data")
_data.command("check")(data.check)

_bench = typer.Typer(no_args_is_help=True, help="Measure an op against eager torch and torch.compile.")
app.add_typer(_bench, name="bench")
_bench.command("pool")(bench.bench_pool)
_bench.command("falcon-loss")(bench.bench_falcon_loss)
_bench.command("class-attentive")(bench.bench_class_attentive_loss)
