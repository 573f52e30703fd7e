"""The files beside the versions: what they say, and that they take no file's place."""

import os
import re

import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from zoo import serving_files
from zoo.serving_files import FILES, served_name, write_serving_files

LABELS = [str(digit) for digit in range(10)]


def signatures_of(shape, names=("serving_bytes", "classify")):
    """As in export.json, of a model that takes images of this shape."""
    inputs = {
        "serving_default": ("image", "float32", [None, *shape]),
        "serving_uint8": ("image", "uint8", [None, *shape]),
        "serving_bytes": ("image_bytes", "string", [None]),
        "classify": ("inputs", "string", [None]),
    }
    return {
        signature: {"inputs": {key: {"dtype": dtype, "shape": size}}, "outputs": {}}
        for signature, (key, dtype, size) in inputs.items()
        if signature in ("serving_default", "serving_uint8", *names)
    }


def written(base, shape=(28, 28, 1), labels=LABELS, **options):
    base.mkdir(exist_ok=True)
    write_serving_files(base, signatures_of(shape, **options), labels)
    return {path.name: path.read_text("utf-8") for path in base.iterdir()}


def code_blocks(readme):
    return re.findall(r"```(?:sh|python)\n(.*?)```", readme, re.DOTALL)


@pytest.fixture(scope="module")
def parse():
    """Reads a text proto as the server does, by a message that its wheel leaves out."""
    integer = 'type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"'
    file = text_format.Parse(
        f"""
        name: "test_serving_files.proto" package: "test" syntax: "proto3"
        dependency: "google/protobuf/wrappers.proto"
        message_type {{  # session_bundle_config.proto
            name: "BatchingParameters"
            field {{ name: "max_batch_size" number: 1 {integer} }}
            field {{ name: "batch_timeout_micros" number: 2 {integer} }}
            field {{ name: "max_enqueued_batches" number: 3 {integer} }}
            field {{ name: "num_batch_threads" number: 4 {integer} }}
            field {{
                name: "allowed_batch_sizes" number: 6 label: LABEL_REPEATED
                type: TYPE_INT64
            }}
        }}
        message_type {{  # monitoring_config.proto
            name: "PrometheusConfig"
            field {{ name: "enable" number: 1 type: TYPE_BOOL }}
            field {{ name: "path" number: 2 type: TYPE_STRING }}
        }}
        message_type {{
            name: "MonitoringConfig"
            field {{
                name: "prometheus_config" number: 1
                type: TYPE_MESSAGE type_name: ".test.PrometheusConfig"
            }}
        }}
        """,
        descriptor_pb2.FileDescriptorProto(),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())

    def parse(text, name):
        message = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        return text_format.Parse(text, message())

    return parse


