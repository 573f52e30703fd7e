# `make demo` and `make test` need nothing but Python 3.11 and pip.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
TESTS ?= tests --ignore=tests/zoo/test_runtimes.py
MARK ?= not endurance
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-endurance test-oldest test-backends test-runtimes lint docs bench bench-gradients bench-serving clean

demo: $(INSTALLED)
	$(BIN)/zoo demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -m '$(MARK)' --numprocesses auto --maxprocesses 4 --dist worksteal \
		--cov=zoo --cov=callbacks --cov-report=term

# Kills, hostile requests, several workers: minutes each.
test-endurance:
	$(MAKE) test MARK="endurance and not alone"
	$(MAKE) test MARK=alone

# The oldest Keras and TensorFlow that setup.cfg admits.
test-oldest:
	$(MAKE) test VENV=.venv-oldest PACKAGES="-c tests/oldest.txt"

# What works on every Keras backend, on the two that are not the default.
test-backends: TESTS = tests/callbacks tests/zoo/test_builders.py tests/serving/test_backends.py
test-backends:
	KERAS_BACKEND=jax $(MAKE) test VENV=.venv-jax PACKAGES=jax \
		TESTS="$(TESTS) tests/zoo/test_distributed_jax.py" MARK=
	KERAS_BACKEND=torch $(MAKE) test VENV=.venv-torch PACKAGES=torch==2.13.0 \
		TESTS="$(TESTS)" MARK=

# Exports for other runtimes, which have extras of their own.
test-runtimes:
	$(MAKE) test VENV=.venv-runtimes EXTRAS=dev,onnx,litert,openvino \
		TESTS=tests/zoo/test_runtimes.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# Types are checked in the package as it is installed, where callbacks/ is zoo.callbacks.
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	cd build/installed && $(abspath $(BIN))/mypy --config-file $(abspath setup.cfg) -p zoo

# The tables in README.md and results.csv, from the cards.
docs: $(INSTALLED)
	$(BIN)/python docs/tables.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/prediction.py
	$(MAKE) bench-gradients
	$(MAKE) bench-gradients OPTIONS=--jit
	KERAS_BACKEND=jax $(MAKE) bench-gradients VENV=.venv-jax PACKAGES=jax
	KERAS_BACKEND=torch $(MAKE) bench-gradients VENV=.venv-torch PACKAGES=torch==2.13.0
	$(MAKE) bench-serving VENV=.venv-runtimes EXTRAS=dev,onnx,litert,openvino

bench-gradients: $(INSTALLED)
	$(BIN)/python benchmarks/gradient_norms.py $(OPTIONS)

bench-serving: $(INSTALLED)
	PYTHONPATH=tests/serving taskset --cpu-list 0 $(BIN)/python benchmarks/serving.py

clean:
	rm -rf .venv* build dist demo *.egg-info .coverage .*_cache

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' $(PACKAGES)
	touch $(INSTALLED)
