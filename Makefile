# Everything people do here, each one command.
.PHONY: check demo install browser postgresql test chaos fuzz lint audit format params ui server bench lock clean

VENV := .venv
PYTHON := $(VENV)/bin/python
RUN := . $(VENV)/bin/activate &&

demo: install            ## the whole pipeline on drawn images, then the two phases side by side
	$(RUN) dvc repro && frostline compare

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Each collects its own files only: to import all of them takes 20 s.
KINDS := ray postgresql browser chaos slow
UNMARKED := not ($(subst $() , or ,$(KINDS)))

check: lint              ## style, types and the quick tests
	@$(MAKE) --no-print-directory test-unmarked

test: install browser postgresql    ## the whole test suite: each kind of tests in processes of its own, all kinds in any case
	@$(MAKE) --no-print-directory --keep-going -j1 test-unmarked $(KINDS:%=test-%)

.PHONY: test-unmarked $(KINDS:%=test-%)
test-unmarked test-slow: XDIST := -n auto
test-unmarked: install
	$(RUN) pytest $(XDIST) -m "$(UNMARKED)"

$(KINDS:%=test-%): test-%: install    ## one kind alone; all are named in pyproject.toml
	$(RUN) pytest $(XDIST) -m $* $$(grep -rlw --include='*.py' mark.$* tests)

browser:                 ## Chromium for the browser tests, where Debian's package can be had; they are skipped without
	@command -v chromium || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; } || true

postgresql:              ## PostgreSQL for `make server` and its tests, where Debian's package can be had
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql; } || true

chaos: install           ## kill stages, break disks, stores and servers, recover, compare every byte (hours)
	$(PYTHON) tests/chaos/chaos.py $(ARGS)

fuzz: install            ## 50,000 damaged images: no crash, no hang, bounded memory
	$(PYTHON) tests/fuzz/fuzz_images.py $(ARGS)

lint: install            ## style and types
	$(RUN) ruff check . && ruff format --check . && mypy

audit: install           ## known vulnerabilities among the locked packages
	$(PYTHON) .ci/audit.py

format: install
	$(RUN) ruff check --fix . && ruff format .

params: install          ## write conf/'s composition to params.yaml; ARGS="data=kaggle weights=imagenet" overrides
	$(PYTHON) -m frostline.config.load $(ARGS) > .params.tmp && mv .params.tmp params.yaml

ui: install              ## browse the runs at http://127.0.0.1:5000
	$(RUN) MLFLOW_DISABLE_TELEMETRY=true mlflow ui --host 127.0.0.1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlruns/mlflow.db}"

server: HOST := 127.0.0.1
server: PORT := 5000
server: install postgresql  ## an MLflow server on PostgreSQL, to share; HOST=address PORT=number override
	$(PYTHON) -m frostline.tracking.server --host $(HOST) --port $(PORT)

bench: install           ## side by side with a plain Keras script, and against the machine's limits
	$(PYTHON) benchmarks/vs_keras.py
	$(PYTHON) benchmarks/vs_tf_data.py
	$(PYTHON) benchmarks/roofline.py

lock:                    ## pin what pyproject.toml allows, with hashes (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --output-file requirements.lock

clean:                   ## caches only; results and runs stay
	rm -rf .frostline .mypy_cache .ruff_cache .hypothesis
