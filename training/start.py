"""Going on from a memory encoder that is there: a saved one in, its weights in the one to train out."""

from typing import Any

from comem_lmms.training.settings import Settings
from peft import LoraConfig

from comem_lmms.encoder import NO_PART_OF_A_MEMORY, MemoryEncoder, check, check_vlm, is_merged, locate
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json
from comem_lmms.vlm import hidden_size, read_config

# What a shape and the settings call by different names.
CALLED = {"n_vectors": "vectors", "r": "rank", "lora_alpha": "alpha"}
SETTABLE = ("n_vectors", "depth", "heads", "r", "lora_alpha")
FRESH = ("init_std", "init_scale")  # of a resampler; they say nothing of one that is trained
MADE_FROM = (*NO_PART_OF_A_MEMORY, "auto_mapping")  # says how an adapter was made, not what it does


def check_start(settings: Settings) -> dict[str, Any]:
    """The configuration of the encoder that ``start`` names; no weights are loaded.

    Raises:
        UserError: there is none, it was made for another kind of VLM, has another shape, or is merged.
    """
    start = str(settings.start)
    vlm = read_config(settings.pretrained, settings.revision)
    about = check(start, settings.pretrained, vlm.model_type, hidden_size(vlm))
    if is_merged(about):
        raise UserError(f"start={start!r} is merged and has no adapter to train; give the encoder that it was made of")
    adapter = read_json(locate(start) / "adapter_config.json")
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha).to_dict()
    wanted = {**vars(settings.resampler(hidden_size(vlm))), **{k: v for k, v in lora.items() if k in adapter}}
    there = {**adapter, **about["resampler"]}
    for name, value in wanted.items():
        if name not in (*FRESH, *MADE_FROM) and there.get(name) != value:
            remedy = f"change {CALLED.get(name, name)}=" if name in SETTABLE else "give another"
            raise UserError(
                f"start={start!r} has {CALLED.get(name, name)}={there.get(name)}, and {value} is asked for; {remedy}"
            )
    return about


def go_on_from(settings: Settings, encoder: MemoryEncoder) -> None:
    """Gives a fresh encoder the weights of the one that ``start`` names.

    Raises:
        UserError: as `check_start`, or it was made for another VLM, or is damaged.
    """
    start = str(settings.start)
    check_vlm(start, check_start(settings), encoder.vlm)
    try:
        encoder.restore(locate(start))
    except Exception as error:  # safetensors, peft and torch each raise their own for a damaged file
        raise UserError(f"memory encoder {start!r} is damaged ({one_line(error)}); copy it again") from error
