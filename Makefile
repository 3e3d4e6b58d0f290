# Each target sets up what it needs. `make demo` and `make test` are enough to begin with. Builds name the whole workspace, so that all of
# them compile dependencies with the same features, once.

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
ONNXRUNTIME := target/onnxruntime/lib/libonnxruntime.so
ONNXRUNTIME_GPU := target/onnxruntime-gpu

.PHONY: demo test test-services test-s3s fuzz bench bench-open-clip bench-training scenes-base scenes-ssc scenes-dsc scenes-albef lint doc reference onnxruntime onnxruntime-gpu install clean-demo

# Draws scenes, packs them as shards, captions them with the bundled captioners; leaves Parquet and report.html in target/demo.
demo: $(ONNXRUNTIME)
	$(CARGO) build --locked --release --quiet --workspace --bin recaption
	target/release/recaption demo --dir target/demo

# Runs all tests, in the demo's release profile, so that dependencies compile once.
test: $(ONNXRUNTIME) test-services
	$(CARGO) test --locked --release --workspace --no-fail-fast

# Installs the servers of the storage tests (moto, azurite, mitmproxy) below target/test-services, once.
test-services:
	$(PYTHON) scripts/test_services.py

# Runs the storage tests over s3s-fs, an S3 server that checks signatures; compiling it takes longer than the tests.
test-s3s: $(ONNXRUNTIME)
	$(PYTHON) scripts/test_services.py s3s
	$(CARGO) test --locked --release --test stores s3_with_signatures -- --ignored

# Runs each fuzz target for FUZZ_SECONDS, on stable Rust; needs a C++ compiler.
FUZZ_SECONDS ?= 60
fuzz:
	$(PYTHON) fuzz/run.py --seconds $(FUZZ_SECONDS)

# Measures this machine: pipeline, decoding, batching.
bench: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/run.py

# Compares with open_clip's `generate` on the same weights and images; fetches torch (several GB), takes about 15 minutes.
bench-open-clip: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/against_open_clip.py

# Compares a training step with torch's on the same checkpoint and batches; fetches torch as bench-open-clip does.
bench-training: $(ONNXRUNTIME)
	$(PYTHON) benchmarks/training.py

# Train the bundled captioners: draw shards, train by recipe, copy into onnx/models. SSC and DSC start from the base. The same
# command resumes a stopped training. A new base needs a new reference: scripts/make_reference.py.
SCENES_SHARDS := --shards 48 --samples 1000 --seed 1
HELD_OUT_SHARDS := --shards 2 --samples 1000 --seed 2
scenes-base: CAPTION := alt
scenes-ssc: CAPTION := short
scenes-dsc: CAPTION := descriptive
scenes-ssc scenes-dsc: target/scenes/coca-scenes-base/model/README.md
target/scenes/coca-scenes-base/model/README.md:
	$(MAKE) scenes-base
scenes-base scenes-ssc scenes-dsc: $(ONNXRUNTIME)
	$(CARGO) build --locked --release --workspace --bin recaption --bin recaption-finetune
	target/release/recaption scenes --out target/scenes/$(CAPTION) $(SCENES_SHARDS) --caption $(CAPTION)
	target/release/recaption scenes --out target/scenes/held-$(CAPTION) $(HELD_OUT_SHARDS) --caption $(CAPTION)
	target/release/recaption finetune stages/finetune/recipes/$@.toml
	mkdir -p onnx/models/coca-$@
	cp target/scenes/coca-$@/model/* onnx/models/coca-$@/

# Trains a small ALBEF on the scenes' alt texts, goes on for a while, since matching learns places last, and measures how finely it reads.
# ALPHA=0 is without momentum distillation. RAYON_NUM_THREADS=1 is faster.
ALPHA := 0.4
scenes-albef: $(ONNXRUNTIME)
	$(CARGO) build --locked --release --workspace --bin recaption --bin recaption-finetune
	target/release/recaption scenes --out target/scenes/alt $(SCENES_SHARDS) --caption alt
	target/release/recaption scenes --out target/scenes/held-alt $(HELD_OUT_SHARDS) --caption alt
	target/release/recaption scenes --out target/scenes/pairs --shards 1 --samples 1000 --seed 2 --caption pairs
	target/release/recaption finetune stages/finetune/recipes/scenes-albef.toml \
		--set albef.alpha=$(ALPHA) --out target/scenes/albef-alpha-$(ALPHA)
	target/release/recaption finetune stages/finetune/recipes/scenes-albef.toml \
		--set albef.alpha=$(ALPHA) --set model.init=checkpoint --set 'model.image_encoder=""' \
		--set model.checkpoint=target/scenes/albef-alpha-$(ALPHA)/model \
		--set optimizer.steps=1800 --set optimizer.lr=3e-4 --set albef.alpha_steps=1 --out target/scenes/albef-alpha-$(ALPHA)-more
	target/release/recaption finetune --pairs target/scenes/pairs --checkpoint target/scenes/albef-alpha-$(ALPHA)/model \
		--checkpoint target/scenes/albef-alpha-$(ALPHA)-more/model --checkpoint onnx/models/coca-scenes-base

# Checks format, clippy's lints, and licences and sources of dependencies.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings
	$(PYTHON) scripts/check_structure.py
	$(PYTHON) scripts/check_dependencies.py

# Builds the API documentation; broken links are errors.
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --release --workspace --no-deps

# The generated pages of docs/src, from the configuration keys and the metrics; tests compare them with what the programs print.
reference:
	$(CARGO) build --locked --release --workspace --bins
	target/release/recaption config reference > docs/src/configuration-reference.md
	target/release/recaption config metrics > docs/src/metrics-reference.md
	target/release/recaption-finetune --reference > docs/src/recipe-reference.md

onnxruntime: $(ONNXRUNTIME)

# Fetches the pinned ONNX Runtime. With ORT_DYLIB_PATH=/path/libonnxruntime.so set, that library is used and nothing is fetched.
$(ONNXRUNTIME): onnx/onnxruntime-requirements.txt scripts/fetch_onnxruntime.py
ifeq ($(ORT_DYLIB_PATH),)
	$(PYTHON) scripts/fetch_onnxruntime.py target/onnxruntime
	@touch -h $@
endif

# Fetches ONNX Runtime with CUDA and NVIDIA's libraries, 1.5 GB; TENSORRT=1 adds TensorRT's. To use it:
# export ORT_DYLIB_PATH=$PWD/target/onnxruntime-gpu/lib/libonnxruntime.so
onnxruntime-gpu:
	$(PYTHON) scripts/fetch_onnxruntime.py $(ONNXRUNTIME_GPU) gpu $(if $(filter 1,$(TENSORRT)),tensorrt)

# Installs the program with ONNX Runtime's library. FINETUNE=1 adds `recaption-finetune`, which takes longer to build than the rest.
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
