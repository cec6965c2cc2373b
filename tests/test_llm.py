"""A text-only model answers from the texts alone, and says what it has not seen."""

from pathlib import Path

import pytest
from helpers import answers, chat, evaluate, usages
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from comem_lmms import micro
from comem_lmms.llm import FrozenLLM, is_text_only
from comem_lmms.prompts import item_text
from comem_lmms.vlm import read_config

# Qwen2.5-Instruct's way of writing a chat, without its tools.
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Qwen2 of random weights with the tokenizer of the micro VLM."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{micro.resolve('micro', 'vlm')}/tokenizer.json",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def test_which_models_are_text_only(folder):
    assert is_text_only(read_config(str(folder)))
    assert not is_text_only(read_config("micro"))


def test_the_prompt_is_the_texts_in_the_tokenizers_template(folder):
    llm = FrozenLLM.load(str(folder), device="cpu")
    inputs = llm.prepare([chat("who?", "picture", "picture"), chat("who is this?")])
    short, long = llm.processor.tokenizer.batch_decode(inputs["input_ids"])
    assert long == (
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nwho is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    padding = int((inputs["attention_mask"][0] == 0).sum())
    assert padding > 0
    assert inputs["attention_mask"][0, padding:].all()
    assert short.endswith(long.replace("who is this?", "who?"))


def test_runs_in_the_harness(folder, knowledge, questions):
    arguments = f"pretrained={folder},device=cpu"
    alone = evaluate("baseline", model_args=arguments, limit=4, batch_size=2)
    assert {usage["images_dropped"] for usage in usages(alone)} == {1}
    one, four = (
        evaluate("vanilla_rag", model_args=f"{arguments},top_k=2,dtype=float32", limit=4, batch_size=size)
        for size in (1, 4)
    )
    assert answers(one) == answers(four)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question, usage in zip(questions, usages(one), strict=False):
        best, second = (item_text(knowledge[knowledge.find(id_)]) for id_ in usage["retrieved"])
        user = f"Reference Information: {second}Reference Information:  {best}Question: {question['question']}"
        turns = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": user}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert usage["input_tokens"] == len(tokenizer(prompt, add_special_tokens=False).input_ids)
        assert usage["images_dropped"] == 1  # that of the question: the layout has no others


def test_images_of_items_are_counted_in_a_layout_that_has_them(folder):
    run = evaluate("vanilla_rag", model_args=f"pretrained={folder},device=cpu,layout=turns,top_k=2", limit=1)
    assert usages(run)[0]["images_dropped"] == 3


def test_a_vlm_drops_no_image():
    for usage in usages(evaluate("vanilla_rag", limit=2, batch_size=2)):
        assert usage["images_dropped"] == 0
