# Everything needs only Python >= 3.11, pip, make and git. `make demo` and `make test` each set up the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where this is set, every process would compile all of torch and transformers anew: 7 of 12 seconds of a worker's start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow check kinds demo-seeds study blo-study am-study yolo overfit-student bench torture lock format clean

demo: $(READY)
	$(BIN)/pipeline run stages.yaml --weak=point+class --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house_rules.py

kinds: $(READY)
	$(BIN)/python -m benchmarks.kinds

demo-seeds: $(READY)
	$(BIN)/python -m benchmarks.demo_seeds

LEDGER := docs/ledgers/study.jsonl

study: $(READY)
	$(BIN)/python -m benchmarks.omni_study --ledger=$(LEDGER)
	test -z "$$OMNIMASK_DATA" || \
	  $(BIN)/python -m benchmarks.omni_study --ledger=$(LEDGER) --worlds penn-fudan car-parts --data="$$OMNIMASK_DATA"
	$(BIN)/python -m benchmarks.omni_study --ledger=$(LEDGER) --write=docs/results.md --plot=docs/study.png

BLO_LEDGER := docs/ledgers/blo_inst.jsonl

blo-study: $(READY)
	$(BIN)/python -m benchmarks.blo_inst --ledger=$(BLO_LEDGER)
	test -z "$$OMNIMASK_DATA" || \
	  $(BIN)/python -m benchmarks.blo_inst --ledger=$(BLO_LEDGER) --worlds penn-fudan car-parts --data="$$OMNIMASK_DATA"
	$(BIN)/python -m benchmarks.blo_inst --ledger=$(BLO_LEDGER) --write=docs/results.md \
	  $${OMNIMASK_DATA:+--data="$$OMNIMASK_DATA"}

AM_LEDGER := docs/ledgers/am_sam.jsonl

am-study: $(READY)
	test -n "$$OMNIMASK_DATA" || { echo "expected the folder of the data sets in OMNIMASK_DATA" >&2; exit 1; }
	$(BIN)/python -m benchmarks.am_sam --ledger=$(AM_LEDGER) --data="$$OMNIMASK_DATA"
	$(BIN)/python -m benchmarks.am_sam --ledger=$(AM_LEDGER) --write=docs/results.md

YOLO_VENV := .venv-yolo
YOLO := $(YOLO_VENV)/bin

# ultralytics is under AGPL-3.0: it has an environment of its own, and nothing else here needs it.
yolo: $(YOLO_VENV)/.ready
	$(YOLO)/python -m pytest tests/teachers/test_yolo.py tests/teachers/test_yolo_weights.py tests/teachers/test_yolo_file.py
	$(YOLO)/pipeline run configs/blo-inst-yolo.yaml
	$(YOLO)/pipeline run stages.yaml --weak=point+class --set=models.aligned.detector=yolo11n \
	  --set=models.aligned.pretrain_epochs=20 --out runs/demo-yolo

overfit-student: $(READY)
	$(BIN)/python -m benchmarks.overfit_student

bench: $(READY)
	for name in masks evaluate teacher_tuning labelling captions coco_io engine; do \
	  $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

N := 20
SEED := 0
KIND := mix

torture: $(READY)
	$(BIN)/python -m benchmarks.torture --n=$(N) --seed=$(SEED) --kind=$(KIND)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --group pyproject.toml:dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(YOLO_VENV)

$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit("omnimask needs Python >= 3.11, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q uv==0.13.8
	touch $@

$(READY): requirements.lock pyproject.toml $(VENV)/.uv
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# ultralytics brings opencv-python, whose cv2 wants libGL: the lock's headless one goes over it, last.
$(YOLO_VENV)/.ready: requirements.lock pyproject.toml $(VENV)/.uv
	$(BIN)/uv venv -q --allow-existing --python $(BIN)/python $(YOLO_VENV)
	$(BIN)/uv pip install -q --python $(YOLO)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install -q --python $(YOLO)/python --no-build-isolation -c requirements.lock -e '.[yolo]'
	$(BIN)/uv pip install -q --python $(YOLO)/python --require-hashes --no-deps \
	  --reinstall-package opencv-python-headless -r requirements.lock
	touch $@
