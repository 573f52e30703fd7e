"""The folder of a training run."""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import re
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from zoo.callbacks import ExactResume, GradientNorms
from zoo.callbacks.resume.replicas import gather
from zoo.data.examples import Data, LabeledImages, dataset_name, locate
from zoo.files import PathLike, atomic_write, expand
from zoo.training.opening import TRAINED, read_run
from zoo.training.recipes import Recipe

LOGS = ("log.csv", "gradient_norms.csv")


def check_output_dir(
    path: PathLike | None, resume: bool, norms: bool
) -> pathlib.Path | None:
    """Raises an error if a run cannot start, or cannot be resumed, in a folder."""
    if path is None:
        if resume:
            raise ValueError("`resume` needs a folder. Received: output_dir=None.")
        return None
    folder = expand(path)
    has_checkpoint = ExactResume(folder / "checkpoint").has_checkpoint()
    has_model = (folder / TRAINED).exists()
    if has_checkpoint and not resume:
        raise FileExistsError(
            "The folder holds the checkpoint of another run. Resume that run "
            "(`resume=True`, on the command line --resume), or choose another "
            f"`output_dir` (--output). Received: output_dir={folder}."
        )
    if has_model and not has_checkpoint:
        raise FileExistsError(
            "The folder holds the model of a finished run, whose checkpoint is gone. "
            "Choose another `output_dir` (on the command line --output), or remove "
            f"the folder. Received: output_dir={folder}."
        )
    run: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # A file that is not of a run, or cut off.
        run = read_run(folder)
    is_unfinished = has_checkpoint and not has_model
    if is_unfinished and run.get("gradient_norms", norms) != norms:
        raise ValueError(
            "Resume the run with the `gradient_norms` with which it began (on the "
            f"command line --gradient-norms). Received: gradient_norms={norms}."
        )
    files = [name for name in ("run.json", *LOGS) if (folder / name).exists()]
    if files and not has_checkpoint and "recipe" not in run:
        raise FileExistsError(
            "The folder holds files that the run would replace. Choose another "
            "`output_dir` (on the command line --output), or move them. Received: "
            f"output_dir={folder} with {', '.join(files)}."
        )
    return folder


def describe(
    model: str | keras.Model, data: Data, recipe: Recipe, split: str
) -> dict[str, Any]:
    """Returns the description of a run, with `None` for objects that have no name."""
    fields = dataclasses.asdict(recipe) | {"dataset": dataset_name(data)}
    if not isinstance(model, str):
        fields["model"] = fields["arguments"] = None
    return {"recipe": fields, "split": split}


def start(
    folder: pathlib.Path,
    model: keras.Model,
    description: dict[str, Any],
    data: Data,
    examples: LabeledImages,
    recorder: GradientNorms | None,
) -> None:
    """Writes `run.json`, and removes the logs of a run that left no checkpoint."""
    keras.saving.serialize_keras_object(model)  # Its errors come before training.
    for name in LOGS:
        (folder / name).unlink(missing_ok=True)
    backend = keras.backend.backend()
    versions = {"python": platform.python_version(), "keras": keras.__version__}
    versions[backend] = sys.modules[backend].__version__
    about = {
        "source": locate(data),
        "images": examples.images.shape,
        "categories": examples.categories,
        "normalization": examples.normalization,
    }
    about_run = {"data": about, "versions": versions, "machine": _machine()}
    norms = {"gradient_norms": recorder is not None}
    text = json.dumps({**description, **norms, **about_run}, indent=2)
    with atomic_write(folder / "run.json") as unfinished:
        unfinished.write_text(text + "\n", "utf-8")


def _machine() -> dict[str, Any]:
    """Returns the name of the processor and the number of usable cores."""
    with contextlib.suppress(OSError):  # Only Linux has the file.
        text = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
        if found := re.search(r"model name\s*: (.+)", text):
            return {"cpu": found[1], "cores": len(os.sched_getaffinity(0))}
    return {"cpu": platform.processor(), "cores": os.cpu_count()}


@contextlib.contextmanager
def completing_files(hooks: list[keras.callbacks.Callback]) -> Iterator[None]:
    """Completes the files of callbacks, even if the run is interrupted."""
    resume = hooks and isinstance(hooks[-1], ExactResume) and hooks[-1]
    try:
        with resume.saving_when_stopped() if resume else contextlib.nullcontext():
            yield
    finally:
        for hook in hooks:
            if isinstance(hook, GradientNorms):
                hook.flush()
            # Before training starts, some versions of Keras have no `csv_file`.
            if file := getattr(hook, "csv_file", None):
                file.close()


def save_model(model: keras.Model, folder: pathlib.Path | None) -> None:
    """Writes the model with its optimizer; all workers wait for it."""
    if folder:
        # While it saves, Keras creates an optimizer. Under a distribution, all
        # processes would have to take part in that.
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            with atomic_write(folder / TRAINED) as unfinished:
                model.save(unfinished)
        finally:
            keras.distribution.set_distribution(distribution)
    gather(model, np.zeros(1))
