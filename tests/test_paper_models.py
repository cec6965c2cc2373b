"""The models of the paper, with random weights of their architectures, and the commands that docs/models.md gives."""

import inspect
import re
from pathlib import Path

import pytest
from helpers import answers, evaluate, usages
from lmms_eval.models import get_model
from lmms_eval.utils import simple_parse_args_string
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from comem_lmms import micro
from comem_lmms.models.arguments import Arguments, RagArguments, parse

MODELS = Path(__file__).parents[1] / "docs" / "models.md"
COMMAND = re.compile(r"^lmms-eval --model (\w+) +--model_args (\S+) --tasks \w+$", re.M)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TEMPLATE = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for part in m.content %}"
    "{{ '<image>\n' if part.type == 'image' else part.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def llava(folder: Path, text: type, is_next: bool = False) -> None:
    """LLaVA-1.5, or LLaVA-1.6 and LLaVA-NeXT, on the text model they were made of."""
    tokenizer = AutoTokenizer.from_pretrained(micro.resolve("micro", "vlm"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"image_size": 28, "patch_size": 14, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, projection_dim=16, **sizes)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    parts = {
        "vision_config": vision,
        "text_config": text(vocab_size=len(tokenizer), **TEXT, **ends),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    how = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    images = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    if is_next:
        grid = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
        LlavaNextForConditionalGeneration(LlavaNextConfig(**parts, **grid)).save_pretrained(folder)
        pictures = LlavaNextImageProcessor(**images, **grid)
        processor = LlavaNextProcessor(pictures, tokenizer, chat_template=TEMPLATE, **how)
    else:
        LlavaForConditionalGeneration(LlavaConfig(**parts)).save_pretrained(folder)
        processor = LlavaProcessor(CLIPImageProcessor(**images), tokenizer, chat_template=TEMPLATE, **how)
    processor.save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL; Qwen2.5-VL is what the bundled micro model is."""
    processor = AutoProcessor.from_pretrained(micro.resolve("micro", "vlm"))
    ids = processor.tokenizer.convert_tokens_to_ids
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "bos_token_id": None}
    text = {**TEXT, **ends, "vocab_size": len(processor.tokenizer), "rope_parameters": rope}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **{k: ids(v) for k, v in names.items()})
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "layout", "other"),
    [
        pytest.param(lambda folder: llava(folder, LlamaConfig), "text", "turns", id="LLaVA-1.5"),
        pytest.param(lambda folder: llava(folder, MistralConfig, True), "turns", "text", id="LLaVA-1.6-Mistral"),
        pytest.param(lambda folder: llava(folder, LlamaConfig, True), "turns", "text", id="LLaVA-NeXT-LLaMA3"),
        pytest.param(qwen2_vl, "turns", "text", id="Qwen2-VL"),
    ],
)
def test_architectures_run_in_the_layout_of_the_reference(make, layout, other, tmp_path):
    make(tmp_path)
    arguments = f"pretrained={tmp_path},device=cpu,dtype=float32"

    def run(model: str, more: str = "", size: int = 2) -> tuple[list[str], list[int]]:
        results = evaluate(model, model_args=arguments + more, limit=2, batch_size=size)
        return answers(results), [usage["input_tokens"] for usage in usages(results)]

    default = run("vanilla_rag", ",top_k=2")
    assert default == run("vanilla_rag", f",top_k=2,layout={layout}", size=1)
    assert default[1] != run("vanilla_rag", f",top_k=2,layout={other}")[1]
    assert all(rag > alone for rag, alone in zip(default[1], run("baseline")[1], strict=True))


@pytest.mark.parametrize("is_next", [False, True], ids=["LLaVA-1.5", "LLaVA-1.6"])
def test_the_llava_of_lmms_eval_answers_as_our_own_reader(is_next, tmp_path):
    pytest.importorskip("decord")
    llava(tmp_path, MistralConfig if is_next else LlamaConfig, is_next)
    arguments = f"pretrained={tmp_path},dtype=float32,top_k=2,layout={'turns' if is_next else 'text'}"
    own = evaluate("vanilla_rag", model_args=f"{arguments},device=cpu", limit=3)
    based = evaluate("vanilla_rag", model_args=f"{arguments},base=llava_hf,device_map=cpu", device="cpu", limit=3)
    assert answers(based) == answers(own)
    assert any(answers(own))
    assert [u["retrieved"] for u in usages(based)] == [u["retrieved"] for u in usages(own)]


def test_commands_of_the_documentation_are_understood():
    commands = COMMAND.findall(MODELS.read_text())
    assert len(commands) == MODELS.read_text().count("\nlmms-eval --model ") >= 18
    for model, given in commands:
        kind: type[Arguments] = {"baseline": Arguments, "vanilla_rag": RagArguments}[model]
        arguments = simple_parse_args_string(given)
        if base := arguments.pop("base", None):
            own = set(kind.__dataclass_fields__) - set(Arguments.__dataclass_fields__)
            theirs = {name: arguments.pop(name) for name in set(arguments) - own}
            inspect.signature(get_model(base)).bind(**theirs)
        parse(kind, arguments)
