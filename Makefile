# `make demo` and `make test` need Python 3.11 or newer, and pip.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
TESTS ?= tests
MARK ?= not endurance and not runtimes and not browser and not site
PROCESSES ?= auto
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: demo play test test-backends test-all lint docs site redrawn results bench bench-diagnosis \
	clean

# A tour of about a minute: weights, gradients, a table, a figure, an export.
demo: $(INSTALLED)
	$(BIN)/zoo demo

# A page to draw on, at http://localhost:8000. Needs npm, too.
play:
	$(MAKE) .venv-play/.installed VENV=.venv-play EXTRAS=sample,onnx
	.venv-play/bin/python play/prepare.py
	.venv-play/bin/python -m http.server --directory play --bind 127.0.0.1 8000

# The tests of a change, on TensorFlow.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -m '$(MARK)' --numprocesses $(PROCESSES) --maxprocesses 4 --dist worksteal

# The builders and callbacks on the other two Keras backends.
BACKEND_TESTS = tests/callbacks tests/zoo/exporting/test_backends.py \
	$(patsubst %,tests/zoo/models/test_%.py,blueprint convnet inspection lenet1998 mlp)
BACKENDS = VENV=.venv-backends PACKAGES='jax torch==2.13.0'
test-backends:
	KERAS_BACKEND=jax $(MAKE) test $(BACKENDS) TESTS="$(BACKEND_TESTS)"
	KERAS_BACKEND=torch $(MAKE) test $(BACKENDS) TESTS="$(BACKEND_TESTS)"

# Everything, before a release: also kills, hostile requests, workers, Keras' own tests,
# other runtimes, the oldest versions, every Python version, the page and the site.
test-all: lint test test-backends
	$(MAKE) test MARK='endurance and not alone'
	$(MAKE) test MARK=alone
	$(MAKE) test VENV=.venv-oldest PACKAGES='-c tests/oldest.txt'
	KERAS_BACKEND=jax $(MAKE) test $(BACKENDS) MARK=endurance \
		TESTS='tests/callbacks tests/zoo/training/test_distributed_jax.py'
	KERAS_BACKEND=torch $(MAKE) test $(BACKENDS) MARK=endurance TESTS=tests/callbacks/gradients
	$(MAKE) test VENV=.venv-runtimes EXTRAS=dev,onnx,litert,openvino MARK=runtimes
	REQUIRE_BROWSER=1 $(MAKE) test VENV=.venv-browser EXTRAS=dev,onnx,browser \
		MARK=browser PROCESSES=0
	$(MAKE) docs
	$(MAKE) test MARK=site

# Style, layers, types, and the budgets of lines.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python .ci/budgets.py

# The tables in README.md and docs/results.csv, the figures in docs/cards/, and the site
# in site/, with the page to draw on. Needs npm, too.
docs:
	$(MAKE) site VENV=.venv-docs EXTRAS=dev,onnx

site: $(INSTALLED)
	for name in tables cards models notebooks; do \
		TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python docs/$$name.py || exit; done
	$(BIN)/zensical build --clean --strict
	$(BIN)/python play/prepare.py --output site/play

# The accuracy on digits as people draw them, for the cards.
redrawn: $(INSTALLED)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/redrawn_digits.py

# The results of papers, on all of MNIST, in docs/results/: hours, but resumable.
results: $(INSTALLED)
	for name in schoenholz2017 glorot2010 lenet1998; do \
		$(BIN)/python docs/results/$$name.py || exit; done

# Every figure that README.md and docs/ quote.
bench: $(INSTALLED)
	for name in latency checkpoints data distributed gradient_norms; do \
		$(BIN)/python benchmarks/$$name.py || exit; done
	$(BIN)/python benchmarks/gradient_norms.py --jit
	$(MAKE) .venv-backends/.installed $(BACKENDS)
	KERAS_BACKEND=jax .venv-backends/bin/python benchmarks/gradient_norms.py
	KERAS_BACKEND=torch .venv-backends/bin/python benchmarks/gradient_norms.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/time_to_accuracy.py
	$(MAKE) .venv-runtimes/.installed VENV=.venv-runtimes EXTRAS=dev,onnx,litert,openvino
	PYTHONPATH=tests/helpers .venv-runtimes/bin/python benchmarks/serving.py
	$(MAKE) .venv-browser/.installed VENV=.venv-browser EXTRAS=dev,onnx,browser
	.venv-browser/bin/python play/prepare.py
	PYTHONPATH=tests/helpers .venv-browser/bin/python benchmarks/page.py

# The diagnosis of gradients on networks that did not set its thresholds.
bench-diagnosis: $(INSTALLED)
	$(BIN)/python benchmarks/diagnosis.py

clean:
	rm -rf .venv* dist demo site .*_cache

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' $(PACKAGES)
	touch $(INSTALLED)
