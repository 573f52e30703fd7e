import warnings

import numpy as np
import pytest

from zoo.callbacks import ExactResume
from zoo.callbacks.resume.checkpoint import CheckpointFolder

STATE = {
    "epoch": 3,
    "run": {"rate": 1e-3, "name": None, 4: [True, float("inf")]},
    "history": {"loss": [0.5, np.float32(0.25)]},
    "variables": [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), "int8"), np.uint8(7)],
}


def test_a_state_is_read_as_it_was_written(tmp_path):
    assert CheckpointFolder(tmp_path).read_newest() is None
    CheckpointFolder(tmp_path).write(3, 0, STATE)
    received = CheckpointFolder(tmp_path).read_newest()
    np.testing.assert_equal(received, STATE)
    assert received["variables"][1].dtype == "int8"


def test_the_last_two_intact_checkpoints_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for batch in range(4):
        folder.write(0, batch, STATE)
    assert [int(path.name[6:14]) for path in folder.files()] == [2, 3]
    folder.files()[-1].write_bytes(b"PK")
    folder = CheckpointFolder(tmp_path)
    with pytest.warns(UserWarning, match="00000-00000003.checkpoint.npz is damaged"):
        assert folder.read_newest() is not None
    # The damaged one is removed, although its name sorts last.
    folder.write(0, 1, STATE)
    assert [int(path.name[6:14]) for path in folder.files()] == [1, 2]


def test_every_altered_byte_is_seen_or_harmless(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.write(0, 0, STATE)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    seen = 0
    # A hundred places hit headers, arrays and the directory at the end of the file.
    for place in rng.integers(0, len(content), 100):
        altered = bytearray(content)
        altered[place] ^= 1 << rng.integers(8)
        path.write_bytes(altered)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                received = folder.read_newest()
            except ValueError:
                seen += 1
                continue
        np.testing.assert_equal(received, STATE)
    assert seen > 50
    path.write_bytes(content[:-9])
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="Every checkpoint is damaged"),
    ):
        folder.read_newest()


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    CheckpointFolder(tmp_path / "run").write(0, 0, STATE)
    assert ExactResume("~/run").has_checkpoint()
