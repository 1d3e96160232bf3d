# make run                    build and answer a prompt
# make run PROMPT="…"         another prompt
# make run CUDA=1             on an NVIDIA GPU
# make test                   all tests
# make install                the C library, to PREFIX (/usr/local) below DESTDIR
# make header                 write include/llama_diffusion.h from src/capi
# make ffi-test               the tests of the C library, in C, C++ and Go
#
# run and test install what the build lacks. All is built in one profile, so that llama.cpp is compiled once.

PROMPT ?= What is the capital of Norway?
export PROMPT

cargo_flags := --release --locked
features := $(if $(filter-out 0,$(CUDA)),--features cuda)

.PHONY: run test tools header install ffi-test

run: tools
	cargo run $(cargo_flags) $(features) --bin llama-diffusion-cli -- -p "$$PROMPT"

test: tools
	@tools/install_build_tools.sh test
	cargo fmt --check
	cargo clippy $(cargo_flags) --all-targets -- -D warnings
	cargo test $(cargo_flags)
	# As docs.rs builds it: without llama.cpp's libraries.
	DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --target-dir target/docs-rs
	ffi-tests/run.sh

tools:
	@tools/install_build_tools.sh
	cargo fetch --locked

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
# What a program needs beside the static library.
PRIVATE_LIBS ?= -lstdc++ -lm -lpthread -ldl

release := $(or $(CARGO_TARGET_DIR),target)/release
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
abi := $(shell sed -n 's/.*DIFFUSION_ABI_VERSION: u32 = \(.*\);/\1/p' src/capi/library.rs)
fill = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' \
	-e 's|@VERSION@|$(version)|g' -e 's|@PRIVATE_LIBS@|$(PRIVATE_LIBS)|g'

header:
	LLAMA_DIFFUSION_WRITE_HEADER=1 cargo test $(cargo_flags) --test header

install:
	cargo build $(cargo_flags) $(features) --lib
	install -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(LIBDIR)/cmake/llama_diffusion
	install -m 644 include/llama_diffusion.h include/llama_diffusion.hpp $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(release)/libllama_diffusion.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(release)/libllama_diffusion.so $(DESTDIR)$(LIBDIR)/libllama_diffusion.so.$(version)
	ln -sf libllama_diffusion.so.$(version) $(DESTDIR)$(LIBDIR)/libllama_diffusion.so.$(abi)
	ln -sf libllama_diffusion.so.$(abi) $(DESTDIR)$(LIBDIR)/libllama_diffusion.so
	$(fill) packaging/llama_diffusion.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/llama_diffusion.pc
	$(fill) packaging/llama_diffusionConfig.cmake.in \
		>$(DESTDIR)$(LIBDIR)/cmake/llama_diffusion/llama_diffusionConfig.cmake
	$(fill) packaging/llama_diffusionConfigVersion.cmake.in \
		>$(DESTDIR)$(LIBDIR)/cmake/llama_diffusion/llama_diffusionConfigVersion.cmake

ffi-test:
	ffi-tests/run.sh
