# A thin door to CMake (presets in CMakePresets.json) and to the scripts in tools/.

DEFAULT_MODEL = models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL = $(DEFAULT_MODEL)
HOST = 127.0.0.1
PORT = 8000
PROMPT = The capital of France is
ARGS =
FUZZ_SECONDS = 60
ABORTS = 100000
ROUNDS = 50
SEEDS = 100000
TESTS =
URL =
prefix = /usr/local
DESTDIR =

# Without another expansion, so that a prompt, through the environment, and a pattern may hold any character.
override PROMPT := $(value PROMPT)
override TESTS := $(value TESTS)
export PROMPT FUZZ_SECONDS DESTDIR MODEL ARGS URL

.DEFAULT_GOAL := help
.PHONY: help setup setup-serve model build serve run cuda check asan tsan arm sim fuzz chaos soak bench \
        lint format install clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12
	@echo 'Variables: HOST PORT MODEL ARGS (serve, run), PROMPT (run), TESTS (check, asan, tsan: a ctest'
	@echo '-R pattern), FUZZ_SECONDS (fuzz), ABORTS (soak), ROUNDS (chaos), SEEDS (sim), URL (bench), prefix DESTDIR (install).'

setup: ## install the Debian packages that building and testing need
	@tools/setup serve check

setup-serve:
	@tools/setup serve

model: setup-serve ## fetch the default model (98 MB, once)
	@tools/fetch-model

build: setup-serve ## build build/release/baton, and baton-cuda.so where nvcc is
	@cmake --preset release >/dev/null
	@cmake --build build/release --target baton $$(command -v nvcc >/dev/null && echo baton_cuda)

cuda: setup-serve ## build build/release/baton-cuda.so (needs nvcc 13)
	@cmake --preset release >/dev/null
	@cmake --build build/release --target baton_cuda

# Fetched only when it is the one that is asked for.
ifeq ($(MODEL),$(DEFAULT_MODEL))
wanted_model = model
endif

serve: build $(wanted_model) ## serve the model on 127.0.0.1:8000
	@exec build/release/baton serve --host $(HOST) --port $(PORT) $(ARGS) $(MODEL)

run: build $(wanted_model) ## complete PROMPT="..." on the terminal
	@exec build/release/baton run $(ARGS) --prompt="$$PROMPT" $(MODEL)

check: setup model ## pass every test
	@[ "$$(uname -m)" = aarch64 ] || tools/setup arm
	@tools/make-venv
	@tools/fetch-promtool
	@tools/check release $(if $(TESTS),-R '$(TESTS)')

asan: setup model ## the same under AddressSanitizer and UBSan
	@tools/make-venv
	@tools/fetch-promtool
	@tools/check asan $(if $(TESTS),-R '$(TESTS)')

tsan: setup model ## the same under ThreadSanitizer
	@tools/make-venv
	@tools/fetch-promtool
	@tools/check tsan $(if $(TESTS),-R '$(TESTS)')

arm: setup model ## build for arm64 and pass under QEMU what runs there
	@tools/check-arm

sim: setup ## run SEEDS worlds of the routers under a fake clock, on every core
	@tools/sim $(SEEDS)

fuzz: ## run each fuzz target for FUZZ_SECONDS
	@tools/setup serve check fuzz
	@tools/fuzz

chaos: build ## kill and stop each process in each phase of a request, ROUNDS times
	@tools/make-venv
	@tools/chaos $(ROUNDS)

soak: build ## abort ABORTS requests at random moments; nothing may leak
	@BATON_ABORTS=$(ABORTS) tools/flow-python tests/flow/soak_test.py build/release/baton aborts

bench: build $(wanted_model) ## measure baton serve (or the server at URL)
	@tools/bench

lint: ## clang-format, clang-tidy, who includes whom, names
	@tools/setup serve check lint
	@tools/lint

format: ## let clang-format rewrite src and tests
	@tools/setup lint
	@find src tests -name '*.[ch]' | xargs clang-format -i

install: build ## install the binary and its man pages under DESTDIR and prefix
	@cmake --install build/release --prefix '$(prefix)'

clean: ## remove what was built (the model stays)
	@rm -rf build