def test_models_config(tmp_path):
    config = text_format.Parse(
        written(tmp_path / "lenet5")["models.config"],
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert model.name == "lenet5"
    assert model.base_path == "/models/lenet5"
    assert model.model_platform == "tensorflow"


def test_batching_config(parse, tmp_path):
    text = written(tmp_path / "lenet5")["batching.config"]
    config = parse(text, "test.BatchingParameters")
    sizes = list(config.allowed_batch_sizes)
    # The server does not start otherwise.
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == config.max_batch_size.value == 128
    assert 0 < config.batch_timeout_micros.value <= 10_000
    assert config.num_batch_threads.value > 0
    assert config.max_enqueued_batches.value > 0
    with pytest.raises(text_format.ParseError, match="max_batch"):
        parse(text.replace("max_batch_size", "max_batch"), "test.BatchingParameters")


def test_monitoring_config(parse, tmp_path):
    files = written(tmp_path / "lenet5")
    prometheus = parse(
        files["monitoring.config"], "test.MonitoringConfig"
    ).prometheus_config
    assert prometheus.enable
    assert f"http://localhost:8501{prometheus.path}`" in files["README.md"]


def test_compose_serves_this_folder(tmp_path):
    compose = yaml.safe_load(written(tmp_path / "lenet5")["compose.yaml"])
    serving = compose["services"]["serving"]
    assert serving["volumes"] == [".:/models/lenet5:ro"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in serving["command"])
    assert flags == {
        "port": "8500",
        "rest_api_port": "8501",
        "model_config_file": "/models/lenet5/models.config",
        "monitoring_config_file": "/models/lenet5/monitoring.config",
        "enable_batching": "${BATCHING:-false}",
        "batching_parameters_file": "${BATCHING:+/models/lenet5/batching.config}",
    }
    ports = {port.rpartition(":")[2] for port in serving["ports"]}
    assert ports == {flags["port"], flags["rest_api_port"]}


@pytest.mark.parametrize(
    ("shape", "names", "image", "sections"),
    [
        (
            (28, 28, 1),
            ("serving_bytes", "classify"),
            "28 x 28 x 1",
            [
                "`serving_default` and `serving_uint8`: `image`, `(n, 28, 28, 1)` as",
                "`serving_bytes`: `image_bytes`, PNG or JPEG files of any size",
                "`classify`: a `tf.Example` with `image/encoded`",
            ],
        ),
        (
            (6,),
            ("classify",),
            "6 numbers",
            [
                "`serving_default` and `serving_uint8`: `image`, `(n, 6)` as",
                "`classify`: a `tf.Example` with `image`, 6 floats",
            ],
        ),
    ],
)
def test_readme_has_a_section_for_each_signature(
    shape, names, image, sections, tmp_path
):
    readme = written(tmp_path / "small", shape, names=names)["README.md"]
    assert readme.startswith("# small\n")
    assert f"An image is {image}, as raw" in readme
    _, *received = readme.split("\n### ")
    assert len(received) == len(sections)
    for text, section in zip(received, sections, strict=True):
        assert text.startswith(section)
        assert text.count("```sh\n") == text.count("```python\n") == 1
    assert "$" not in re.sub(r'"\$(PWD|\()', "", readme)


def test_many_labels_are_cut_short(tmp_path):
    labels = [f"class {number}" for number in range(1000)]
    readme = written(tmp_path / "large", labels=labels)["README.md"]
    assert '"class 19"] and 980 more, in labels.txt\n' in readme
    assert "class 20" not in readme


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


def test_labels_cannot_leave_their_line(tmp_path):
    odd = ["```sh", "$name", "${name}", "\x1b[2J", 'a"b', "# title", "é", "a\nb", ""]
    readme = written(tmp_path / "plain")["README.md"]
    hostile = written(tmp_path / "odd", labels=odd)["README.md"].replace("odd", "plain")
    assert code_blocks(hostile) == code_blocks(readme)
    assert hostile.count("\n") == readme.count("\n")
    assert '    ["```sh", "$name", "${name}", "\\u001b[2J", "a\\"b"' in hostile


def test_existing_files_are_left_as_they_are(tmp_path):
    first = written(tmp_path)
    assert set(first) == set(FILES)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }\n")
    (tmp_path / "README.md").unlink()
    (tmp_path / "models.config").unlink()
    (tmp_path / "models.config").symlink_to("elsewhere")
    write_serving_files(tmp_path, signatures_of((32, 32, 3)), LABELS)
    batching = (tmp_path / "batching.config").read_text("utf-8")
    assert batching == "max_batch_size { value: 8 }\n"
    assert (tmp_path / "compose.yaml").read_text("utf-8") == first["compose.yaml"]
    assert "32 x 32 x 3" in (tmp_path / "README.md").read_text("utf-8")
    assert os.readlink(tmp_path / "models.config") == "elsewhere"
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def flush_to_a_full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(serving_files.os, "fsync", flush_to_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_serving_files(tmp_path, signatures_of((28, 28, 1)), LABELS)
    assert list(tmp_path.iterdir()) == []
