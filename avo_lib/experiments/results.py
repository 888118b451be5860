"""Finished runs: one JSON file each, ``results/<experiment>/<method>-seed<k>.json``, in nats averaged over images."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import avo_lib
from avo_lib.checks import check_count
from avo_lib.experiments.records import expect, read
from avo_lib.files import CLONE, repository, write_atomically

RESULTS = (CLONE or Path()) / "results"
RUN = {"experiment": str, "method": str, "seed": int, "config": dict, "seconds": float, "epochs": int}
RUN |= {"train.elbo": float, "valid.elbo": float}
TEST = {f"test.{name}": float for name in ("elbo", "kl", "nll", "stderr", "samples", "ess")}

#: What Huang et al. 2018 (arXiv 1809.01818) print for MNIST in Table 1, in nats, with the names of :func:`table`.
PAPER = pd.DataFrame(
    {
        "vae": (84.69, 92.40, 87.50),
        "hvi": (84.51, 92.48, 87.62),
        "avo": (86.15, 90.01, 86.06),
        "avo_half": (87.02, 90.26, 86.12),
    },
    index=["train −ELBO", "test −ELBO", "test NLL"],
).T


def versions() -> dict[str, str]:
    """Versions of what a result was made with; every result carries them."""
    return {"avo_lib": avo_lib.__version__, "torch": torch.__version__, "python": platform.python_version()}


def result_file(experiment: str, method: str, seed: int, folder: Path | str = RESULTS) -> Path:
    """The file of a run's result.

    Raises:
        ValueError: If the seed is impossible, or a name cannot be a file's, so that the result could not be read again.
    """
    if check_count("a seed", seed, 0) >= 2**32:  # of which a CPU would take the lowest 32 bits
        raise ValueError(f"a seed must be a whole number below 2**32, not {seed}")
    for name in (experiment, method):
        if not name or name.startswith(".") or not name.isprintable() or {"/", "\\"} & {*name}:
            raise ValueError(f"{name!r} names no file: take letters that can be printed, no slash, and no dot at first")
    return Path(folder) / experiment / f"{method}-seed{seed}.json"


def read_result(file: Path) -> dict[str, Any]:
    """One run's result, which must name the run as its path does.

    Raises:
        ValueError: If it is damaged or another run's; the message names the file.
        OSError: If it cannot be read.
    """

    def check(result: dict[str, Any]) -> None:
        expect(result, RUN)
        if "test" in result:  # without a KL, if the model's path does not tell it from the rest
            expect(result, {name: TEST[name] for name in TEST if name != "test.kl" or "kl" in result["test"]})
        own = (result["experiment"], f"{result['method']}-seed{result['seed']}.json")
        if own != file.parts[-2:] or not "".join(own).isprintable():
            raise ValueError(f"it says that it is {own[0]}/{own[1]}")

    return read(file, check)


def load_results(folder: Path | str = RESULTS) -> list[dict[str, Any]]:
    """All results in a folder, in the order of their names; hidden folders and files are passed over.

    Raises:
        ValueError: If a file is not a result; the message names it.
        OSError: If a folder or a file cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        return []
    files = [file for part in _visible(folder) if part.is_dir() for file in _visible(part) if file.suffix == ".json"]
    return [read_result(file) for file in sorted(files)]


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def table(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row for each experiment and method: means over seeds in nats.

    The standard error is that between seeds where there are three or more; else that over test images, which says how
    well one trained model is measured, not how much training varies. Seconds are shown where all runs had one device.
    """
    rows = pd.json_normalize(list(results))
    rows = rows.reindex(columns=sorted({*rows, *TEST, "versions.device"}))  # a search has left the test set alone
    grouped = rows.groupby(["experiment", "method"], sort=False)
    between = grouped["test.nll"].sem()
    within = grouped["test.stderr"].mean()
    alike = grouped["versions.device"].nunique() == 1  # seconds of a processor and of a GPU have no mean
    frame = pd.DataFrame(
        {
            "seeds": grouped.size(),
            "train −ELBO": -grouped["train.elbo"].mean(),
            "valid −ELBO": -grouped["valid.elbo"].mean(),
            "test −ELBO": -grouped["test.elbo"].mean(),
            "KL": grouped["test.kl"].mean(),
            "test NLL": grouped["test.nll"].mean(),
            "± s.e.": between.where(grouped.size() >= 3, within),
            "K": grouped["test.samples"].first(),
            "ESS/K": grouped["test.ess"].mean() / grouped["test.samples"].first(),
            "s/epoch": (grouped["seconds"].mean() / grouped["epochs"].mean()).where(alike),
        }
    )
    return frame.reset_index()


def committed(name: str, live: pd.DataFrame, *, within: float | pd.Series | pd.DataFrame) -> pd.DataFrame:
    """The numbers of the run that the repository keeps, after checking that this run agrees with them.

    Chains that accept or reject, and training, amplify the last bit of a sum: on another processor the second digit
    differs. So a chapter shows the numbers of one run, and every later run has to agree with them within their noise.

    Args:
        name: ``<chapter>/<what>``, for ``results/chapters/<chapter>/<what>.json``; three folders deep, apart from the
            results of models. A file that is missing is written from the live numbers: delete it to renew it.
        live: This run's numbers.
        within: The largest difference allowed: one number, one for each column, or a table of the same shape.

    Raises:
        AssertionError: If a number differs by more, or the rows or columns differ; the message says which.
    """
    file = repository("results") / "chapters" / f"{name}.json"
    if not file.exists():
        write_atomically(file, f"{json.dumps(live.to_dict('tight'))}\n".encode())
    kept = pd.DataFrame.from_dict(json.loads(file.read_bytes()), orient="tight")
    if not (live.index.equals(kept.index) and live.columns.equals(kept.columns)):
        raise AssertionError(f"{file} has other rows or columns than this run. Delete it to renew it")
    rows, columns = live.index.tolist(), live.columns.tolist()
    allowed = pd.DataFrame(0.0, live.index, live.columns) + within
    agree = ((live - kept).abs() <= allowed) | (live.isna() & kept.isna())
    here, there, limit = (frame.to_numpy() for frame in (live, kept, allowed))
    if differ := [
        f"row {rows[i]!r}, column {columns[j]!r}: {here[i, j]} here, {there[i, j]} committed, which may differ by "
        f"{limit[i, j]:.2g}"
        for i, j in np.argwhere(~agree.to_numpy())
    ]:
        raise AssertionError("\n".join([f"this run does not agree with {file}", *differ]))
    return kept
