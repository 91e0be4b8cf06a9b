# make install   a virtual environment in .venv with everything in it
# make test      the tests, on the CPU (installs first); make test-gpu those of a GPU
# make tiny      trains every stage in order and reproduces codi/assets/tiny; the same command resumes
#                (ARGS=--small: every stage in miniature, nothing is published)
# make bench     measures the embedded model and writes report/
# make lint      style

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# In the order of the paper: autoencoders, prompt towers bridged through text, denoisers, joint attention. Noised towers come as soon as the
# geometry of clips is known, from the vision denoiser, since other denoisers train with what they tell.
STAGES := autoencoder_image autoencoder_audio autoencoder_text autoencoder_text_noised \
          align_image align_audio align_video \
          denoise_image noised_towers denoise_video denoise_audio denoise_text \
          foresight joint_audio joint_video
# Not in the embedded model: see the headers of the first three, and docs/fine-tuning.md for what is trained beside a finished one.
OPTIONAL_STAGES := vocoder joint_text_image joint_text_audio lora_text lora_image lora_audio lora_video lora_joint textual_inversion tower_audio

# glibc hands large blocks back to the system after every step; keeping them makes training on a CPU about a third faster.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

.PHONY: install test test-gpu tiny bench lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[test]"
	touch $@

# One thread per worker: two workers on two cores, and no test depends on the count.
# On the CPU wherever it runs: sums of a GPU are taken in no fixed order, and many tests compare to the bit.
test: $(INSTALLED)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-gpu: $(INSTALLED)
	$(RUN) -m pytest tests/test_gpu.py

tiny: $(INSTALLED)
	set -e; for stage in $(STAGES); do $(KEEP_MEMORY) $(RUN) -m training.main --config configs/world/$$stage.yaml $(ARGS); done
	$(if $(ARGS),,$(RUN) -m training.publish --model runs/tiny --to codi/assets/tiny)

bench: $(INSTALLED)
	$(VENV)/bin/codi bench --out report $(ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV) build dist *.egg-info
