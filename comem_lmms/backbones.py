"""What differs between VLM families: one row a family, by the ``model_type`` of its config."""

from dataclasses import dataclass
from typing import NamedTuple

from comem_lmms.errors import UserError


class ItemLayout(NamedTuple):
    """How a knowledge item reads while it is encoded; {image}, {instruction} and {text} are filled in.

    Attributes:
        question, answer: the user's turn and the assistant's, tokenized apart.
        image: what stands for an image in the text that the processor expands.
    """

    question: str
    answer: str
    image: str


@dataclass(frozen=True)
class Backbone:
    """A VLM family whose members read a memory.

    Attributes:
        item: the layout of a knowledge item, where it is not that of the processor's chat template: image and
            instruction from the user, the text from the assistant.
    """

    item: ItemLayout | None = None


# The reference's: turns as in the chat template, without the system turn that it would add.
_WITHOUT_SYSTEM = Backbone(
    ItemLayout(
        "<|im_start|>user\n{image}{instruction}<|im_end|>\n<|im_start|>assistant\n",
        "{text}<|im_end|>\n",
        "<|vision_start|><|image_pad|><|vision_end|>",
    )
)

BACKBONES: dict[str, Backbone] = {
    "qwen2_5_vl": _WITHOUT_SYSTEM,
    "qwen2_vl": _WITHOUT_SYSTEM,
    "qwen3_vl": Backbone(),
    "qwen3_vl_moe": Backbone(),
    "llava": Backbone(),
    "llava_next": Backbone(),
    "llava_onevision": Backbone(),
    "internvl": Backbone(),
    "gemma3": Backbone(),
    "idefics3": Backbone(),
    "smolvlm": Backbone(),
}

# Why a memory cannot stand in front of the prompt of these.
REFUSED: dict[str, str] = {
    "mllama": "its images enter by cross-attention, under a mask of the prompt's tokens that has no place for a memory",
    "fuyu": "its processor has no chat template and puts images where it likes, in front of the whole prompt",
}


def backbone(model_type: str) -> Backbone:
    """The row of a family.

    Raises:
        UserError: memory is not supported for the family.
    """
    if model_type not in BACKBONES:
        reason = f" ({REFUSED[model_type]})" if model_type in REFUSED else ""
        raise UserError(
            f"memory is not supported for VLMs of type {model_type!r}{reason}, only for {', '.join(BACKBONES)}; "
            "baseline and vanilla_rag work with any model of lmms-eval through base="
        )
    return BACKBONES[model_type]
