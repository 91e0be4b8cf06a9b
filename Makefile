# make install   a virtual environment in .venv with everything in it
# make test      the tests, on the CPU (installs first); make test-slow those that take minutes; make test-gpu those of a GPU
# make test-lowest, make test-highest   the README's first command and one call of every modality, in a fresh environment with the lowest
#                versions that pyproject.toml allows, and with the highest that there are today (PYTHON=python3.13: with another Python)
# make lock      resolves anew: uv.lock, and constraints.txt from it
# make tiny      trains every stage in order and reproduces codi/assets/tiny; the same command resumes
#                (ARGS=--small: every stage in miniature, nothing is published)
# make bench     measures the embedded model and writes report/
# make fuzz      tries thousands of damaged files, folders and job lines, and kills runs (ARGS="--share 0.01": a hundredth of them)
# make docs      the documentation as a site: build/docs/index.html
# make lint      style; make types: annotations; make wheel: dist/*.whl

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# In the order of the paper: autoencoders, prompt towers bridged through text, denoisers, joint attention. Noisy-latent encoders come as soon as the
# geometry of clips is known, from the vision denoiser, since other denoisers train with what they tell.
STAGES := autoencoder_image autoencoder_audio autoencoder_text autoencoder_text_noised \
          align_image align_audio align_video \
          denoise_image noisy_latent_encoders denoise_video denoise_audio denoise_text \
          temporal_change joint_audio joint_video
# Not in the embedded model: see the headers of the first six, and docs/fine-tuning.md for what is trained beside a finished one.
OPTIONAL_STAGES := phase_seeded_vocoder vocoder distil_audio distil_vision joint_text_image joint_text_audio \
                   lora_text lora_image lora_audio lora_video lora_joint textual_inversion tower_audio \
                   control_beats_audio control_beats_video control_melody control_loudness control_sketch control_layout super_resolution

# glibc hands large blocks back to the system after every step; keeping them makes training on a CPU about a third faster.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

UV := build/uv/bin/uv
export UV_LINK_MODE := copy

.PHONY: install test test-slow test-gpu test-lowest test-highest lock tiny bench fuzz docs lint types wheel clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# One thread per worker: two workers on two cores, and no test depends on the count.
# On the CPU wherever it runs: sums of a GPU are taken in no fixed order, and many tests compare to the bit.
test: $(INSTALLED)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: $(INSTALLED)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(RUN) -m pytest -m slow --numprocesses auto --maxprocesses 4 --dist loadfile

test-gpu: $(INSTALLED)
	$(RUN) -m pytest tests/test_gpu.py

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet "uv>=0.9"

lock: $(UV)
	$(UV) lock $(ARGS)
	$(UV) export --quiet --frozen --all-extras --no-hashes --no-emit-project --no-annotate --output-file constraints.txt

test-lowest: RESOLUTION := lowest-direct
test-highest: RESOLUTION := highest
test-lowest test-highest: $(UV)
	rm -rf build/$@
	$(UV) venv --quiet --python $(PYTHON) build/$@
	$(UV) pip install --quiet --python build/$@ --resolution $(RESOLUTION) ".[smoke]"
	cd build/$@ && bin/codi doctor
	cd build/$@ && CUDA_VISIBLE_DEVICES= bin/python -m pytest -q -c /dev/null --rootdir . --import-mode=importlib $(CURDIR)/tests/test_smoke.py

tiny: $(INSTALLED)
	set -e; for stage in $(STAGES); do $(KEEP_MEMORY) $(RUN) -m training.main --config configs/world/$$stage.yaml $(ARGS); done
	$(if $(ARGS),,$(RUN) -m training.publish --model runs/tiny --to codi/assets/tiny)

bench: $(INSTALLED)
	$(VENV)/bin/codi bench --out report $(ARGS)

fuzz: $(INSTALLED)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(RUN) -m tests.fuzz $(ARGS)

# Warnings are errors: a link that leads nowhere, a page that no table of contents names.
docs: $(INSTALLED)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	CUDA_VISIBLE_DEVICES= $(RUN) -m sphinx --builder html --quiet --fail-on-warning --keep-going docs build/docs

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pydoclint --quiet codi data training

types: $(INSTALLED)
	$(VENV)/bin/mypy

wheel: $(INSTALLED)
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info
