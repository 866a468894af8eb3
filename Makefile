# make quickstart   train a teacher, a control and a student on digits
# make test         run the tests
# make test-slow    run those that launch whole trainings and install the wheel
# make study        repeat the comparisons in docs/results.md: an hour or more
# make lint         check the style
# make docs         build the site into build/docs
# make resolve      ask whether pip finds the packages, for every Python
# make clean        remove caches; make distclean removes .venv as well
#
# The first of them installs the tested packages into .venv, once: `make
# quickstart` and `make study` those that they need, the others all.
# SEED=1 sets the quickstart's seed, PYTHON=... chooses the interpreter for
# .venv, PYTEST_ARGS='-k mask' picks tests, STUDY_ARGS='--seeds 3' and the like
# go to studies/study.py; STUDY_ARGS='--data cifar10', or a folder with train/
# and test/, is the study on photographs, of hours. `make test WITH_OPS=1` and
# `make venv WITH_OPS=1` add mmcv's compiled ops, which mmdet needs: 6 to 12
# minutes of compiling, once.

.DEFAULT_GOAL := quickstart
.PHONY: quickstart test test-slow study lint docs resolve venv ops clean distclean
# Two sets of packages must not be installed at the same time.
.NOTPARALLEL:

SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin

# A stamp for each set of packages that is installed. It is named after the
# contents of the files that say what to install: when one of them changes,
# there is no stamp of that name and pip runs again.
INSTALL_FILES := setup.cfg setup.py pyproject.toml constraints.txt
SUM := $(firstword $(shell cat $(INSTALL_FILES) | cksum))
SOME := $(VENV)/.installed-some-$(SUM)
ALL := $(VENV)/.installed-all-$(SUM)
# All of them are some of them.
$(SOME): EXTRAS := mm,quickstart
$(SOME): STAMPS := $(SOME)
$(ALL) resolve: EXTRAS := mm,mim,mmdet,mmseg,onnx,quickstart,docs,report,shards,test,tiff
$(ALL): STAMPS := $(SOME) $(ALL)
OPS := $(if $(WITH_OPS),ops)

# A name on the PATH is not enough: pyenv has shims for Pythons that are not
# selected, and Debian's Python comes without the modules that make a venv.
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.10 python3)
USABLE := import ensurepip, sys, venv; \
    sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

quickstart: $(SOME)
	$(BIN)/python tools/quickstart.py --seed $(SEED)

# Two processes, each test file whole in one of them. More threads than cores,
# with several processes at work, would spin.
test: $(ALL) $(OPS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	    -m 'not slow' $(PYTEST_ARGS)

test-slow: $(ALL) $(OPS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load \
	    -m slow $(PYTEST_ARGS)

study: $(SOME)
	$(BIN)/python studies/study.py $(STUDY_ARGS)

lint: $(ALL)
	$(BIN)/ruff check .

# A warning, such as a link that leads nowhere, is an error.
docs: $(ALL)
	$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees docs build/docs
	@echo 'The site begins at build/docs/index.html'

# Needs no environment, and leaves none.
resolve:
	.ci/resolve $(EXTRAS) 3.10 3.11 3.12

venv: $(ALL) $(OPS)

$(BIN)/python:
	@for python in $(CANDIDATES); do \
	    if "$$python" -c '$(USABLE)' > /dev/null 2>&1; then \
	        echo "Creating $(VENV) with $$python"; \
	        mkdir -p $(VENV) && touch $(VENV)/.unfinished; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo 'dmae_mm needs Python 3.10, 3.11 or 3.12 with its venv module, and' \
	    'none of these is one: $(CANDIDATES).' >&2; \
	echo 'Install one (on Debian and Ubuntu: apt-get install python3.11-venv)' \
	    'or say where it is: make PYTHON=/path/to/python' >&2; \
	exit 1

# pip may take a package whose copying was interrupted for an installed one.
# So an unfinished environment is made anew; what pip has downloaded is in its
# cache.
$(SOME) $(ALL):
	@if [ -e $(VENV)/.unfinished ]; then rm -rf $(VENV); fi
	@$(MAKE) --no-print-directory $(BIN)/python
	@touch $(VENV)/.unfinished
	@rm -f $(VENV)/.installed-*
	@echo 'Installing the tested environment into $(VENV):' \
	    '7 to 8 GB and some minutes, only this time'
	$(BIN)/python -m pip install -c constraints.txt \
	    -e '.[$(EXTRAS)]'
	@$(BIN)/python -c 'import cv2' 2> /dev/null || { \
	    echo 'The system lacks libraries that opencv-python draws windows' \
	        'with (libGL and others): taking opencv-python-headless'; \
	    $(BIN)/python -m pip uninstall --yes opencv-python; \
	    $(BIN)/python -m pip install -c constraints.txt --no-deps \
	        --force-reinstall opencv-python-headless; \
	    $(BIN)/python -c 'import cv2'; \
	}
	@touch $(STAMPS)
	@rm $(VENV)/.unfinished

# Looks each time: it takes seconds where the ops are there.
ops: $(ALL)
	$(BIN)/python tools/install_mmcv_ops.py

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find dmae_mm configs examples tools studies tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
