"""Tiny models of other people's architectures, and batches that they may take. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

B, T = 2, 12

# The first pattern found in the name of a number of a configuration decides: the largest value it may keep.
TINY: tuple[tuple[str, int], ...] = (
    (r"vocab", 99),
    (r"patch_?(size|length|stride)s?$", 8),
    (r"(image|img|input)_size$", 32),
    (r"max_.*position|n_positions|context_length|max_seq_len|max_length", 128),
    (r"heads?$|heads_|n_head_kv|kv_groups", 4),
    (r"head_dim|d_kv|dim_head|head_size|d_head|rotary_dim", 8),
    (r"per_tok|top_?k$|moe_k$|shared_experts", 2),
    (r"(n|topk|num_expert|topk_expert)_groups?$", 1),
    (r"experts?$", 4),
    (r"layers?$|depths?$|blocks?$|repeats$", 2),
    (r"groups$", 2),
    (r"sliding_window|chunk_size|num_queries|conv_pos_embeddings|mel_bins|mel_dim", 16),
    (r"window", 4),
    (r"rank|state", 8),
    (r"intermediate|ffn|mlp_dim|d_ff|n_inner|feedforward", 64),
    (r"filters|base_channels|upsample_initial", 8),
    (r"hidden|d_model|n_embd|embed|dims?$|channels|width|codebook_size|latent|query|feature_size", 32),
)
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
_CONVNET = {"use_timm_backbone": False, "backbone": None, "backbone_config": {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]}}  # fmt: skip
_ONE_MAP = _CONVNET | {"backbone_config": _CONVNET["backbone_config"] | {"out_features": ["stage4"]}}
_STATES, _HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8}, {"head_dim": 8}
_WINDOWS = {"image_size": 64, "window_size": 2}
_SERIES = {"prediction_length": 4, "context_length": 10, "lags_sequence": [1, 2]}

# Where the names do not tell: numbers that depend on each other, and what has no default.
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), _WINDOWS),
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), _SERIES),
    **dict.fromkeys(("conditional_detr", "dab-detr", "detr", "table-transformer"), _ONE_MAP),
    "deformable_detr": _CONVNET | {"num_feature_levels": 3},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm_image_text", "glm_ocr_text"), _MROPE),
    **dict.fromkeys(("bamba", "granitemoehybrid"), _STATES),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "ministral"), _HEADS),
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "glm4v_moe_text": {"rope_parameters": _MROPE["rope_parameters"] | {"partial_rotary_factor": 1.0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "nemotron": {"num_key_value_heads": 4},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [3, 4]},
    "cvt": {"depth": [1, 1, 2]},
    "efficientnet": {"hidden_dim": 2560},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "lilt": {"hidden_size": 24, "num_attention_heads": 2, "channel_shrink_ratio": 2},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "focalnet": {"focal_windows": [3, 3, 3, 3]},
    "align_vision_model": {"hidden_dim": 2560},
    "sam2_hiera_det_model": {"embed_dim_per_stage": [32, 64, 64, 64], "num_attention_heads_per_stage": [1, 2, 2, 2]},
    "janus_vqgan": {"base_channels": 32}, "emu3_vqgan": {"base_channels": 32},
    "glm5_next_text": {"index_topk": 16},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "patchtst": {"context_length": T, "num_input_channels": 32, "patch_length": 4, "patch_stride": 4},
    "patchtsmixer": {"context_length": T, "num_input_channels": 32, "patch_length": 4, "patch_stride": 4},
    "vits": {"upsample_initial_channel": 32}, "seamless_m4t": {"upsample_initial_channel": 32},
    "seamless_m4t_v2": {"upsample_initial_channel": 32},
    "zamba": {"num_hidden_layers": 3},
    "bridgetower_text_model": {"hidden_size": 64}, "bridgetower_vision_model": {"hidden_size": 64},
}  # fmt: skip


class Tiny:
    """Shrinks configurations by the names of their numbers. Special tokens get distinct small numbers."""

    def __init__(self) -> None:
        self.token = 60

    def config(self, kind: type, given: Any = None) -> Any:
        """A small configuration of a class, its sub-configurations small too."""
        from transformers import PreTrainedConfig

        default = kind() if given is None else given
        declared = {field.name: field.default for field in dataclasses.fields(kind)}
        common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
        # Of a backbone: the layers that another model reads. They must stay.
        taps = getattr(given, "_out_indices", None)
        small = {"out_indices": list(taps)} if taps else {}
        for name in sorted({*declared, *kind.sub_configs}):
            value = getattr(default, name, None) if name in kind.sub_configs else declared[name]
            if isinstance(value, PreTrainedConfig):
                small[name] = self.config(type(value), value)
            elif taps and name == "num_hidden_layers":
                small[name] = getattr(default, name)
            elif name not in common or name.endswith("_id"):
                new = self.value(name, value)
                small |= {name: new} if new != value else {}
        small |= {"use_cache": False} if "use_cache" in declared else {}  # a training keeps none
        return kind(**small | OVERRIDES.get(kind.model_type, {}))

    def value(self, name: str, value: Any) -> Any:
        """One value, smaller; lists item by item."""
        if name == "mrope_section":
            return [2, 1, 1]
        if isinstance(value, dict):
            return {key: self.value(key, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(name, item) for item in value]
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if re.search(r"(token_id|token_index|_id|_token)$", name):
            self.token += value >= 90
            return self.token if value >= 90 else value
        limit = next((limit for pattern, limit in TINY if re.search(pattern, name)), value)
        return 4 if value == 3 and limit == 4 else min(value, limit)  # three heads do not divide a power of two


def model_class(family: str) -> type | None:
    """The base model of a family, else the first with a head."""
    import transformers
    from transformers.models.auto import modeling_auto

    maps = [name for name in vars(modeling_auto) if name.startswith("MODEL_") and name.endswith("_NAMES")]
    for name in sorted(maps, key=lambda name: name != "MODEL_MAPPING_NAMES"):
        found = getattr(modeling_auto, name).get(family)
        if found:
            return getattr(transformers, found if isinstance(found, str) else found[0], None)
    return None


def families() -> list[str]:
    """Every family that has a model of its own."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [family for family in CONFIG_MAPPING_NAMES if model_class(family) is not None]


