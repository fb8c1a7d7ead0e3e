# Every target sets up what it needs: a virtual environment in .venv and packages from the package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= auto
# Neighbours stay with one worker, where they share compiled kernels, until another has nothing left to do.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test fuzz test-architectures test-models test-cuda lint types format bench bench-cuda clean docs/operators.md
.NOTPARALLEL:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Dependency groups need pip 25.1.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group $*
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-test
	$(PYTEST)

# Every CUDA kernel of the tests for every architecture; make test compiles all for one, and what may differ for others.
test-architectures: $(VENV)/.installed-test
	$(PYTEST) --all-architectures tests/cuda/test_nvrtc.py tests/kernels/test_cuda_matrix_resources.py

# Random models and damaged ones, N of each; failures are saved in build/fuzz.
N ?= 5000
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz.campaign --graphs $(N) --mutants $(N)

test-models: $(VENV)/.installed-test $(VENV)/.installed-bench
	$(BIN)/python -m pytest tests/models

# Programs that use onnxruntime, apart from what the tests need.
CLIENTS_VENV ?= .venv-clients
.PHONY: test-clients clients docs/onnxruntime.md

test-clients:
	$(MAKE) clients VENV=$(CLIENTS_VENV)

# Two of them name different builds of OpenCV; the one without windows, installed last, serves both everywhere.
clients: $(VENV)/.installed-clients
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless
	$(BIN)/python -m pytest tests/clients

docs/onnxruntime.md: $(VENV)/.installed-test
	$(BIN)/python -m tests.dropin.member_table

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy follows folders, not package-dir: give it the installed layout, without what was removed since.
types: $(VENV)/.installed-test
	@rm -rf build/types
	@mkdir -p build/types/onnxplan
	@for path in onnxplan/*; do ln -sfn "../../../$$path" "build/types/$$path"; done
	@for room in compiler kernels runtime; do ln -sfn "../../../$$room" "build/types/onnxplan/$$room"; done
	@for folder in bench catalogue examples; do ln -sfn "../../$$folder" "build/types/$$folder"; done
	cd build/types && "$(abspath $(BIN))/mypy" --config-file ../../pyproject.toml -p onnxplan -p bench -p catalogue -p examples

# The site in build/docs. Warnings, such as of broken links, are errors.
.PHONY: docs
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

docs/operators.md: $(VENV)/.installed-test
	$(BIN)/python -m catalogue

# The parts of D3 that the report page carries, as package-lock.json pins them; needs npm. The result is committed.
.PHONY: d3
d3:
	cd onnxplan/report/vendor && npm ci --no-audit --no-fund && npm run build

# On a machine with a GPU, with the packages that $(PYTHON) has: nothing is installed, no network is needed.
test-cuda:
	$(PYTHON) bench/checkout.py tests.cuda.gpu_run

bench-cuda:
	$(PYTHON) bench/checkout.py bench.cuda

bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.concurrency
	$(BIN)/python -m bench.model_times

clean:
	rm -rf build dist $(VENV) $(CLIENTS_VENV)
