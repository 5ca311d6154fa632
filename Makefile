# Everything runs in .venv, which is made when it is first needed and again when the requirements
# change. It takes Python 3.11 (PYTHON=... for another one) and, that once, a package index.

PYTHON ?= python3.11
ARGS ?=
PORT ?= 5000
MODEL ?= digits-gppdm

BIN := .venv/bin

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help dvc run inspect predict draw publish serve demo sweep compare ablation crossed memory sums options results features latents gpu test test-slow test-browser audit lint ui viz clean

help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: .venv/run.stamp  ## Run the pipeline, for example: make run ARGS="--params=method=joint,seed=1"
	$(BIN)/kedro run --pipeline=continual $(ARGS)

inspect: .venv/run.stamp  ## Show what will be learned, before it is: make inspect ARGS="--params=..."
	$(BIN)/kedro run --pipeline=inspect $(ARGS)

predict: .venv/run.stamp  ## Classify images: make predict ARGS="--params=predict.images=<folder>"
	$(BIN)/kedro run --pipeline=predict $(ARGS)

draw: .venv/run.stamp  ## Draw images of classes: make draw ARGS="--params=draw.classes=3-8,draw.images=16"
	$(BIN)/kedro run --pipeline=draw $(ARGS)

publish: .venv/run.stamp  ## Make what was learnt a version of a registered model in MLflow
	$(BIN)/kedro run --pipeline=publish $(ARGS)

serve: .venv/run.stamp  ## Answer over HTTP on port 5001: make serve MODEL=digits-gppdm ARGS="--port=5002"
	PYTHONPATH=src exec $(BIN)/python -m gppdm_pipeline.serve $(MODEL) $(ARGS)

demo: .venv-demo/run.stamp  ## Try and teach a learner on a local page: make demo ARGS="digits/gppdm/seed_0"
	PYTHONPATH=src exec .venv-demo/bin/python -m gppdm_pipeline.demo $(ARGS)

sweep: .venv/run.stamp  ## Run methods x seeds: make sweep ARGS="--methods=lwf,joint --seeds=0,1,2"
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.sweep $(ARGS)

compare: .venv/run.stamp  ## Compare finished runs: make compare ARGS="--params=benchmark=digits"
	$(BIN)/kedro run --pipeline=compare $(ARGS)

ablation: .venv/run.stamp  ## What each part gives; runs what has no record: make ablation ARGS="--streams=digits"
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/ablation.yml $(ARGS)

crossed: .venv/run.stamp  ## Prototypes x projection x distillation x replay; runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/crossed.yml $(ARGS)

memory: .venv/run.stamp  ## One network or an adapter a task; runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/memory.yml $(ARGS)

sums: .venv/run.stamp  ## What a generator gives beside sums; runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/sums.yml $(ARGS)

options: .venv/run.stamp  ## What options do that are off by default; runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/options.yml $(ARGS)

results: .venv/run.stamp  ## All methods; runs what has no record: make results ARGS="--seeds=0"
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/methods.yml $(ARGS)

features: .venv/run.stamp  ## Methods on features of CIFAR-100 (extra efficientnet); runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/features.yml $(ARGS)

latents: .venv/run.stamp  ## Learning in latents of CIFAR-100 (data/01_raw/taef2); runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/latents.yml $(ARGS)

gpu: .venv/run.stamp  ## Every image of Fashion-MNIST, with a GPU; runs what has no record
	PYTHONPATH=src $(BIN)/python -m gppdm_pipeline.plan benchmarks/gpu.yml $(ARGS)

test: lint  ## Run the checks and the tests, for example: make test ARGS="-k continual"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

test-slow: .venv/dev.stamp  ## Run the tests that take minutes: kills, failing disks, DVC
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow $(ARGS)

test-browser: .venv/dev.stamp  ## Open reports and MLflow in Chromium, which apt installs if it may
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then apt-get update && apt-get install --yes --no-install-recommends chromium; \
		else echo "Install Chromium first, on Debian: sudo apt-get install chromium"; exit 1; fi; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/slow/test_browser.py $(ARGS)

dvc: .venv/dvc.stamp  ## Run what DVC finds changed: make dvc ARGS="--dry"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro $(ARGS)

audit: .venv/dev.stamp  ## Look the pinned requirements up among known vulnerabilities (network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(BIN)/pip-audit --strict --no-deps --disable-pip -r requirements-dev.txt || { \
		echo "Audit failed: a requirement is vulnerable, or could not be looked up (both above)." \
			"Without an answer from the index of vulnerabilities nothing is known."; exit 1; }

lint: .venv/dev.stamp  ## Run the checks alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

ui: .venv/run.stamp  ## Show the runs made, in MLflow on port 5000 (PORT=...)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --port $(PORT) --workers 1

viz: .venv/dev.stamp  ## Show the graph, in kedro-viz
	$(BIN)/kedro viz run --no-browser

clean:  ## Remove .venv and caches; data/, mlflow.db and mlruns/ stay
	rm -rf .venv .venv-demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist

.venv/run.stamp: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# gradio takes an older Pillow than the rest: it is beside .venv, whose packages are behind its own.
.venv-demo/run.stamp: pyproject.toml .venv/run.stamp
	$(BIN)/python -m venv --clear .venv-demo
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
		> $$(.venv-demo/bin/python -c "import site; print(site.getsitepackages()[0])")/base.pth
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check "gradio>=6.0,<7"
	touch $@

.venv/dvc.stamp: requirements-dvc.txt .venv/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dvc.txt
	touch $@

.venv/dev.stamp: requirements-dev.txt requirements-dvc.txt .venv/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
