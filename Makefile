# make run                    build and answer a prompt
# make run PROMPT="…"         another prompt
# make run CUDA=1             on an NVIDIA GPU
# make test                   all tests
#
# Both install what the build lacks. All is built in one profile, so that llama.cpp is compiled once.

PROMPT ?= What is the capital of Norway?
export PROMPT

cargo_flags := --release --locked
features := $(if $(filter-out 0,$(CUDA)),--features cuda)

.PHONY: run test tools

run: tools
	cargo run $(cargo_flags) $(features) --bin llama-diffusion-cli -- -p "$$PROMPT"

test: tools
	cargo fmt --check
	cargo clippy $(cargo_flags) --all-targets -- -D warnings
	cargo test $(cargo_flags)
	# As docs.rs builds it: without llama.cpp's libraries.
	DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --target-dir target/docs-rs

tools:
	@tools/install_build_tools.sh
	cargo fetch --locked
