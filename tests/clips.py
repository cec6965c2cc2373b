"""Models of open_clip's architectures, small and with random weights, as folders."""

import json

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def save_clip(folder, config, vocabulary=None):
    """A folder as open_clip reads it with ``local-dir:``."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    arguments = {k: v for k, v in config["model_cfg"].items() if k != "custom_text"}
    torch.manual_seed(1)
    kind = open_clip.CustomTextCLIP if config["model_cfg"].get("custom_text") else open_clip.CLIP
    weights = kind(**arguments).state_dict()
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors")
    if vocabulary:
        tokens = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *vocabulary])}
        tokenizer = Tokenizer(models.WordLevel(tokens, "<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def small_config(name):
    """An architecture of open_clip with few layers."""
    config = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    text.update(width=32, heads=2, layers=1, context_length=8)
    config["embed_dim"] = 32
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    if "timm_model_name" in vision:
        sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
        vision.update(image_size=32, timm_model_name=vision["timm_model_name"], timm_kwargs=sizes)
    else:
        vision.update(image_size=32, layers=2, width=64)
    if "hf_tokenizer_name" in text:
        text["vocab_size"] = 64
        preprocess |= {"interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": config, "preprocess_cfg": preprocess}
