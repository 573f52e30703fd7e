"""Every command of an export's README, run against a server."""

import json
import re
import subprocess

import numpy as np
import pytest
import yaml

from zoo.exporting.serving_files import SERVER_IMAGE, served_name


@pytest.fixture
def here(serving, tmp_path, monkeypatch):
    """Returns a function that replaces the README's ports with the server's."""
    assert served_name(serving.base) == serving.model
    monkeypatch.chdir(tmp_path)
    address = serving.rest.partition("://")[2]
    return lambda text: text.replace("localhost:8501", address)


def shell(command):
    options = {"capture_output": True, "text": True, "timeout": 20}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], **options)


def documents(text):
    """The JSON documents that follow each other in a text."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def test_every_block_of_the_readme(serving, here, capsys):
    readme = (serving.base / "README.md").read_text("utf-8")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", readme, re.DOTALL)
    answers, namespace = [], {"__name__": "__main__"}
    for language, code in blocks:
        if language == "python":
            exec(compile(here(code), "README.md", "exec"), namespace)
        elif "docker" not in code:
            assert "curl" in code
            result = shell(here(code))
            assert result.returncode == 0, code + result.stderr
            answers += documents(result.stdout)

    status, *predictions, classify = answers
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    signatures = json.loads((serving.base / "1" / "export.json").read_text("utf-8"))
    assert len(answers) == 1 + len(signatures["signatures"]) == 5
    for answer in predictions:
        ((prediction,),) = answer.values()
        assert prediction["label"] == str(prediction["class_id"])
        assert np.argmax(prediction["probabilities"]) == prediction["class_id"]
    # Blank pixels are no 7; the image in the README is one, however it is sent.
    assert [x["predictions"][0]["label"] == "7" for x in predictions] == [0, 0, 1]
    assert classify["results"][0][0][0] == "7"
    assert re.fullmatch(r"\['\d'\]\n", capsys.readouterr().out)


def test_docker_run_mounts_this_folder(serving, tmp_path, monkeypatch):
    """Replaces `docker` with a function that prints its arguments, one per line."""
    readme = (serving.base / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```sh\n(docker run.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    result = shell('docker() { printf "%s\\n" "$@"; }\n' + block)
    arguments = result.stdout.splitlines()
    assert f"{tmp_path}:/models/{serving.model}:ro" in arguments
    assert arguments[-3:] == ["-e", f"MODEL_NAME={serving.model}", SERVER_IMAGE]


def test_health_check_of_the_compose_file(serving, here):
    compose = (serving.base / "compose.yaml").read_text("utf-8")
    health = yaml.safe_load(compose)["services"]["serving"]["healthcheck"]
    cmd, program, option, script = health["test"]
    assert (cmd, program, option) == ("CMD", "bash", "-c")
    host, port = here("localhost:8501").split(":")
    script = script.replace("/dev/tcp/localhost/8501", f"/dev/tcp/{host}/{port}")
    assert subprocess.run([program, option, script], timeout=20).returncode == 0
    script = script.replace(f"/v1/models/{serving.model}", "/v1/models/other")
    assert subprocess.run([program, option, script], timeout=20).returncode != 0
