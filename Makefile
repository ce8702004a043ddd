# make demo: a first comparison; make test: all checks. Everything happens in .venv; nothing else is touched.
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo docs flower-app flower-demo test test-flower test-slow bench venv clean help

help:
	@sed -n 's/^#: //p' Makefile

#: make demo    install, then compare four schemes on embedded data; prints a table and the path of a report
demo: $(VENV)/.installed
	$(BIN)/spfl compare configs/demo.toml --schemes error_free,single_packet,sp_fl,sp_fl_plus --seeds 0-1 --out $(OUT)
	@echo "open this page in a browser: $$($(BIN)/spfl report $(OUT))"

#: make test    install with the dev extra, then ruff, mypy and pytest
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow"

#: make flower-demo    three rounds on a SuperLink and two SuperNodes with TLS on this machine; a line with the accuracy
flower-demo: $(VENV)/.installed-flower
	$(BIN)/spfl flower run configs/demo.toml --engine deploy --nodes 2 \
	  --set training.rounds=3 --set training.eval_every=1 --set scheme.name=sp_fl_plus_1 --out $(OUT)-flower

#: make flower-app    write examples/flower-app anew, as `spfl flower init` makes it
flower-app: $(VENV)/.installed-flower
	rm -rf examples/flower-app
	$(BIN)/spfl flower init examples/flower-app configs/demo.toml --set training.rounds=3 --set training.eval_every=1

#: make test-flower    runs on Ray and on SuperNodes that speak TLS; some minutes
test-flower: $(VENV)/.installed-dev
	timeout 900 $(BIN)/pytest -m slow tests/system/test_flower_processes.py

#: make test-slow    the tests that take minutes
test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow -o faulthandler_timeout=3600

#: make bench   the benchmarks of docs/performance.md, in about 20 minutes on two cores; figures into docs/results/performance
BENCH_OUT ?= docs/results/performance
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/codec.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/allocation.py --sizes 20 200 1000 20000 --repeats 2 --out $(BENCH_OUT)
	$(BIN)/python benchmarks/population.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/memory.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/large.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/study.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/limit.py --rounds 6 --out $(BENCH_OUT)
	$(BIN)/python benchmarks/peers.py --repeats 2 --out $(BENCH_OUT)

#: make docs    the site, in site/; open site/index.html
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

#: make venv    the virtual environment with the dev extra, nothing run
venv: $(VENV)/.installed-dev

#: make clean   remove the virtual environment and the caches; runs/ stays
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# PyTorch first and alone: TORCH_SPEC decides the build, and nothing after it may replace it. A pip of 2023, as Python 3.11
# brings it, needs minutes to find versions that fit together; a newer one needs seconds.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "spfl needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'pip>=25.1'
	$(PIP) install -q $(TORCH_SPEC)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -e '.[all]'
	touch $@

$(VENV)/.installed-flower: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -e '.[all,flower]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -e '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-flower
