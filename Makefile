# make run                    build and answer a prompt
# make run PROMPT="…"         answer another prompt
# make run VISUAL=1           watch a story come out of noise, slowed down
# make run CUDA=1             run on an NVIDIA GPU
# make run VULKAN=1           run on a GPU of any vendor with Vulkan
# make serve                  serve the demo model at http://127.0.0.1:8080
# make serve FLAGS="-m …"     serve another model; also with CUDA=1 or VULKAN=1
# make test                   run all tests
# make install                install the C library to PREFIX (/usr/local) under DESTDIR; also with CUDA=1 or VULKAN=1
# make header                 write include/llama_diffusion.h from crates/capi
# make ffi-test               run the tests of the C library, in C, C++ and Go
# make page-test              test the server's page in Chromium; needs Node 20
# make client-test            test the server with openai, anthropic, aider and others; needs Node 20 and Python 3.11
# make help                   print this list
#
# run, serve and test install missing build tools. Everything is built in one profile, so llama.cpp is compiled once.

visual := $(filter-out 0,$(VISUAL))
# A story takes several canvases.
PROMPT ?= $(if $(visual),Tell a story about Grace and a white owl.,What is the capital of Norway?)
export PROMPT
# The demo model needs a few milliseconds and two steps per canvas. A strict sampler and a delay make them visible.
visual_flags := $(if $(visual),--diffusion-visual --diffusion-visual-progress --diffusion-visual-delay 300 \
	--diffusion-eb-entropy-bound 1e-4 --diffusion-eb-confidence 5e-5)

quote = '$(subst ','\'',$(1))'

cargo_flags := --release --locked
cuda := $(filter-out 0,$(CUDA))
vulkan := $(filter-out 0,$(VULKAN))
backends := $(if $(cuda),cuda) $(if $(vulkan),vulkan)
# Cargo names the library the same for all features: a GPU build would be mistaken for the usual one.
target_dir := $(or $(CARGO_TARGET_DIR),target)$(addprefix /,$(subst $() ,-,$(strip $(backends))))
build_flags := $(cargo_flags) --target-dir $(call quote,$(target_dir)) $(addprefix --features ,$(backends))
docs_rs_flags := --locked --target-dir target/docs-rs

built_server := LLAMA_DIFFUSION_SERVER=$(call quote,$(abspath $(target_dir))/release/llama-diffusion-server)
client_tests := $(built_server) crates/server/tests/clients/run.sh
built_cli := LLAMA_DIFFUSION_CLI=$(call quote,$(abspath $(target_dir))/release/llama-diffusion-cli)
page_tests := crates/server/tests/page/run.sh

.PHONY: run serve test tools header install ffi-test page-test client-test help

run: tools
	cargo run $(build_flags) --bin llama-diffusion-cli -- $(visual_flags) -p "$$PROMPT"

serve: tools
	cargo run $(build_flags) --bin llama-diffusion-server -- $(FLAGS)

test: tools
	@tools/install_build_tools.sh test
	cargo fmt --check
	cargo clippy $(cargo_flags) --all-targets --features tls -- -D warnings
	cargo test $(cargo_flags) --features tls
	# As docs.rs builds it, without llama.cpp's libraries; then the code that only other features compile.
	DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc -p llama-diffusion --no-deps --lib $(docs_rs_flags)
	DOCS_RS=1 cargo clippy --lib --bins --no-default-features --features cuda,rpc,vulkan $(docs_rs_flags) -- -D warnings
	DOCS_RS=1 cargo clippy --lib --bins --features cuda,dynamic-backends,portable $(docs_rs_flags) -- -D warnings
	ffi-tests/run.sh
	# With the programs that `cargo test` has built.
	$(client_tests)
	$(built_server) $(built_cli) $(page_tests)

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

