# Everything people do here, each one command.
.PHONY: repository check demo train install browser postgresql test test-all chaos fuzz lint style types audit format params study ui server bench fonts lock clean

VENV := .venv
PYTHON := $(VENV)/bin/python
RUN := . $(VENV)/bin/activate &&
# Where an image for containers sets it, each stage and test would compile TensorFlow, MLflow and the rest anew: 8 s.
unexport PYTHONDONTWRITEBYTECODE

demo: repository install   ## the whole pipeline on drawn images, then the two phases side by side
	$(RUN) dvc repro && frostline compare
	@git diff --quiet HEAD -- dvc.lock reports || echo "dvc.lock and reports/ now differ from the committed ones, which are of another kind" \
	    "of processor: it rounds otherwise. \`git checkout HEAD -- dvc.lock reports\` brings those back," \
	    "\`dvc repro\` yours."

train: repository install  ## your own pictures: make train PICTURES=FOLDER; ARGS="--weights random" adds options
	@$(RUN) frostline train $(if $(PICTURES),"$(PICTURES)") $(ARGS)
	@[ "$$VIRTUAL_ENV" = "$(CURDIR)/$(VENV)" ] || echo "before these, once per terminal:  source $(VENV)/bin/activate"

# Before anything is installed, and without git: DVC would say it after that.
repository:
	@place=$$PWD; while [ "$$place" ] && ! [ -e "$$place/.git" ]; do place=$${place%/*}; done; [ -e "$$place/.git" ] || { \
	    echo "error: this is no git repository, which DVC needs: get Frostline with \`git clone\`, not as a zip file"; exit 1; }

# The first Python that TensorFlow 2.21 has: PYTHON3=python3.12 names another.
PYTHON3 = $(shell for name in python3 python3.13 python3.12 python3.11; do \
    "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo "$$name" && break; done)
UV = $(shell command -v uv || echo $(VENV)/bin/uv)
EXTRAS := serve export sweeps server audit hub gpu dev

# GPU=1, also for demo and train: with CUDA's libraries, from the same lock file.
install: $(VENV)/.installed-$(if $(filter-out 0,$(GPU)),gpu,core)    ## what `make demo` needs; GPU=1: to compute on a GPU; all else: `make install-dev`
.PHONY: $(EXTRAS:%=install-%)
$(EXTRAS:%=install-%): install-%: $(VENV)/.installed-%    ## what an extra of pyproject.toml needs, too

$(VENV)/.installed-%: uv.lock pyproject.toml | $(PYTHON)
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet --disable-pip-version-check 'uv>=0.9' || { \
	    echo "error: uv cannot be fetched. Is there a network? Behind a proxy: export HTTPS_PROXY=http://HOST:PORT"; exit 1; }
	@echo "fetching and installing packages into $(VENV)$(if $(filter core,$*),: 2.7 GB at first), which takes minutes"
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync $$([ -t 2 ] || echo --quiet) --frozen --inexact --python $(PYTHON) $(if $(filter-out core,$*),--extra $*)
	@touch $@

$(PYTHON):
	@[ "$(PYTHON3)" ] || { echo "error: TensorFlow 2.21 needs Python 3.11, 3.12 or 3.13; python3 here is" \
	    "$$(python3 --version 2>&1). Install one of these, or name it: make PYTHON3=/path/to/python3.12 install." \
	    "Without rights to install, uv (docs.astral.sh/uv) has them: uv python install 3.12"; exit 1; }
	@$(PYTHON3) -m venv $(VENV) || { rm -f $(PYTHON); echo "error: no environment could be made. On Debian, Ubuntu, WSL2:" \
	    "sudo apt install python3-venv; then the same command again"; exit 1; }

# Each collects its own files only: to import all of them takes a quarter of a minute.
KINDS := ray postgresql browser chaos slow long
UNMARKED := not ($(subst $() , or ,$(KINDS)))

check: style             ## style, types and the quick tests
	@$(MAKE) --no-print-directory -j2 types test-unmarked

test: install-dev browser    ## what a change should pass: all but the tests that are long, break things or need PostgreSQL
	@$(MAKE) --no-print-directory --keep-going -j1 test-most test-ray test-browser

test-all: install-dev browser postgresql    ## the whole test suite, all kinds in any case
	@$(MAKE) --no-print-directory --keep-going -j1 test-most $(filter-out test-slow,$(KINDS:%=test-%))

.PHONY: test-unmarked test-most $(KINDS:%=test-%)
test-unmarked test-browser: XDIST := -n auto
test-most test-slow test-long: XDIST := -n auto --no-loadscope-reorder  # tests/pipeline first: what takes longest would end alone
$(filter-out test-long,$(KINDS:%=test-%)): ALL_BUT := and not long
# In memory where 8 GB of it are free: most of them make an MLflow store, whose many small writes wait for a disk.
MEMORY := $(shell df --output=avail,target -B1G /dev/shm 2>/dev/null | awk '$$1 + 0 >= 8 {print $$2}')
test-unmarked test-most test-slow test-long: export TMPDIR := $(or $(TMPDIR),$(MEMORY),/tmp)
test-unmarked: install-dev   # no file all of which is marked
	$(RUN) pytest $(XDIST) -m "$(UNMARKED)" $$(grep -rL --include='test_*.py' '^pytestmark' tests | sort)

test-most: install-dev   # the unmarked and the slow, so that they are collected once
	$(RUN) pytest $(XDIST) -m "not ($(subst $() , or ,$(filter-out slow,$(KINDS))))" tests/pipeline tests

$(KINDS:%=test-%): test-%: install-dev    ## one kind alone; all are named in pyproject.toml
	$(RUN) pytest $(XDIST) -m "$* $(ALL_BUT)" $$(grep -rlw --include='*.py' mark.$* tests | sort)

browser:                 ## Chromium for the browser tests, where Debian's package can be had; they are skipped without
	@command -v chromium || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; } || true

postgresql:              ## PostgreSQL for `make server` and its tests, where Debian's package can be had
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql; } || true

chaos: install-dev           ## kill stages, break disks, stores and servers, recover, compare every byte (hours)
	$(PYTHON) tests/chaos/chaos.py $(ARGS)

fuzz: install-dev            ## 50,000 damaged images: no crash, no hang, bounded memory
	$(PYTHON) tests/fuzz/fuzz_images.py $(ARGS)

lint: style types            ## what the code says, without running it
style: install-dev
	$(RUN) ruff check . && ruff format --check .
types: install-dev
	$(RUN) mypy

audit: install-dev           ## known vulnerabilities among the locked packages
	$(PYTHON) .ci/audit.py

format: install-dev
	$(RUN) ruff check --fix . && ruff format .

params: install          ## write conf/'s composition to params.yaml; ARGS="data=kaggle weights=imagenet" overrides
	$(PYTHON) -m frostline.project.params $(ARGS)

study: install           ## answers from many trainings: make study STUDY=worth_it, depth, more_data or recipes
	$(RUN) python -m frostline.sweep -m study=$(or $(STUDY),worth_it) $(ARGS)

ui: PORT := 5000
ui: install              ## browse the runs at http://127.0.0.1:5000; PORT=number overrides
	$(RUN) MLFLOW_BACKEND_STORE_URI="$$(python -m frostline.tracking.places)" && export MLFLOW_BACKEND_STORE_URI && \
	    MLFLOW_DISABLE_TELEMETRY=true mlflow ui --host 127.0.0.1 --port $(PORT)

server: HOST := 127.0.0.1
server: PORT := 5000
server: install-server postgresql  ## an MLflow server on PostgreSQL, to share; HOST=address PORT=number override
	$(PYTHON) -m frostline.tracking.server --host $(HOST) --port $(PORT)

bench: install           ## side by side with a plain Keras script, and against the machine's limits
	$(PYTHON) benchmarks/vs_keras.py
	$(PYTHON) benchmarks/vs_tf_data.py
	$(PYTHON) benchmarks/roofline.py

fonts: install-dev           ## make the fonts of pictures again from Noto's (on Debian 12; the same bytes)
	$(PYTHON) .ci/fonts.py

lock: install-dev        ## pin what pyproject.toml allows, with hashes; requirements.lock is the same for pip
	$(UV) lock --upgrade
	$(UV) export --quiet --frozen --extra dev --no-emit-project --no-header --no-annotate \
	    --output-file requirements.lock

clean:                   ## caches only; results and runs stay
	rm -rf .frostline .mypy_cache .ruff_cache .hypothesis
