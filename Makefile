# Each target does its own set-up. `make demo` and `make test` are all a newcomer needs.

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
ONNXRUNTIME := target/onnxruntime/lib/libonnxruntime.so
ONNXRUNTIME_GPU := target/onnxruntime-gpu

.PHONY: demo test test-services test-s3s fuzz bench bench-open-clip bench-training scenes-base scenes-ssc scenes-dsc lint doc reference onnxruntime onnxruntime-gpu install clean-demo

# Scenes -> shards -> captions -> Parquet and a page, with the bundled captioners.
demo: $(ONNXRUNTIME)
	$(CARGO) run --locked --release --quiet -- demo --dir target/demo

# All tests, in the release profile that the demo uses too: dependencies compile once.
test: $(ONNXRUNTIME) test-services
	$(CARGO) test --locked --release --workspace --no-fail-fast

# Servers for the tests of storage, below target/test-services: fetched once, then nothing is done.
test-services:
	$(PYTHON) scripts/test_services.py

# The tests over an S3 that checks signatures. It is compiled from source, which takes longer than the tests.
test-s3s: $(ONNXRUNTIME)
	$(PYTHON) scripts/test_services.py s3s
	$(CARGO) test --locked --release --test stores s3_with_signatures -- --ignored

# Every fuzz target for FUZZ_SECONDS, on stable Rust; needs a C++ compiler.
FUZZ_SECONDS ?= 60
fuzz:
	$(PYTHON) fuzz/run.py --seconds $(FUZZ_SECONDS)

# Ratios of this machine, measured in one run.
bench: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/run.py

# The same weights and images through open_clip's own `generate`; fetches torch (several GB), takes about 15 minutes.
bench-open-clip: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/against_open_clip.py

# A training step against torch's, on the same checkpoint and batches; fetches torch as bench-open-clip does.
bench-training: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/training.py

# The bundled captioners of scenes: shards, training by recipe, then into onnx/models. SSC and DSC begin where base ends. A
# stopped training goes on with the same command. A new base needs a new reference: scripts/make_reference.py.
SCENES_SHARDS := --shards 48 --samples 1000 --seed 1
HELD_OUT_SHARDS := --shards 2 --samples 1000 --seed 2
scenes-base: CAPTION := alt
scenes-ssc: CAPTION := short
scenes-dsc: CAPTION := descriptive
scenes-ssc scenes-dsc: target/scenes/coca-scenes-base/model/README.md
target/scenes/coca-scenes-base/model/README.md:
	$(MAKE) scenes-base
scenes-base scenes-ssc scenes-dsc: $(ONNXRUNTIME)
	$(CARGO) build --locked --release --bin recaption
	$(CARGO) build --locked --release -p recaption-finetune
	target/release/recaption scenes --out target/scenes/$(CAPTION) $(SCENES_SHARDS) --caption $(CAPTION)
	target/release/recaption scenes --out target/scenes/held-$(CAPTION) $(HELD_OUT_SHARDS) --caption $(CAPTION)
	target/release/recaption finetune stages/finetune/recipes/$@.toml
	mkdir -p onnx/models/coca-$@
	cp target/scenes/coca-$@/model/* onnx/models/coca-$@/

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings
	$(PYTHON) scripts/check_dependencies.py

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --release --workspace --no-deps

# The generated pages of docs/src, from the configuration keys; tests compare them with what the programs print.
reference:
	$(CARGO) build --locked --release --workspace --bins
	target/release/recaption config reference > docs/src/configuration-reference.md
	target/release/recaption-finetune --reference > docs/src/recipe-reference.md

onnxruntime: $(ONNXRUNTIME)

# A library of your own: ORT_DYLIB_PATH=/path/libonnxruntime.so makes this a no-op.
$(ONNXRUNTIME): onnx/onnxruntime-requirements.txt scripts/fetch_onnxruntime.py
ifeq ($(ORT_DYLIB_PATH),)
	$(PYTHON) scripts/fetch_onnxruntime.py target/onnxruntime
	@touch -h $@
endif

# ONNX Runtime with CUDA and NVIDIA's libraries, 1.5 GB to fetch; TENSORRT=1 adds TensorRT's. To use it:
# export ORT_DYLIB_PATH=$PWD/target/onnxruntime-gpu/lib/libonnxruntime.so
onnxruntime-gpu:
	$(PYTHON) scripts/fetch_onnxruntime.py $(ONNXRUNTIME_GPU) gpu $(if $(filter 1,$(TENSORRT)),tensorrt)

# FINETUNE=1 adds `recaption-finetune`, which takes longer to build than the rest together.
install: $(ONNXRUNTIME)
	$(CARGO) build --locked --profile dist
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/onnxruntime/lib
	install -m 755 target/dist/recaption $(DESTDIR)$(PREFIX)/bin/recaption
ifeq ($(FINETUNE),1)
	$(CARGO) build --locked --profile dist -p recaption-finetune
	install -m 755 target/dist/recaption-finetune $(DESTDIR)$(PREFIX)/bin/recaption-finetune
endif
	cp -P target/onnxruntime/lib/libonnxruntime.so* $(DESTDIR)$(PREFIX)/onnxruntime/lib/

clean-demo:
	rm -rf target/demo
