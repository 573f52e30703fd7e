"""The command line as a process on a terminal, in a pipe, and interrupted."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import zoo
from zoo.cli import terminal

EVALUATE = ["evaluate", "lenet5.mnist", "--dataset", "digits-sample"]
EVALUATE += ["--split", "validation"]
NOTE = "note: The model was trained on these images.\n"


def start(*words, **options):
    """Starts the command in a process of its own, with none of its settings."""
    command = [sys.executable, "-P", "-m", "zoo", *map(str, words)]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(command, env=environment, text=True, **options)


def test_without_words_it_helps(run):
    code, output, errors = run()
    assert (code, errors) == (0, "")
    for command in ("list", "train", "predict", "export", "demo"):
        assert command in output
    assert run("--version")[1] == f"gradzoo {zoo.__version__}\n"


def test_unforeseen_errors_are_one_line_with_their_kind(run, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("no digits")

    monkeypatch.setattr(zoo, "list_weights", fail)
    code, _, errors = run("list")
    assert code == 1
    advice = "(`zoo --debug COMMAND` shows where.)"
    assert errors == f"error: ZeroDivisionError: no digits {advice}\n"
    with pytest.raises(ZeroDivisionError):
        run("--debug", "list")


@pytest.mark.parametrize("columns", [40, 55, 70, 80, 120])
@pytest.mark.parametrize("words", ["list", "datasets list"])
def test_tables_break_no_word(words, columns, run, monkeypatch):
    whole = run(*words.split())[1].replace("─", "").split()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output = re.sub(r"\x1b\[\d*m", "", run(*words.split())[1])
    assert max(map(len, output.splitlines())) <= columns
    assert {*whole} <= {*output.replace(": ", " ").split()}
    assert ("\nparameters: 61,706\n" in output) == (columns < 75 and words == "list")


def test_no_text_becomes_an_emoji(capsys):
    terminal.show([{"file": "scan:on:1.png"}])
    assert "scan:on:1.png" in capsys.readouterr().out


def test_json_has_no_other_numbers(capsys):
    terminal.show({"loss": [float("nan"), float("inf"), 1.5]}, True)
    assert json.loads(capsys.readouterr().out) == {"loss": [None, None, 1.5]}


def test_a_missing_backend_is_named():
    program = "import sys; sys.modules['tensorflow'] = None; import zoo.cli.commands;"
    program += "zoo.cli.commands.main()"
    process = subprocess.run(
        [sys.executable, "-P", "-c", program, "info", "lenet5"],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert "Install it, or set KERAS_BACKEND to tensorflow, jax" in process.stderr


@pytest.mark.parametrize(
    ("words", "shown", "note"),
    [(EVALUATE, "accuracy", NOTE), (["predict", "digit.png"], "label", "")],
)
def test_piped_output_is_plain_and_quiet(words, shown, note, tmp_path):
    Image.radial_gradient("L").save(tmp_path / "digit.png")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(*words, **pipes, cwd=tmp_path)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, note)
    assert shown in output
    assert not any(word in output for word in ("\x1b", "\r", "step"))


def test_a_terminal_gets_progress_bars():
    master, slave = pty.openpty()
    process = start(*EVALUATE, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    output = b""
    try:
        while block := os.read(master, 4096):
            output += block
    except OSError:  # How Linux says that the other end is closed.
        pass
    os.close(master)
    assert process.communicate(timeout=300)[1] == NOTE
    assert process.returncode == 0
    assert b"/step" in output
    assert b"\x1b[" in output


def test_interrupted_training_says_how_to_continue(recipe, tmp_path):
    endless = recipe.read_text("utf-8").replace("= 2\n", "= 100000\n")
    recipe.write_text(endless, "utf-8")
    words = ["train", "shallow_mlp", "--recipe", recipe, "--output", tmp_path / "run"]
    process = start(
        *words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Shells start what runs in the background with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoint = tmp_path / "run" / "checkpoint"
    first_epoch = checkpoint / "00001-00000000.checkpoint.npz"
    deadline = time.monotonic() + 300
    try:
        while not first_epoch.exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    advice = "`zoo train --resume` and `zoo publish` resume a run."
    assert errors == f"error: Interrupted. {advice}\n"
    assert len(list(checkpoint.iterdir())) == 2
