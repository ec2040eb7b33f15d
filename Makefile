# The commands of README. Each line is thin: gallery.py and sandbox/ do the work.
PYTHON ?= python3
PATTERN ?=
TARGET ?= sandbox
OPTIONS ?=
EMPTY ?=
VERBOSE ?=
MOST ?= 100
SEED ?= 0
ONLY ?=
TO ?=
NAME ?=
WHOLE ?=
RUN = .venv/bin/python

# What is said to make reaches the commands through the environment and is never pasted into a
# command, where a quote or a backtick would be the shell's, nor expanded, where $$ would be make's.
SAID = PATTERN TARGET OPTIONS EMPTY VERBOSE MOST SEED ONLY TO NAME WHOLE PYTHON
$(foreach name,$(SAID),$(eval override $(name) := $$(value $(name))))
export $(SAID)
OF = "$$PATTERN" --target "$$TARGET"
WITH = --options "$$OPTIONS" $${VERBOSE:+--verbose}

# A foreign virtual environment or Python setting must not leak into the tools' own environments.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PYTHONSAFEPATH PYTHONOPTIMIZE

.DEFAULT_GOAL := help
.PHONY: help setup list synth deploy demo show destroy stop sandbox test check snapshots docs bench mutate lock fork templates test-forks again

help: ## what there is
	@echo "make COMMAND [PATTERN=SqsLambdaDlq] [TARGET=sandbox|aws] [OPTIONS='max_receive_count=3']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready ## install what is missing, from locked and hashed requirements
	@:

list: setup ## the patterns there are
	@$(RUN) gallery.py list

synth: setup ## templates of all patterns, or of PATTERN, in cdk.out, with every validation on
	@$(RUN) gallery.py synth "$$PATTERN" --options "$$OPTIONS"

deploy: setup ## deploy PATTERN to the sandbox, or to AWS with TARGET=aws
	@$(RUN) gallery.py deploy $(OF) $(WITH)

demo: setup ## deploy PATTERN, drive it with real messages and account for every one
	@$(RUN) gallery.py demo $(OF) $(WITH)

show: setup ## what PATTERN is, its options, and when it is deployed: lines to copy
	@$(RUN) gallery.py show $(OF)

destroy: setup ## take PATTERN away again; on AWS with EMPTY=yes also what its buckets hold
	@$(RUN) gallery.py destroy $(OF) $${EMPTY:+--empty} $${VERBOSE:+--verbose}

sandbox: setup ## run the embedded AWS in the foreground; Ctrl-C stops it
	@$(RUN) -m sandbox start --foreground

stop: setup ## stop the embedded AWS and remove all that it left
	@$(RUN) -m sandbox stop

test: setup ## all tests, or those that concern PATTERN
	@$(RUN) gallery.py test "$$PATTERN"

check: setup ## format, lint, types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/ty check

snapshots: setup ## accept the templates as they are now; read the diff before you commit it
	@$(RUN) gallery.py snapshots "$$PATTERN"

docs: setup ## write docs/rules.md anew from the rules
	@$(RUN) rules/_page.py

bench: setup ## how long people wait, as ratios in one run
	@$(RUN) -m bench

mutate: setup ## change PATTERN's code at random and list what its tests let pass: [MOST=100] [SEED=0] [ONLY=lambdas]
	@$(RUN) -m tests.mutate "$$PATTERN" --most "$$MOST" --seed "$$SEED" --only "$$ONLY"

fork: setup ## make a project of its own from PATTERN: TO=../orders [NAME=OrderFulfilment]
	@$(RUN) -m fork project --pattern "$$PATTERN" --to "$$TO" --name "$$NAME"

templates: setup ## the same for `cdk init --from-path`: templates/, of all patterns or of PATTERN [NAME]
	@$(RUN) -m fork templates --pattern "$$PATTERN" --name "$$NAME"

test-forks: setup ## the tests of forks of all patterns, in environments of their own, or only in those of WHOLE='A B'
	@$(RUN) -m pytest -n 2 tests/forks.py

lock: setup ## resolve the requirements again and write their hashes
	@.venv/bin/uv --system-certs pip compile -q pyproject.toml --group dev -o requirements.lock $(LOCK)
	@.venv/bin/uv --system-certs pip compile -q sandbox/requirements.in -o sandbox/requirements.lock $(LOCK)
	@.venv/bin/uv --system-certs pip compile -q sandbox/layer.in -o sandbox/layer.lock $(LOCK) \
	  $(addprefix --no-emit-package ,boto3 botocore s3transfer)
	@.venv/bin/uv --system-certs pip compile -q sandbox/sam.in -o sandbox/sam.lock $(LOCK) \
	  $(addprefix --no-emit-package ,boto3 botocore s3transfer)
LOCK = --universal --generate-hashes --python-version 3.11 --no-header

# One stamp for all: the tools, the embedded AWS, and what it has beside it.
INSTALLED = node_modules .sandbox/venv .sandbox/layer .sandbox/sam
.venv/.ready: requirements.lock sandbox/requirements.lock sandbox/layer.lock sandbox/sam.lock package-lock.json \
  $(if $(filter-out $(wildcard $(INSTALLED)),$(INSTALLED)),again)
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $$PYTHON is missing or older than 3.11; install Python 3.11 or newer, or say make PYTHON=python3.12" >&2; exit 2; }
	@"$$PYTHON" install.py
