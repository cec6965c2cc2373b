"""Makes the micro processor: nothing in, a tokenizer, image processor and chat template in one out.

The tokenizer is a Unigram model over bytes whose vocabulary is written down rather than learnt: all bytes, and
the words of MicroSeek with and without a leading space. It encodes any text, and MicroSeek's in few tokens.
"""

import re

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from comem_lmms.microseek.words import ATTRIBUTES, NAME_HEADS, NAME_TAILS
from comem_lmms.prompts import ENCODE_INSTRUCTION

SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PIXELS = 112 * 112  # every image becomes 8 x 8 patches, 16 tokens

# The turn format of Qwen-VL: a default system turn, <|im_start|>role ... <|im_end|>, images as placeholders.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_processor() -> Qwen2_5_VLProcessor:
    """The processor of the micro VLM; 112 x 112 pixels for every image."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_make_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=4096,
        padding_side="left",
    )
    image_processor = Qwen2VLImageProcessorPil(min_pixels=PIXELS, max_pixels=PIXELS)
    return Qwen2_5_VLProcessor(image_processor, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def spaced_pairs(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """(id of " word", id of "word") for every word that has both."""
    vocabulary = tokenizer.get_vocab()
    return sorted(
        (id_, vocabulary[token[1:]])
        for token, id_ in vocabulary.items()
        if token[:1] == "Ġ" and token[1:] in vocabulary
    )


def _make_tokenizer() -> Tokenizer:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(word for text in _texts() for word in re.findall(r"\w+", text))
    heads = [*words, *NAME_HEADS]
    pieces += [piece for piece in dict.fromkeys([*heads, *("Ġ" + w for w in heads), *NAME_TAILS]) if len(piece) > 1]
    scores = [(piece, -20.0 if len(piece) == 1 else -1.0) for piece in dict.fromkeys(pieces)]
    tokenizer = Tokenizer(Unigram(scores))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _texts() -> list[str]:
    sentences = [text for a in ATTRIBUTES for text in (a.sentence.format(name="", value=""), a.question, *a.values)]
    return ["system user assistant You are a helpful", ENCODE_INSTRUCTION, *sentences]
