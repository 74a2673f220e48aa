"""Tiny random models of every family, saved by `save_pretrained` as a user's models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    GPT2Config,
    GPT2Model,
    HubertConfig,
    HubertModel,
    PatchTSMixerConfig,
    PatchTSMixerModel,
    PatchTSTConfig,
    PatchTSTModel,
    RobertaConfig,
    RobertaModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from pipeline.models.miniature.tokenizer import smiles_tokenizer, word_tokenizer

SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
RATE_HZ = 8000
WORDS = ("a", "red", "circle", "blue", "square")


def save(folder: Path, *parts: Any) -> Any:
    """Save a model and its preprocessing; the model comes back ready for a direct forward pass."""
    model, *preprocessing = parts
    for part in parts:
        part.save_pretrained(folder)
    return model.eval(), *preprocessing


def vit(folder: Path, *, channels: int = 3, pooler: bool = True, resize: bool = False) -> Any:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SIZE, image_size=16, patch_size=8, num_channels=channels), add_pooling_layer=pooler)
    processor = ViTImageProcessorPil(
        do_resize=resize, size={"height": 16, "width": 16}, image_mean=[0.4] * channels, image_std=[0.2] * channels,
        rescale_factor=1 / 255 if channels == 3 else 1e-4,
    )  # fmt: skip
    return save(folder, model, processor)


def dinov2(folder: Path) -> Any:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SIZE, image_size=16, patch_size=8))
    return save(folder, model, ViTImageProcessorPil(do_resize=False))


def clip(folder: Path) -> Any:
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    config = CLIPConfig(
        text_config={**SIZE, "vocab_size": len(words), "max_position_embeddings": 32, "eos_token_id": 2},
        vision_config={**SIZE, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return save(folder, CLIPModel(config), words, processor)


def siglip(folder: Path) -> Any:
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    config = SiglipConfig(
        text_config={**SIZE, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 16},
        vision_config={**SIZE, "image_size": 16, "patch_size": 8},
    )
    return save(folder, SiglipModel(config), words, SiglipImageProcessorPil(size={"height": 16, "width": 16}))


def siglip2(folder: Path) -> Any:
    """The variant that keeps the shape of images: patches, their mask and their grid."""
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    config = Siglip2Config(
        text_config={**SIZE, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 16},
        vision_config={**SIZE, "patch_size": 8, "num_patches": 16},
    )
    return save(folder, Siglip2Model(config), words, Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16))


def clap(folder: Path, *, fused: bool = False) -> Any:
    """Hears a second at once; `fused`: the variant with a second branch for longer clips."""
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    audio = {
        "spec_size": 32, "num_mel_bins": 16, "window_size": 4, "depths": [1, 1], "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8, "hidden_size": 16, "enable_fusion": fused, "num_classes": 4,
        "fusion_type": "aff_2d" if fused else None,
    }  # fmt: skip
    text = {**SIZE, "vocab_size": len(words), "max_position_embeddings": 34, "pad_token_id": 0}
    extractor = ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE_HZ, hop_length=160, max_length_s=1, fft_window_size=512,
        frequency_max=4000, truncation="fusion" if fused else "rand_trunc",
    )  # fmt: skip
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
    return save(folder, model, words, extractor)


def ast(folder: Path) -> Any:
    torch.manual_seed(0)
    model = ASTModel(ASTConfig(**SIZE, patch_size=8, frequency_stride=8, time_stride=8, max_length=16, num_mel_bins=16))
    return save(folder, model, ASTFeatureExtractor(sampling_rate=RATE_HZ, num_mel_bins=16, max_length=16))


def whisper(folder: Path) -> Any:
    torch.manual_seed(0)
    model = WhisperModel(
        WhisperConfig(
            vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, max_source_positions=50,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(
        feature_size=16, sampling_rate=RATE_HZ, hop_length=80, chunk_length=1, n_fft=200
    )
    return save(folder, model, extractor)


def wav2vec2(folder: Path, *, norm: str, hubert: bool = False) -> Any:
    """`layer`: padding can be masked out; `group`: the first convolution sees the padding."""
    torch.manual_seed(0)
    config, model = (HubertConfig, HubertModel) if hubert else (Wav2Vec2Config, Wav2Vec2Model)
    model = model(
        config(
            **SIZE, conv_dim=(16, 16), conv_kernel=(20, 8), conv_stride=(10, 8), num_feat_extract_layers=2,
            feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=RATE_HZ, do_normalize=True, return_attention_mask=norm == "layer"
    )
    return save(folder, model, extractor)


def videomae(folder: Path) -> Any:
    torch.manual_seed(0)
    model = VideoMAEModel(VideoMAEConfig(**SIZE, image_size=16, patch_size=8, num_frames=4, tubelet_size=2))
    return save(folder, model, VideoMAEImageProcessorPil(do_resize=False, do_center_crop=False))


def timesformer(folder: Path) -> Any:
    torch.manual_seed(0)
    model = TimesformerModel(TimesformerConfig(**SIZE, image_size=16, patch_size=8, num_frames=4))
    return save(folder, model, VideoMAEImageProcessorPil(do_resize=False, do_center_crop=False))


def patch_tsmixer(folder: Path) -> Any:
    torch.manual_seed(0)
    model = PatchTSMixerModel(
        PatchTSMixerConfig(
            num_input_channels=3, context_length=16, patch_length=4, patch_stride=4, d_model=16, num_layers=2,
            mode="mix_channel",
        )
    )  # fmt: skip
    return save(folder, model)


def patch_tst(folder: Path) -> Any:
    torch.manual_seed(0)
    model = PatchTSTModel(
        PatchTSTConfig(
            num_input_channels=3, context_length=16, patch_length=4, patch_stride=4, d_model=16, num_hidden_layers=1,
            num_attention_heads=2, ffn_dim=32,
        )
    )  # fmt: skip
    return save(folder, model)


def roberta(folder: Path, *, pooler: bool = False) -> Any:
    torch.manual_seed(0)
    tokenizer = smiles_tokenizer()
    model = RobertaModel(
        RobertaConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=0, type_vocab_size=1),
        add_pooling_layer=pooler,
    )
    return save(folder, model, tokenizer)


def bert(folder: Path) -> Any:
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    return save(folder, BertModel(BertConfig(**SIZE, vocab_size=len(words), max_position_embeddings=32)), words)


def gpt2(folder: Path) -> Any:
    """A decoder as they are published: texts are padded on the left, by no token of its own."""
    torch.manual_seed(0)
    words = word_tokenizer(WORDS)
    model = GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=len(words)))
    words.padding_side, words.pad_token = "left", None
    return save(folder, model, words)
