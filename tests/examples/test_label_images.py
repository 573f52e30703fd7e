"""The example that labels image files with Ray Data, in a process of its own."""

import os

import pytest
from paths import ROOT, run_python
from PIL import Image
from pyarrow import parquet

import zoo

PROGRAM = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False)
import label_images
label_images.main(*sys.argv[1:])
"""


@pytest.mark.endurance
def test_label_images_labels_files_and_reports_damaged_ones(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    images, labels = zoo.load_dataset("digits-sample", as_="numpy")
    expected = {}
    for i in range(0, len(images), 500):
        path = folder / f"{i}.png"
        Image.fromarray(images[i, :, :, 0]).save(path)
        expected[str(path)] = str(labels[i])
    (folder / "damaged.png").write_text("no image", "utf-8")
    (folder / "notes.txt").write_text("no image, and not named like one", "utf-8")

    arguments = [folder, tmp_path / "labels", "lenet5.mnist"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT / "examples", ROOT]))
    # The timeout is against hangs: it takes half a minute on a busy machine.
    run_python("-c", PROGRAM, *arguments, env=environment, timeout=600)

    rows = parquet.read_table(tmp_path / "labels").to_pylist()
    [damaged] = [row for row in rows if row["error"] is not None]
    assert damaged["path"] == str(folder / "damaged.png")
    assert damaged["label"] is damaged["probability"] is None
    read = [row for row in rows if row is not damaged]
    assert {row["path"]: row["label"] for row in read} == expected
    assert all(0.1 < row["probability"] <= 1 for row in read)
