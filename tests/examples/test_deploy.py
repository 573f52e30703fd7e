"""The manifests in examples/deploy, and their scripts with fake commands."""

import os
import subprocess
import sys

import pytest
import yaml
from paths import ROOT

from zoo.exporting.serving_files import SERVER_IMAGE, TEMPLATES
from zoo.training.distributed import read_cluster

DEPLOY = ROOT / "examples" / "deploy"
TRAIN = "zoo train convnet --dataset mnist --output {}runs/convnet --every 200 --resume"


def load(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


@pytest.mark.parametrize("folder", [DEPLOY, TEMPLATES], ids=lambda path: path.name)
def test_compose(folder, tmp_path):
    text = (folder / "compose.yaml").read_text("utf-8").replace("$$", "$")
    text = text.replace("$server_image", SERVER_IMAGE)
    (tmp_path / "compose.yaml").write_text(text, "utf-8")
    command = [sys.executable, "-m", "check_jsonschema", tmp_path / "compose.yaml"]
    subprocess.run([*command, "--builtin-schema", "vendor.compose-spec"], check=True)


def test_the_contract_service():
    served = yaml.safe_load((TEMPLATES / "compose.yaml").read_text("utf-8"))
    (compose,) = load("compose.yaml")
    contract = compose["services"]["contract"]
    (service,) = contract["depends_on"]
    assert "healthcheck" in served["services"][service]
    *_, tests = contract["command"][-1].rstrip().splitlines()
    for path in tests.removeprefix("python -m pytest ").split():
        assert (ROOT / path).exists()


def test_kubernetes():
    deployment, service = load("kubernetes.yaml")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    (container,) = pod["spec"]["containers"]
    assert container["image"] == SERVER_IMAGE
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["name"]: port["port"] for port in service["spec"]["ports"]}
    arguments = dict(argument.split("=") for argument in container["args"])
    assert arguments["--port"] == str(ports["grpc"])
    assert arguments["--rest_api_port"] == str(ports["http"])
    (mount,) = container["volumeMounts"]
    name = arguments["--model_name"]
    assert arguments["--model_base_path"] == f"{mount['mountPath']}/{name}"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == f"/v1/models/{name}"
        assert container[probe]["httpGet"]["port"] in ports
    assert container["livenessProbe"]["tcpSocket"]["port"] in ports


def test_kserve():
    (service,) = load("kserve.yaml")
    model = service["spec"]["predictor"]["model"]
    assert SERVER_IMAGE.endswith(f":{model['runtimeVersion']}")
    assert model["storageUri"].endswith(f"/{service['metadata']['name']}")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts scripts in place of commands, which append their arguments to `calls`."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def make(command, script):
        log = f'echo "{command} $*" >> calls'
        (tmp_path / command).write_text(f"#!/bin/bash\n{log}\n{script}\n", "utf-8")
        (tmp_path / command).chmod(0o755)

    make("zoo", 'if [ "$1" = train ]; then echo "$TF_CONFIG"; fi')
    return make


def test_kubernetes_training(fake, tmp_path):
    service, job = load("kubernetes-training.yaml")
    pod = job["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    rule, _ = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}
    (port,) = [port["containerPort"] for port in container["ports"]]
    assert port == service["spec"]["ports"][0]["port"]

    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    count = job["spec"]["completions"]
    assert count == job["spec"]["parallelism"] == int(variables["WORKERS"])
    # An indexed job calls its pods JOB-INDEX, reachable as JOB-INDEX.SUBDOMAIN.
    assert job["spec"]["completionMode"] == "Indexed"
    name = f"{job['metadata']['name']}-{{}}.{pod['spec']['subdomain']}:{port}"
    addresses = tuple(name.format(index) for index in range(count))
    for index in range(count):
        variables["JOB_COMPLETION_INDEX"] = str(index)
        command = [*container["command"], *container["args"]]
        output = subprocess.check_output(command, env=os.environ | variables, text=True)
        assert read_cluster({"TF_CONFIG": output}) == (addresses, index)
    calls = (tmp_path / "calls").read_text("utf-8").splitlines()
    assert calls == [TRAIN.format("/")] * count


def test_slurm_starts_all_workers_again_if_one_fails(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4321")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[7,9]")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    fake("scontrol", r"printf 'node7\nnode9\n'")
    # Runs the two workers one after the other; the first attempt fails.
    fake(
        "srun",
        """while [[ $1 == --* ]]; do shift; done
        SLURM_PROCID=0 "$@" && SLURM_PROCID=1 "$@" && [ $(grep -c srun calls) = 2 ]""",
    )
    script = DEPLOY / "slurm-train.sh"
    lines = subprocess.check_output([script], text=True).splitlines()
    addresses = ("node7:14321", "node9:14321")
    workers = [(addresses, 0), (addresses, 1)]
    assert [read_cluster({"TF_CONFIG": line}) for line in lines] == workers * 2
    attempt = ["srun --cpus-per-task=4 --kill-on-bad-exit=1 bash -c worker"]
    attempt += [TRAIN.format("")] * 2
    assert (tmp_path / "calls").read_text("utf-8").splitlines() == [
        "scontrol show hostnames node[7,9]",
        "zoo datasets prepare mnist",
        *attempt * 2,
    ]