def build(family: str) -> nn.Module:
    """A tiny model with random weights."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = model_class(family)
    assert kind is not None, family
    torch.manual_seed(0)
    return kind(Tiny().config(CONFIG_MAPPING[family]))


def find(config: Any, *names: str, default: Any = None) -> Any:
    """The first of the names that a configuration or one inside it has."""
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    for name in names:
        for one in (config, *inner):
            value = getattr(one, name, None)
            if value is not None:
                return value
    return next((found for one in inner if (found := find(one, *names)) is not None), default)


def ints(*shape: int, top: int = 30) -> Tensor:
    return torch.randint(3, top, shape)


def images(config: Any, patches: bool) -> list[Tensor]:
    """One image a sample in the shapes that models take it."""
    size = find(config, "image_size", "img_size", default=32)
    h, w = size if isinstance(size, (list, tuple)) else (size, size)
    c = find(config, "num_channels", "in_channels", "in_chans", "num_input_channels", default=3)
    frames = find(config, "num_frames", default=4)
    one = torch.randn(B, c, h, w)
    patch, depth = find(config, "patch_size", default=8), find(config, "temporal_patch_size", default=1)
    if patches and isinstance(patch, int):
        flat = c * patch * patch
        return [torch.randn(B * 16, flat * depth), torch.randn(B, 16, flat), torch.randn(B * 16, c, patch, patch)]
    return [one, torch.randn(B, frames, c, h, w), one[:, None], torch.randn(B, 3, 64, 64), torch.randn(B, c, 224, 224)]


def sounds(config: Any) -> list[Tensor]:
    mel = find(
        config,
        "feature_projection_input_dim",
        "num_mel_bins",
        "feature_size",
        "input_feat_per_channel",
        "n_mels",
        "num_features",
        default=16,
    )
    frames = 2 * find(config, "max_source_positions", default=32)
    length = find(config, "max_length", default=64)
    wave = torch.randn(B, 4000)
    return [wave, wave[:, None], torch.randn(B, mel, frames), torch.randn(B, frames, mel), torch.randn(B, length, mel)]


def choices(name: str, config: Any, patches: bool) -> list[Any]:
    """What an argument of a forward may be, most likely first."""
    if name in ("input_ids", "decoder_input_ids", "qformer_input_ids"):
        books = find(config, "num_codebooks", "num_channels", default=0)
        return [ints(B, T)] + ([ints(B, T, books), ints(B, books, T), ints(B * books, T)] if books else [])
    if name in ("pixel_values", "pixel_values_videos", "hidden_states") and (patches or name != "hidden_states"):
        return images(config, patches)
    if name in ("input_values", "input_features", "audio_values", "spectrogram"):
        return sounds(config)
    if name.endswith("grid_thw") or name == "grid_thw":
        return [torch.tensor([[1, 4, 4]] * B)]
    if name == "bbox":
        return [ints(B, T, 4, top=4).cumsum(-1), ints(B, T, 8, top=4).float()]
    if name in ("past_values", "past_time_features", "past_observed_mask") and find(config, "lags_sequence"):
        return [torch.randn(B, T, 0) if "time" in name else torch.ones(B, T) if "mask" in name else torch.randn(B, T)]
    if name == "spatial_shapes":
        return [torch.tensor([[4, 4]] * B)]
    if name.endswith("mask"):
        return [torch.ones(B, T, dtype=torch.long), torch.ones(B, 16, dtype=torch.long)]
    return [torch.randn(B, T, find(config, "hidden_size", "d_model", default=32))]


def batches(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Batches that the model may take, the richest first."""
    config = model.config
    spec = inspect.signature(model.forward).parameters.values()
    known = {p.name for p in spec}
    need = {p.name for p in spec if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD}
    need |= {model.main_input_name} & known
    grids = {"grid_thw", "image_grid_thw", "spatial_shapes", "bbox"} & known
    text = {"input_ids", "pixel_values", "decoder_input_ids", "input_features", "input_values"} & known | grids
    for names in ({*need, *text}, {*need, *({"decoder_input_ids"} & known)}, need):
        alternatives = {name: choices(name, config, bool(grids - {"bbox"})) for name in sorted(names)}
        for chosen in itertools.islice(itertools.product(*alternatives.values()), 30):
            yield dict(zip(alternatives, chosen, strict=True))


def with_places(config: Any, text: Tensor, places: int) -> Tensor:
    """A text with the tokens that features of the images take the place of."""
    token = find(config, "image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
    return torch.cat([text, torch.full((len(text), places // len(text)), token)], dim=1)
