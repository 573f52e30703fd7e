"""The manifests in `deploy/`, and `compose.yaml`, against their public schemas; and the
scripts there, run with stand-ins for what a cluster has."""

import ast
import importlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile

import pytest
import yaml

from zoo.distributed import Cluster, read_cluster
from zoo.serving_files import SERVER_IMAGE, TEMPLATES

DEPLOY = pathlib.Path(__file__).parent.parent / "deploy"
KUBERNETES_VERSION = "1.33"


def load(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def check_compose(path):
    return subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", path),
        ],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("path", [DEPLOY, TEMPLATES], ids=lambda path: path.name)
def test_compose(path, tmp_path):
    text = (path / "compose.yaml").read_text().replace("$$", "$")
    (tmp_path / "compose.yaml").write_text(text.replace("$server_image", SERVER_IMAGE))
    result = check_compose(tmp_path / "compose.yaml")
    assert result.returncode == 0, result.stdout
    (tmp_path / "compose.yaml").write_text(text.replace("image:", "imago:"))
    result = check_compose(tmp_path / "compose.yaml")
    assert "imago" in result.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Two tools by name, read as they come: installed, the one is 17,000 files, and the
    other needs another protobuf than TensorFlow."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    tools = ["kubernetes-validate==1.37.0", "kserve==0.21.0"]
    subprocess.run([*command, "--dest", folder, *tools], check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture
def kubernetes_validate(wheels, monkeypatch):
    monkeypatch.syspath_prepend(wheels["kubernetes_validate"])
    return importlib.import_module("kubernetes_validate")


@pytest.fixture(scope="module")
def kserve(wheels):
    """KServe's Python SDK, whose models are generated from its OpenAPI description."""
    with zipfile.ZipFile(wheels["kserve"]) as wheel:
        yield wheel


def test_kubernetes(kubernetes_validate):
    deployment, service = load("kubernetes.yaml")
    for manifest in (deployment, service):
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert f"--port={ports['grpc']}" in container["args"]
    assert f"--rest_api_port={ports['http']}" in container["args"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/v1/models/lenet5"

    container["livenesProbe"] = container.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(deployment, KUBERNETES_VERSION, strict=True)


@pytest.fixture
def training():
    """The service and the job of the workers."""
    return load("kubernetes-training.yaml")


def test_training_on_kubernetes(kubernetes_validate, training):
    service, job = training
    for manifest in (service, job):
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    pod = job["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    (rule,) = (
        r for r in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in r
    )
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert {m["name"] for m in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }

    job["spec"]["completionsMode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError, match="completionsMode"):
        kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts scripts in the place of commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(command, script):
        (folder / command).write_text(f"#!/bin/bash\n{script}\n")
        (folder / command).chmod(0o755)

    return make


TELL = """echo "$*" >> told
if [ "$1" = train ]; then echo "$TF_CONFIG"; fi"""


def test_workers_of_a_kubernetes_job(training, stand_in, tmp_path):
    service, job = training
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    count = job["spec"]["completions"]
    assert count == job["spec"]["parallelism"] == int(variables["WORKERS"])
    (port,) = container["ports"]
    assert port["containerPort"] == service["spec"]["ports"][0]["port"]
    # The names of the pods, as https://kubernetes.io/docs/concepts/workloads/controllers/
    # job/#completion-mode has them, at the service.
    names = [
        f"{job['metadata']['name']}-{index}.{service['metadata']['name']}"
        for index in range(count)
    ]
    stand_in("zoo", TELL)
    for index in range(count):
        result = subprocess.run(
            [*container["command"], *container["args"]],
            env=os.environ | variables | {"JOB_COMPLETION_INDEX": str(index)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        addresses = tuple(f"{name}:{port['containerPort']}" for name in names)
        assert read_cluster({"TF_CONFIG": result.stdout}) == Cluster(addresses, index)
    runs = container["volumeMounts"][0]["mountPath"]
    command = (
        f"train convnet --dataset mnist --output {runs}/convnet --every 200 --resume"
    )
    assert (tmp_path / "told").read_text().splitlines() == [command] * count


SLURM_SCRIPT = DEPLOY / "slurm-train.sh"
SLURM = {
    "SLURM_JOB_ID": "4321",
    "SLURM_JOB_NODELIST": "node[7,9]",
    "SLURM_CPUS_PER_TASK": "4",
}


@pytest.fixture
def slurm(stand_in, monkeypatch):
    """A job of two nodes, whose commands tell `told` how they were called."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    stand_in(
        "scontrol",
        """echo "scontrol $*" >> told
        if [ "$*" = "show hostnames node[7,9]" ]; then printf 'node7\\nnode9\\n'; fi""",
    )
    stand_in(
        "srun",
        """echo "srun $*" >> told
        while [[ $1 == --* ]]; do shift; done
        for SLURM_PROCID in 0 1; do
            export SLURM_PROCID
            "$@" || exit
        done""",
    )


def test_workers_of_a_slurm_job(slurm, stand_in, tmp_path):
    stand_in("zoo", TELL)
    result = subprocess.run(
        [SLURM_SCRIPT], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True
    )
    addresses = ("node7:14321", "node9:14321")
    assert [
        read_cluster({"TF_CONFIG": line}) for line in result.stdout.splitlines()
    ] == [Cluster(addresses, index) for index in range(2)]
    command = "train convnet --dataset mnist --output runs/convnet --every 200 --resume"
    assert (tmp_path / "told").read_text().splitlines() == [
        "scontrol show hostnames node[7,9]",
        "datasets prepare mnist",
        "srun --cpus-per-task=4 --kill-on-bad-exit=1 bash -c worker",
        command,
        command,
    ]


@pytest.mark.parametrize(("failures", "returncode"), [(3, 0), (100, 1)])
def test_slurm_starts_all_workers_again(
    failures, returncode, slurm, stand_in, tmp_path
):
    script = f"""if [ "$1" = datasets ]; then exit; fi
    echo "$SLURM_PROCID" >> started
    [ "$(wc -l < started)" -gt {failures} ]"""
    stand_in("zoo", script)
    result = subprocess.run([SLURM_SCRIPT], cwd=tmp_path)
    assert result.returncode == returncode
    # The stand-in for srun, too, ends when a worker does.
    started = ["0"] * failures + ["0", "1"] if returncode == 0 else ["0"] * 10
    assert (tmp_path / "started").read_text().split() == started


def test_slurm_queues_again_when_time_is_over(slurm, stand_in, tmp_path):
    stand_in("zoo", 'if [ "$1" = train ]; then echo training; exec sleep 60; fi')
    with subprocess.Popen(
        [SLURM_SCRIPT], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == b"training\n"
            process.send_signal(signal.SIGUSR1)
            process.wait(10)
        finally:  # As Slurm does with all that a job has started.
            os.killpg(process.pid, signal.SIGKILL)
    *_, last = (tmp_path / "told").read_text().splitlines()
    assert last == "scontrol requeue 4321"


def shellcheck(script):
    command = shutil.which("shellcheck", path=sysconfig.get_path("scripts"))
    return subprocess.run([command, "-"], input=script, capture_output=True, text=True)


def test_scripts(training):
    _, job = training
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for script in (
        SLURM_SCRIPT.read_text(),
        f"#!/bin/{container['command'][0]}\n{container['args'][0]}",
    ):
        result = shellcheck(script)
        assert result.returncode == 0, result.stdout
        result = shellcheck(script.replace("task=", "tusk="))
        assert "task is referenced but not assigned" in result.stdout


def kserve_fields(kserve, kind):
    """The type of each field of one of KServe's kinds, by its name in manifests."""
    file = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(kserve.read(f"kserve/models/{file}.py")))
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", None) in ("openapi_types", "attribute_map")
    }
    types, names = tables["openapi_types"], tables["attribute_map"]
    return {names[attribute]: kind for attribute, kind in types.items()}


def check_kserve(kserve, value, kind):
    if kind.startswith("V1beta1"):
        fields = kserve_fields(kserve, kind)
        assert value.keys() <= fields.keys()
        for name, content in value.items():
            check_kserve(kserve, content, fields[name])
    elif kind in ("str", "int", "bool"):
        assert isinstance(value, {"str": str, "int": int, "bool": bool}[kind])


def test_kserve(kserve, kubernetes_validate):
    (service,) = load("kserve.yaml")
    check_kserve(kserve, service, "V1beta1InferenceService")
    predictor = service["spec"]["predictor"]
    model = predictor.pop("model")
    assert {"modelFormat", "storageUri"} <= model.keys()
    assert SERVER_IMAGE.endswith(f":{model['runtimeVersion']}")

    # The other fields are those of any pod and container.
    own = ("minReplicas", "maxReplicas", "modelFormat", "runtimeVersion", "storageUri")
    pod = {field: value for field, value in predictor.items() if field not in own}
    container = {field: value for field, value in model.items() if field not in own}
    pod["containers"] = [{"name": "model", "image": SERVER_IMAGE, **container}]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": pod},
        KUBERNETES_VERSION,
        strict=True,
    )

    predictor["model"] = {**model, "storageUrl": "pvc://models/lenet5"}
    with pytest.raises(AssertionError, match="storageUrl"):
        check_kserve(kserve, service, "V1beta1InferenceService")


def test_all_run_the_same_server():
    texts = [path.read_text() for path in DEPLOY.iterdir()]
    images = {
        image for text in texts for image in re.findall(r"tensorflow/serving:\S+", text)
    }
    assert images == {SERVER_IMAGE}
