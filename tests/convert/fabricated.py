"""Checkpoints of the released layout at a tiny size whose parts fit each other (those of the parity pack do
not), with drawn weights.

Names and shapes come from the tables themselves, run backwards. Full size is `FULL`; what is checked against
the real names is in test_convert.py.
"""

import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from codi.convert import released
from codi.convert.released import SLOTS

DIM, ENV, TEXT = 32, 32, 24
_UNET = dict(
    with_attn=[True, False],
    with_connector=[True, False],
    num_noattn_blocks=[1, 1],
    num_heads=4,
    context_dim=DIM,
    model_channels=64,
    channel_mult=[1, 1],
    channel_mult_connector=[1, 1],
    num_noattn_blocks_connector=[1, 1],
    connector_output_channel=ENV,
)
_VAE = dict(double_z=True, num_res_blocks=1, attn_resolutions=[], resolution=32, ch=32)
_TOWER = dict(
    hidden_size=32, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1, hidden_act="quick_gelu"
)
TINY = dict(
    unet_image=_UNET | dict(input_channels=4, output_channels=4, use_video_architecture=True),
    unet_text=_UNET
    | dict(input_channels=TEXT, output_channels=TEXT, second_dim=[4, 4], second_dim_connector=[4, 4]),
    unet_audio=_UNET | dict(input_channels=8, output_channels=8),
    autokl=dict(ddconfig=_VAE | dict(z_channels=4, in_channels=3, out_ch=3, ch_mult=[1, 1, 1, 1])),
    audioldm=dict(ddconfig=_VAE | dict(z_channels=8, in_channels=1, out_ch=1, ch_mult=[1, 1, 1])),
    vocoder=dict(
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        upsample_initial_channel=32,
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        num_mels=64,
        sampling_rate=16000,
        hop_size=160,
    ),
    stft=dict(
        filter_length=1024,
        hop_length=160,
        win_length=1024,
        n_mel_channels=64,
        sampling_rate=16000,
        mel_fmin=0,
        mel_fmax=8000,
    ),
    optimus=dict(
        encoder=dict(
            hidden_size=32,
            intermediate_size=32,
            max_position_embeddings=32,
            num_attention_heads=2,
            num_hidden_layers=1,
            vocab_size=13,
            type_vocab_size=2,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
        ),
        decoder=dict(n_embd=32, n_head=2, n_layer=1, n_positions=32, vocab_size=12, layer_norm_epsilon=1e-5),
        latent_size=TEXT,
    ),
    clip=dict(
        projection_dim=DIM,
        text_config=_TOWER | dict(vocab_size=11, max_position_embeddings=12),
        vision_config=_TOWER | dict(image_size=32, patch_size=16),
    ),
    clap=dict(
        model_config=dict(
            audio_cfg=dict(
                clip_samples=48000,
                mel_bins=64,
                sample_rate=48000,
                window_size=1024,
                hop_size=480,
                fmin=50,
                fmax=14000,
            )
        ),
        htsat=dict(
            spec_size=256,
            patch_size=4,
            patch_stride=[4, 4],
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=8,
            mlp_ratio=2.0,
            qkv_bias=True,
        ),
        joint_embed_shape=DIM,
        mlp_act="relu",
        enable_fusion=False,
    ),
)
WORDS = "a red ball blue cube at sea".split()


def shapes(geometry: dict = TINY) -> dict[str, dict[str, tuple[int, ...]]]:
    """Released name -> shape, by slot."""
    hearing = {".input_block_connecters_in.", ".connecters_out."}
    slots = {
        slot: {"environment_encoders" if slot == "encoders" else name for name in hearing} for slot in SLOTS
    }
    found: dict[str, dict[str, tuple[int, ...]]] = {slot: {} for slot in SLOTS}
    for slot, parts in released.listed(slots, geometry).items():
        for part in parts:
            module, table = part.on_meta()
            state = {name: t.to("meta") for name, t in module.state_dict().items()}
            for name, t in table.reverse(state).items():
                home = (
                    slot
                    if slot != "environment_encoders"
                    else next(s for s in ("text", "audio", "video") if name.startswith(released.prefix_of(s)))
                )
                found[home][name] = tuple(t.shape)
    return found


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight that neither explodes nor vanishes."""
    if name.endswith("running_var"):
        return torch.full(shape, 400.0)
    if name.endswith(".g") or (len(shape) == 1 and name.endswith("weight")):
        return torch.ones(shape)
    return (
        torch.randn(shape, generator=generator) / math.sqrt(max(math.prod(shape[1:]), 1))
        if len(shape) > 1
        else torch.zeros(shape)
    )


def checkpoints(folder: Path, geometry: dict = TINY) -> dict[str, Path]:
    """Writes the four files; by slot."""
    generator, files = torch.Generator().manual_seed(0), {}
    for slot, names in shapes(geometry).items():
        tensors = {name: drawn(name, shape, generator) for name, shape in names.items()}
        if slot == "encoders":
            tensors["optimus.decoder.lm_head.weight"] = tensors["optimus.decoder.transformer.wte.weight"]
        files[slot] = folder / SLOTS[slot]
        torch.save(tensors, files[slot])
    return files


def tokenizers(folder: Path) -> Path:
    """clip/, bert/ and gpt2/tokenizer.json with the few words of `WORDS`, in the sizes of `TINY`."""
    special = {
        "clip": ["<unk>", "<|startoftext|>", "<|endoftext|>"],
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    }
    words = {
        "clip": [special["clip"][0], *WORDS, "!", *special["clip"][1:]],
        "bert": [*special["bert"], *WORDS, "!"],
        "gpt2": [*WORDS, "!", "<|endoftext|>"],
    }
    frame = {"clip": special["clip"][1:], "bert": ["[CLS]", "[SEP]"]}
    for name, listed in words.items():
        ids = {word: i for i, word in enumerate(listed)}
        tokenizer = Tokenizer(
            models.WordLevel(ids, unk_token={"clip": "<unk>", "bert": "[UNK]", "gpt2": "<|endoftext|>"}[name])
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        if name in frame:
            start, end = frame[name]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])]
            )
        (folder / name).mkdir(parents=True)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return folder