tools:
	@tools/install_build_tools.sh
	cargo fetch --locked

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
# What a program links in addition to the static library and the OpenMP runtime that the compiler chose.
PRIVATE_LIBS ?= $(strip $(if $(cuda),$(cuda_libs)) $(if $(vulkan),-lvulkan) -lstdc++ -lm -lpthread -ldl)
# The toolkit whose compiler build.rs uses; it has a stub of libcuda for machines without a driver.
nvcc = $(realpath $(or $(shell command -v "$${CUDACXX:-nvcc}" 2>/dev/null),$(CUDA_PATH)/bin/nvcc))
cuda_root = $(or $(patsubst %/bin/nvcc,%,$(nvcc)),/usr/local/cuda)
cuda_libs = $(addprefix -L,$(wildcard $(cuda_root)/lib64 $(cuda_root)/lib64/stubs)) \
	-lcudart -lcublas -lcublasLt -lcuda

release := $(target_dir)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
abi := $(shell sed -n 's/.*DIFFUSION_ABI_VERSION: u32 = \(.*\);/\1/p' crates/capi/src/library.rs)
# pkg-config --define-prefix relocates paths below the prefix.
below_prefix = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))
fill = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' \
	-e 's|@PC_LIBDIR@|$(call below_prefix,$(LIBDIR))|g' \
	-e 's|@PC_INCLUDEDIR@|$(call below_prefix,$(INCLUDEDIR))|g' \
	-e 's|@VERSION@|$(version)|g' -e 's|@ABI@|$(abi)|g' -e "s|@PRIVATE_LIBS@|$$openmp$(PRIVATE_LIBS)|g"

header:
	LLAMA_DIFFUSION_WRITE_HEADER=1 cargo test $(cargo_flags) --test header

# Removed first, because Cargo may be configured to build elsewhere: an old library must not be taken for the new one.
install: built := $(call quote,$(release))
install: lib := $(call quote,$(DESTDIR)$(LIBDIR))
install: include := $(call quote,$(DESTDIR)$(INCLUDEDIR))
install:
	@[ "$$(uname -s)" = Linux ] || { echo "error: make install is for Linux only" >&2; exit 1; }
	@for path in $(call quote,$(PREFIX)) $(call quote,$(LIBDIR)) $(call quote,$(INCLUDEDIR)); do \
		case $$path in [!/]* | *[[:space:]\"\'\\\&\|\;]*) \
			printf "error: '%s' is not an absolute path without white space, quotes and any of %s\n" \
				"$$path" '\ & | ;' >&2; exit 1 ;; \
		esac; \
	done
	rm -f $(built)/libllama_diffusion.a $(built)/libllama_diffusion.so
	cargo build $(build_flags) -p llama-diffusion-capi
	install -d $(include) $(lib)/pkgconfig $(lib)/cmake/llama_diffusion
	install -m 644 include/llama_diffusion.h include/llama_diffusion.hpp $(include)
	packaging/hide-symbols.sh $(built)/libllama_diffusion.a $(built)/libllama_diffusion.installed.a
	install -m 644 $(built)/libllama_diffusion.installed.a $(lib)/libllama_diffusion.a
	install -m 755 $(built)/libllama_diffusion.so $(lib)/libllama_diffusion.so.$(version)
	ln -sf libllama_diffusion.so.$(version) $(lib)/libllama_diffusion.so.$(abi)
	ln -sf libllama_diffusion.so.$(abi) $(lib)/libllama_diffusion.so
	case $$($${NM:-nm} -u $(built)/libllama_diffusion.installed.a) in \
		*__kmpc_*) openmp='-lomp ' ;; *GOMP_*) openmp='-lgomp ' ;; *) openmp= ;; \
	esac; \
	for file in llama_diffusion.pc llama_diffusionConfig.cmake llama_diffusionConfigVersion.cmake; do \
		$(fill) packaging/$$file.in >$(built)/$$file || exit; \
	done
	install -m 644 $(built)/llama_diffusion.pc $(lib)/pkgconfig
	install -m 644 $(built)/llama_diffusionConfig.cmake $(built)/llama_diffusionConfigVersion.cmake \
		$(lib)/cmake/llama_diffusion

ffi-test:
	ffi-tests/run.sh

page-test:
	$(page_tests)

client-test: tools
	cargo build $(build_flags) -p llama-diffusion-server
	$(client_tests)
