import os
import re

import pytest
import yaml

from zoo.exporting.serving_files import GENERATED, served_name, write_serving_files

FILES = {"README.md", "compose.yaml"}


def written(base, shape=(28, 28, 1), version=1, takes_raw_pixels=True):
    """The files beside the versions of a model that takes images of this shape."""
    base.mkdir(exist_ok=True)
    inputs = {"serving_default": {"image": {"shape": [None, *shape]}}}
    if len(shape) > 1:
        inputs["serving_bytes"] = {"image_bytes": {"shape": [None]}}
    signatures = {name: {"inputs": x} for name, x in inputs.items()}
    contract = {"signatures": signatures, "takes_raw_pixels": takes_raw_pixels}
    write_serving_files(base / str(version), contract)
    return {path.name: path.read_text("utf-8") for path in base.iterdir()}


def test_compose_serves_this_folder(tmp_path):
    compose = yaml.safe_load(written(tmp_path / "lenet5")["compose.yaml"])
    serving = compose["services"]["serving"]
    assert serving["volumes"] == [".:/models/lenet5:ro"]
    # The image serves /models/$MODEL_NAME, and listens on these ports.
    environment = {"MODEL_NAME": "lenet5", "TF_ENABLE_ONEDNN_OPTS": "1"}
    assert serving["environment"] == environment
    ports = {port.rpartition(":")[2] for port in serving["ports"]}
    assert ports == {"8500", "8501"}


SECTIONS = {
    (28, 28, 1): [
        "`serving_default` and `serving_uint8`: `image`, (n, 28, 28, 1) as",
        "`serving_bytes`: `image_bytes`, PNG or JPEG files of any size",
        "`classify`: a `tf.Example` with `image/encoded`",
    ],
    (6,): [
        "`serving_default` and `serving_uint8`: `image`, (n, 6) as",
        "`classify`: a `tf.Example` with `image`, 6 floats",
    ],
}


@pytest.mark.parametrize(("shape", "sections"), SECTIONS.items())
def test_readme_has_a_section_for_each_signature(shape, sections, tmp_path):
    readme = written(tmp_path / "small", shape)["README.md"]
    first_line, title, *_ = readme.splitlines()
    assert first_line.encode().startswith(GENERATED)
    assert title == "# small"
    assert f"images of the shape ({', '.join(map(str, shape))}), with" in readme
    _, *received = readme.split("\n### ")
    assert len(received) == len(sections)
    for text, section in zip(received, sections, strict=True):
        assert text.startswith(section)
        assert text.count("```sh\n") == 1
    assert "$" not in re.sub(r'"\$(PWD|\()|\$signature', "", readme)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("lenet5", "lenet5"),
        ("LeNet-5.mnist_v1", "LeNet-5.mnist_v1"),
        ("my model (2)", "my_model_2"),
        ("a\"b'c`d", "a_b_c_d"),
        ("$HOME$(id)", "HOME_id"),
        ("a\nb: c\n#d", "a_b_c_d"),
        ("--privileged", "privileged"),
        ("a:b\\c", "a_b_c"),
        ("数字", "model"),
    ],
)
def test_odd_names_reach_no_file(folder, name, tmp_path):
    assert served_name(tmp_path / folder) == name
    files = written(tmp_path / folder)
    plain = written(tmp_path / "plain")
    assert files == {file: text.replace("plain", name) for file, text in plain.items()}


def test_name_is_that_of_the_folder_however_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "lenet5").mkdir()
    monkeypatch.chdir(tmp_path / "lenet5")
    assert served_name(".") == served_name("../lenet5/") == "lenet5"
    assert served_name("/") == "model"


def test_readme_describes_the_last_version(tmp_path):
    first = written(tmp_path)
    assert set(first) == FILES
    second = written(tmp_path, (6,), version=2)
    assert "Version 1 takes images of the shape (28, 28, 1)" in first["README.md"]
    assert "Version 2 takes images of the shape (6)" in second["README.md"]
    assert "28" not in second["README.md"]
    assert second["compose.yaml"] == first["compose.yaml"]


@pytest.mark.parametrize("takes_raw_pixels", [True, False])
def test_readme_says_who_scales_the_pixels(takes_raw_pixels, tmp_path):
    readme = written(tmp_path, takes_raw_pixels=takes_raw_pixels)["README.md"]
    assert ("[0, 255], which the graph scales" in readme) is takes_raw_pixels
    assert ("which the graph does not scale" in readme) is not takes_raw_pixels


def test_files_of_the_user_are_kept(tmp_path):
    own = {"README.md": "# My project\n", "compose.yaml": "services: {}\n"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    assert written(tmp_path) == own
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").symlink_to("elsewhere")
    with pytest.raises(FileNotFoundError, match="README"):
        written(tmp_path)  # Reads the link, which leads nowhere.
    assert os.readlink(tmp_path / "README.md") == "elsewhere"
    assert {path.name for path in tmp_path.iterdir()} == FILES
