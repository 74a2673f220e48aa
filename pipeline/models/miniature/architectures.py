"""Untrained signal encoders of the miniature suite: ordinary `transformers` architectures of tiny size.

Out: a model with random weights, and the preprocessing saved beside it (none for series, whose models carry it).
"""

from __future__ import annotations

from typing import Any

from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    PatchTSTConfig,
    PatchTSTModel,
    RobertaConfig,
    RobertaModel,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    VivitConfig,
    VivitModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from pipeline.data.miniature import clips, motion
from pipeline.data.miniature.waves import RATE_HZ, SAMPLES
from pipeline.models.miniature.tokenizer import smiles_tokenizer

Parts = tuple[Any, ...]
"""A model, and its preprocessing where it has one."""

_HEADS = 4
_SPECTROGRAM_HOP_S = 0.01  # fixed by ASTFeatureExtractor
_LONGEST_SMILES = 160


def vit(
    *, side: int, patch: int, hidden: int, width: int, layers: int = 2, channels: int = 3, full_scale: float = 255.0,
    mean: float, std: float,
) -> Parts:  # fmt: skip
    """ViT; its pooler is the projection to `width`. `mean` and `std` are shares of the full scale."""
    model = ViTModel(
        ViTConfig(
            image_size=side, patch_size=patch, num_channels=channels, hidden_size=hidden, num_hidden_layers=layers,
            num_attention_heads=_HEADS, intermediate_size=2 * hidden, pooler_output_size=width, pooler_act="linear",
        )
    )  # fmt: skip
    return model, _pixels(channels, full_scale, mean, std)


def convnext(*, sizes: tuple[int, ...], depths: tuple[int, ...], patch: int, mean: float, std: float) -> Parts:
    """ConvNeXt; its width is the last stage's."""
    model = ConvNextModel(
        ConvNextConfig(num_stages=len(sizes), hidden_sizes=list(sizes), depths=list(depths), patch_size=patch)
    )
    return model, _pixels(3, 255.0, mean, std)


def _pixels(channels: int, full_scale: float, mean: float, std: float) -> Any:
    return ViTImageProcessorPil(
        do_resize=False, rescale_factor=1 / full_scale, image_mean=[mean] * channels, image_std=[std] * channels
    )


def videomae(*, width: int, patch: int = 8, layers: int = 2) -> Parts:
    """VideoMAE over tubes of two frames."""
    config = VideoMAEConfig(
        image_size=clips.SIDE, patch_size=patch, num_frames=clips.FRAMES, tubelet_size=2, hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=_HEADS, intermediate_size=2 * width, use_mean_pooling=False,
    )  # fmt: skip
    return VideoMAEModel(config), _frames()


def vivit(*, width: int, patch: int = 8, layers: int = 2) -> Parts:
    """ViViT over tubes of two frames."""
    config = VivitConfig(
        image_size=clips.SIDE, num_frames=clips.FRAMES, tubelet_size=[2, patch, patch], hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=_HEADS, intermediate_size=width,
    )  # fmt: skip
    return VivitModel(config), _frames()


def _frames() -> Any:
    return VideoMAEImageProcessorPil(do_resize=False, do_center_crop=False, image_mean=[0.25] * 3, image_std=[0.2] * 3)


def spectrogram_transformer(*, width: int, patch: int = 8, layers: int = 2) -> Parts:
    """AST over log-mel patches."""
    frames = int(SAMPLES / RATE_HZ / _SPECTROGRAM_HOP_S) // patch * patch
    config = ASTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=_HEADS, intermediate_size=2 * width,
        patch_size=patch, frequency_stride=patch, time_stride=patch, max_length=frames, num_mel_bins=8 * patch,
    )  # fmt: skip
    extractor = ASTFeatureExtractor(
        sampling_rate=RATE_HZ, num_mel_bins=8 * patch, max_length=frames, mean=-6.0, std=4.0
    )
    return ASTModel(config), extractor


def wav2vec2(*, width: int, layers: int = 1) -> Parts:
    """wav2vec 2.0: strided convolutions over the raw wave, then a Transformer."""
    config = Wav2Vec2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=_HEADS, intermediate_size=2 * width,
        conv_dim=(48, 64, 64, 64), conv_kernel=(32, 8, 4, 4), conv_stride=(8, 4, 2, 2), num_feat_extract_layers=4,
        feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
        apply_spec_augment=False,
    )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, do_normalize=False, return_attention_mask=True)
    return Wav2Vec2Model(config), extractor


def patch_tst(*, width: int, patch: int = 8, layers: int = 2) -> Parts:
    """PatchTST with attention over time and over channels; amplitudes carry meaning, so nothing is rescaled."""
    config = PatchTSTConfig(
        num_input_channels=len(motion.CHANNELS), context_length=motion.SAMPLES, patch_length=patch, patch_stride=patch,
        d_model=width, num_hidden_layers=layers, num_attention_heads=_HEADS, ffn_dim=2 * width,
        share_embedding=False, channel_attention=True, norm_type="layernorm", scaling=None, do_mask_input=False,
        dropout=0.0, positional_dropout=0.0, attention_dropout=0.0, ff_dropout=0.0, path_dropout=0.0,
    )  # fmt: skip
    return (PatchTSTModel(config),)


def smiles_roberta(*, width: int, layers: int = 2) -> Parts:
    """RoBERTa over the tokens of SMILES; token means are the embedding."""
    tokenizer = smiles_tokenizer()
    config = RobertaConfig(**_smiles_config(tokenizer, width, layers), type_vocab_size=1)
    # RoBERTa numbers positions from the padding's id + 1 on.
    config.max_position_embeddings += tokenizer.pad_token_id + 1
    return RobertaModel(config, add_pooling_layer=False), tokenizer


def smiles_bert(*, width: int, layers: int = 2) -> Parts:
    """BERT over the tokens of SMILES; token means are the embedding."""
    tokenizer = smiles_tokenizer()
    return BertModel(BertConfig(**_smiles_config(tokenizer, width, layers)), add_pooling_layer=False), tokenizer


def _smiles_config(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": _HEADS, "intermediate_size": width, "max_position_embeddings": _LONGEST_SMILES,
        "pad_token_id": tokenizer.pad_token_id, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
