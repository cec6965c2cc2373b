"""Going on from a memory encoder that is there: a saved one in, its weights in the one to train out."""

from comem_lmms.encoder import MemoryEncoder, check, check_vlm, is_merged, locate
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json

FRESH = ("init_std", "init_scale")  # of a resampler; they say nothing of one that is trained


def go_on_from(encoder: MemoryEncoder, start: str) -> None:
    """Gives a fresh encoder the weights of a saved one.

    Raises:
        UserError: there is none, it was made for another VLM, has another shape, is merged, or is damaged.
    """
    about = check(start, encoder.vlm.name, encoder.vlm.config.model_type, encoder.vlm.hidden_size)
    if is_merged(about):
        raise UserError(f"start={start!r} is merged and has no adapter to train; give the encoder that it was made of")
    check_vlm(start, about, encoder.vlm)
    adapter = read_json(locate(start) / "adapter_config.json", "r", "lora_alpha")
    there = {**about["resampler"], "rank": adapter["r"], "alpha": adapter["lora_alpha"]}
    wanted = {
        **vars(encoder.resampler.config),
        "rank": encoder.adapter_config.r,
        "alpha": encoder.adapter_config.lora_alpha,
    }
    for name, value in wanted.items():
        if name not in FRESH and there.get(name) != value:
            setting = {"n_vectors": "vectors", "dim_head": "heads"}.get(name, name)
            raise UserError(
                f"start={start!r} has {name}={there.get(name)}, the settings ask for {value}; change {setting}="
            )
    try:
        encoder.restore(locate(start))
    except Exception as error:  # safetensors, peft and torch each raise their own for a damaged file
        raise UserError(f"memory encoder {start!r} is damaged ({one_line(error)}); copy it again") from error
