"""A tiny VLM of each family: the real architecture and processor class, random weights, a tokenizer of bytes.

Nothing here comes from a released model; chat templates are laid out as those of the family are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as hf
from helpers import chat
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from comem_lmms.records import KnowledgeItem
from comem_lmms.resampler import ResamplerConfig

WIDTH = 32
SIDE = 28  # of the square images, or crops of images, that a vision tower reads
Ids = Callable[[str], int]


class Template(NamedTuple):
    """A chat template: how turns of {role} begin and end, what asks for an answer, what stands for an image."""

    begin: str
    end: str
    ask: str
    image: str
    assistant: str | None = None  # how the assistant's turns begin, where it is not as all do
    text: str = ""  # in front of a text
    start: str = ""  # of the whole chat
    roles: tuple[tuple[str, str], ...] = ()  # names of roles

    def jinja(self) -> str:
        """As a template of transformers."""
        name = "m.role"
        for role, called in self.roles:
            name += f"|replace('{role}', '{called}')"
        begin = self.begin.replace("{role}", "{{ " + name + " }}")
        if self.assistant is not None:
            begin = "{% if m.role == 'assistant' %}" + self.assistant + "{% else %}" + begin + "{% endif %}"
        part = "{% if c.type == 'image' %}" + self.image + "{% else %}" + self.text + "{{ c.text }}{% endif %}"
        parts = "{% for c in m.content %}" + part + "{% endfor %}"
        asks = "{% if add_generation_prompt %}" + self.ask + "{% endif %}"
        return self.start + "{% for m in messages %}" + begin + parts + self.end + "{% endfor %}" + asks


class Family(NamedTuple):
    """What makes a tiny VLM.

    Attributes:
        tokens: special tokens by the name that the tokenizer has for them.
        config: of the model, from the ids of tokens.
        processor: from a tokenizer and a chat template.
        adds_bos: whether the tokenizer puts a token in front of every text.
        bare: parameters that multiply as a linear layer would, but belong to none, so that no adapter is on them.
    """

    template: Template
    tokens: dict[str, str]
    config: Callable[[Ids], Any]
    processor: Callable[..., Any]
    adds_bos: bool = False
    bare: tuple[str, ...] = ()


def save(family: str, folder: Path) -> None:
    """Writes a tiny VLM as a checkpoint."""
    made = FAMILIES[family]
    tokenizer = _tokenizer(made.tokens, made.adds_bos)
    made.processor(tokenizer, chat_template=made.template.jinja()).save_pretrained(folder)
    torch.manual_seed(1)
    model = hf.AutoModelForImageTextToText.from_config(made.config(tokenizer.convert_tokens_to_ids))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # as they start, answers would hardly depend on anything
            torch.nn.init.normal_(parameter, std=0.25)
    for name in ("pad", "bos", "eos"):
        setattr(model.generation_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    # A trained model writes no images; a random one would, and without a cache they would be looked for.
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids([*made.tokens.values()])
    model.save_pretrained(folder)


def _tokenizer(tokens: dict[str, str], adds_bos: bool) -> hf.PreTrainedTokenizerFast:
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    model = Tokenizer(BPE(vocabulary, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(list(tokens.values()))
    if adds_bos:
        bos = tokens["bos_token"]
        model.post_processor = processors.TemplateProcessing(f"{bos} $A", None, [(bos, model.token_to_id(bos))])
    named = {name: token for name, token in tokens.items() if name in ("bos_token", "eos_token", "pad_token")}
    extra = {name: token for name, token in tokens.items() if name not in named}
    return hf.PreTrainedTokenizerFast(tokenizer_object=model, extra_special_tokens=extra, **named)


def _text(ids: Ids, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 288,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        **more,
    }


def _vision(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 14,
        **more,
    }


def _images(kind: type, **more: Any) -> Any:
    return kind(size={"height": SIDE, "width": SIDE}, **more)


# Qwen.

_QWEN = Template(
    "<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|vision_start|><|image_pad|><|vision_end|>"
)
_QWEN_TOKENS = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "turn_token": "<|im_start|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def _qwen(kind: type, rope: dict[str, Any], vision: dict[str, Any], **text: Any) -> Callable[[Ids], Any]:
    def config(ids: Ids) -> Any:
        return kind(
            text_config=_text(ids, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **rope}, **text),
            vision_config={"num_heads": 4, "depth": 3, **vision},
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )

    return config


def _qwen_processor(kind: type, patch: int, video: type) -> Callable[..., Any]:
    def processor(tokenizer: Any, **more: Any) -> Any:
        size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (6 * patch) ** 2}
        images = hf.Qwen2VLImageProcessor(size=size, patch_size=patch)
        return kind(images, tokenizer, video(patch_size=patch), **more)

    return processor


_MROPE = {"mrope_section": [2, 1, 1]}
_QWEN2_VISION = {"embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2}
_QWEN25_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": WIDTH,
    "fullatt_block_indexes": [1],
    "window_size": 56,
}
_QWEN3_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
_QWEN3_MROPE = {**_MROPE, "mrope_interleaved": True}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]}

# LLaVA.

_LLAVA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
_ONEVISION_TOKENS = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "turn_token": "<|im_start|>",
    "image_token": "<image>",
    "video_token": "<video>",
}
_PINPOINTS = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _llava(kind: type, text: str, vision: str, **more: Any) -> Callable[[Ids], Any]:
    def config(ids: Ids) -> Any:
        return kind(
            text_config=_text(ids, model_type=text),
            vision_config=_vision(model_type=vision, vision_use_head=False),
            image_token_index=ids("<image>"),
            **more,
        )

    return config


def _clip_images(kind: type, **more: Any) -> Any:
    return kind(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **more)


def _llava_processor(tokenizer: Any, **more: Any) -> Any:
    more |= {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(_clip_images(hf.CLIPImageProcessor), tokenizer, **more)


def _llava_next_processor(tokenizer: Any, **more: Any) -> Any:
    images = _clip_images(hf.LlavaNextImageProcessor, image_grid_pinpoints=_PINPOINTS)
    more |= {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaNextProcessor(images, tokenizer, **more)


def _onevision_processor(tokenizer: Any, **more: Any) -> Any:
    images = _images(hf.LlavaOnevisionImageProcessor, image_grid_pinpoints=_PINPOINTS)
    video = hf.LlavaOnevisionVideoProcessor()
    return hf.LlavaOnevisionProcessor(
        images, tokenizer, video, num_image_tokens=4, vision_feature_select_strategy="full", **more
    )


# InternVL.

_INTERNVL_TOKENS = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "turn_token": "<|im_start|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def _internvl(ids: Ids) -> Any:
    return hf.InternVLConfig(
        text_config=_text(ids, model_type="qwen2"),
        vision_config=_vision(image_size=[SIDE, SIDE], patch_size=[7, 7]),
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )


def _internvl_processor(tokenizer: Any, **more: Any) -> Any:
    images = _images(hf.GotOcr2ImageProcessor, crop_to_patches=True, max_patches=3)
    return hf.InternVLProcessor(images, tokenizer, hf.InternVLVideoProcessor(), image_seq_length=4, **more)


# Gemma 3.

_GEMMA_TOKENS = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
    "start_token": "<start_of_turn>",
    "end_token": "<end_of_turn>",
}


def _gemma3(ids: Ids) -> Any:
    return hf.Gemma3Config(
        text_config=_text(
            ids, sliding_window=48, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8
        ),
        vision_config=_vision(model_type="siglip_vision_model", patch_size=7, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )


def _gemma3_processor(tokenizer: Any, **more: Any) -> Any:
    return hf.Gemma3Processor(_images(hf.Gemma3ImageProcessor), tokenizer, image_seq_length=4, **more)


# Idefics3 and SmolVLM.

_IDEFICS = Template(
    "{role}:", "<end_of_utterance>\n", "Assistant:", "<image>", "Assistant: ", roles=(("user", "User"),)
)
_IDEFICS_TOKENS = {
    "pad_token": "<pad>",
    "eos_token": "<end_of_utterance>",
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
    **{f"row_{r}_{c}": f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)},
}


def _idefics(kind: type) -> Callable[[Ids], Any]:
    def config(ids: Ids) -> Any:
        return kind(
            text_config=_text(ids, model_type="llama"),
            vision_config=_vision(patch_size=7),
            image_token_id=ids("<image>"),
        )

    return config


def _idefics_processor(kind: type, image: type, *video: type) -> Callable[..., Any]:
    def processor(tokenizer: Any, **more: Any) -> Any:
        images = image(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
        return kind(images, tokenizer, *(v() for v in video), image_seq_len=4, **more)

    return processor


FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(
        _QWEN,
        _QWEN_TOKENS,
        _qwen(hf.Qwen2VLConfig, _MROPE, _QWEN2_VISION),
        _qwen_processor(hf.Qwen2VLProcessor, 14, hf.Qwen2VLVideoProcessor),
    ),
    "qwen2_5_vl": Family(
        _QWEN,
        _QWEN_TOKENS,
        _qwen(hf.Qwen2_5_VLConfig, _MROPE, _QWEN25_VISION),
        _qwen_processor(hf.Qwen2_5_VLProcessor, 14, hf.Qwen2VLVideoProcessor),
    ),
    "qwen3_vl": Family(
        _QWEN,
        _QWEN_TOKENS,
        _qwen(hf.Qwen3VLConfig, _QWEN3_MROPE, _QWEN3_VISION),
        _qwen_processor(hf.Qwen3VLProcessor, 16, hf.Qwen3VLVideoProcessor),
    ),
    "qwen3_vl_moe": Family(
        _QWEN,
        _QWEN_TOKENS,
        _qwen(hf.Qwen3VLMoeConfig, _QWEN3_MROPE, _QWEN3_VISION, **_MOE),
        _qwen_processor(hf.Qwen3VLProcessor, 16, hf.Qwen3VLVideoProcessor),
        bare=("mlp.gate.weight", "experts.gate_up_proj", "experts.down_proj"),
    ),
    "llava": Family(
        Template("USER: ", " ", "ASSISTANT:", "<image>\n", "ASSISTANT: "),
        _LLAVA_TOKENS,
        _llava(hf.LlavaConfig, "llama", "clip_vision_model", image_seq_length=4),
        _llava_processor,
        adds_bos=True,
    ),
    "llava_next": Family(
        Template("[INST] ", "{{ '</s> ' if m.role == 'assistant' else ' [/INST]' }}", "", "<image>\n", " "),
        _LLAVA_TOKENS,
        _llava(hf.LlavaNextConfig, "mistral", "clip_vision_model", image_grid_pinpoints=_PINPOINTS),
        _llava_next_processor,
        adds_bos=True,
    ),
    "llava_onevision": Family(
        Template("<|im_start|>{role} ", "<|im_end|>", "<|im_start|>assistant\n", "<image>", text="\n"),
        _ONEVISION_TOKENS,
        _llava(hf.LlavaOnevisionConfig, "qwen2", "siglip_vision_model", image_grid_pinpoints=_PINPOINTS),
        _onevision_processor,
    ),
    "internvl": Family(
        Template("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<IMG_CONTEXT>\n"),
        _INTERNVL_TOKENS,
        _internvl,
        _internvl_processor,
    ),
    "gemma3": Family(
        Template(
            "<start_of_turn>{role}\n",
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
            "<start_of_image>",
            start="{{ bos_token }}",
            roles=(("assistant", "model"),),
        ),
        _GEMMA_TOKENS,
        _gemma3,
        _gemma3_processor,
        adds_bos=True,
        bare=("mm_input_projection_weight",),
    ),
    "idefics3": Family(
        _IDEFICS._replace(start="<|begin_of_text|>"),
        {"bos_token": "<|begin_of_text|>", **_IDEFICS_TOKENS},
        _idefics(hf.Idefics3Config),
        _idefics_processor(hf.Idefics3Processor, hf.Idefics3ImageProcessor),
        adds_bos=True,
    ),
    "smolvlm": Family(
        _IDEFICS._replace(start="<|im_start|>"),
        {"bos_token": "<|im_start|>", **_IDEFICS_TOKENS},
        _idefics(hf.SmolVLMConfig),
        _idefics_processor(hf.SmolVLMProcessor, hf.SmolVLMImageProcessor, hf.SmolVLMVideoProcessor),
    ),
}

# What they are shown.

RESAMPLER = ResamplerConfig(dim=WIDTH, input_dim=WIDTH, depth=2, heads=2, dim_head=16, init_std=0.2)


def image(seed: int, width: int = 60, height: int = 50) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8))


ITEMS = [
    KnowledgeItem("0", "no image", "first of its batch"),
    KnowledgeItem("1", "wide", "a text " * 5, image(1, 80, 30)),
    KnowledgeItem("2", "tall", "", image(2, 30, 80)),
    KnowledgeItem("3", "as the next", "but for the image", image(3)),
    KnowledgeItem("3", "as the next", "but for the image", image(4)),
    KnowledgeItem("3", "as the next", "but for the image"),
]
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "No."}]}
CHATS = [
    chat("No image, and first of its batch?"),
    chat("Who?", image(5)),
    chat("A longer question, on an image of another shape?", image(6, 30, 80)),
    chat("Two images?", image(7, 28, 28), image(8, 90, 40)),
    chat("?"),
    chat("What is this?", image(9, 40, 90)),
    [*chat("And after a turn before?", image(10)), ANSWER, *chat("Why not?")],
    chat("Who was it, then, of whom nobody has a picture?"),
]
