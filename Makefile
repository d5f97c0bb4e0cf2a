# Needs Python 3.10 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test quick slow lint bench growth benchmark rule-pages metric-pages regimes sweep mutants screenshot docs oldest clean

demo: $(READY)          ## train the demo's networks and print the report
	$(BIN)/actdiag demo

test: lint quick        ## what every commit passes: checks and the default suite

quick: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

slow: $(READY)          ## what takes longer: whole demos, fresh environments, a browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)         ## cost of observing, as ratios to the bare training
	$(BIN)/python benchmarks/overhead.py

growth: $(READY)        ## docs/growth.md: cost against layers, width, tensor size and steps
	$(BIN)/python benchmarks/growth.py --write docs/growth.md

docs: $(READY)          ## the documentation as a site in build/site, nothing from the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

regimes: $(READY)       ## docs/regimes.md from the tests
	$(BIN)/python -m tests.regimes --write

benchmark: $(READY)     ## docs/benchmark.md: faulty and healthy trainings, ours and other tools' rules
	$(BIN)/python benchmarks/score_cases.py --sets first:0,1 second:19,20,21 second:22,23,24 second:25,26,27 --keep runs/scores.jsonl --write docs/benchmark.md

rule-pages: $(READY)    ## docs/rules from the manuals of the rules
	$(BIN)/python -m tests.rule_pages --write

metric-pages: $(READY)  ## docs/metrics from the manuals of the numbers
	$(BIN)/python -m tests.metric_pages --write

sweep: $(READY)         ## other people's models, trained with and without a monitor
	$(BIN)/python benchmarks/sweep_models.py --write docs/sweep.md

mutants: $(READY)       ## deliberate wrong edits that the suite must catch
	$(BIN)/python tests/mutants.py

screenshot: $(READY)    ## docs/images from a real TensorBoard in headless Chromium
	$(BIN)/python docs/screenshot.py
	$(BIN)/python docs/screenshot_charts.py

OLDEST_EXTRAS := lightning,transformers,ignite,demo,examples
OLDEST := lightning lightning_steps transformers ignite launchers write_tensorboard tab_plugin tab_answers tab_series \
	report examples demo doc_blocks moments
oldest:                 ## the lowest releases that can be installed, with the tests of what touches them
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint ./constraints-oldest.txt --editable './[$(OLDEST_EXTRAS)]' \
		tensorboardX pytest pytest-xdist hypothesis 'jsonargparse[signatures]' markdown-it-py
	.venv-oldest/bin/python -m pytest -n 2 --dist loadgroup $(OLDEST:%=tests/test_%.py)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint ./constraints.txt --editable './[dev]'
	touch $(READY)

clean:
	rm -rf .venv .venv-oldest runs dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
