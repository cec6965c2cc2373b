"""What differs between VLM families: one row a family, by the ``model_type`` of its config."""

from dataclasses import dataclass

from comem_lmms.errors import UserError

# The turn format of the Qwen-VL family without the system turn its chat template would add: an item is encoded as
# image and instruction from the user and text from the assistant.
_CHATML_ITEM = (
    "<|im_start|>user\n{image}{instruction}<|im_end|>\n<|im_start|>assistant\n",
    "{text}<|im_end|>\n",
    "<|vision_start|><|image_pad|><|vision_end|>",
)


@dataclass(frozen=True)
class Backbone:
    """A VLM family.

    Attributes:
        item_question, item_answer: how a knowledge item reads while it is encoded, the user's turn and the assistant's;
            {image}, {instruction} and {text} are filled in.
        image_text: what stands for an image in the text that the processor expands.
        lora_targets: regular expression over module names: every linear layer of the language model, the vision tower
            and the merger; neither the patch embedding, the token embedding nor the head.
    """

    item_question: str
    item_answer: str
    image_text: str
    lora_targets: str


_QWEN_LANGUAGE = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_QWEN_VISION = (
    r".*visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate_proj|up_proj|down_proj|fc1|fc2))|merger\.mlp\.[02])"
)

BACKBONES: dict[str, Backbone] = {
    name: Backbone(*_CHATML_ITEM, lora_targets=f"({_QWEN_LANGUAGE}|{_QWEN_VISION})")
    for name in ("qwen2_5_vl", "qwen2_vl")
}


def backbone(model_type: str) -> Backbone:
    """The row of a family.

    Raises:
        UserError: memory is not supported for the family.
    """
    if model_type not in BACKBONES:
        raise UserError(
            f"memory is not supported for VLMs of type {model_type!r}, only for {', '.join(BACKBONES)}; "
            "baseline and vanilla_rag work with any chat model through base="
        )
    return BACKBONES[model_type]
