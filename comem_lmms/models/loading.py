"""What CoMEM's arguments name: arguments in, reader, encoder and memories out, loaded when they are asked for."""

from functools import cached_property
from pathlib import Path
from typing import Any

from loguru import logger

from comem_lmms import encoder, reference
from comem_lmms.backbones import backbone
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError
from comem_lmms.fingerprints import checkpoint_fingerprint
from comem_lmms.memory import MANIFEST, BankInfo, Memories, MemoryBank, ProcessMemories
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.vlm import FrozenVLM, hidden_size, load_processor, read_config


class Parts:
    """The frozen VLM that reads, the memory encoder, and the memories.

    Args:
        arguments: of CoMEM.
        device: where models go.

    Raises:
        UserError: parts are missing or do not fit together, as far as can be told without loading a model.
    """

    def __init__(self, arguments: MemoryArguments, device: str) -> None:
        self.arguments, self.device = arguments, device
        self.source = arguments.memory_encoder if arguments.memory_bank else arguments.encoder
        self.is_reference = self.source is not None and reference.is_reference(self.source)
        self.compat = arguments.compat or ("reference" if self.is_reference else "clean")
        self._config = read_config(arguments.pretrained, arguments.revision)
        self._check()
        self.bank = self._open_bank()

    @cached_property
    def reader(self) -> FrozenVLM:
        """What answers."""
        a = self.arguments
        if self.is_reference and self.compat == "reference":
            return self._of_reference[1]
        vlm = FrozenVLM.load(
            a.pretrained, a.dtype, self.device, a.attn_implementation, a.min_pixels, a.max_pixels, a.revision
        )
        if self.bank and self.bank.info.vlm_embeddings != (given := vlm.embeddings_fingerprint):
            raise UserError(
                f"memory bank {self.bank.folder} was made for {self.bank.info.vlm!r} (embeddings "
                f"{self.bank.info.vlm_embeddings[:12]}), another checkpoint than pretrained={a.pretrained!r} "
                f"({given[:12]}); give that VLM or another memory_bank"
            )
        if self.is_reference:
            assert self.source is not None
            difference = reference.Checkpoint(self.source).reader_difference(vlm.model.state_dict())
            if difference is not None:
                found = f"differs from it by up to {difference:.2e} (quirk 3)" if difference else "equals it"
                logger.info(f"pretrained={a.pretrained!r} answers; model_inf of {self.source!r} {found}")
        return vlm

    @cached_property
    def encoder(self) -> MemoryEncoder:
        """What makes memories.

        Raises:
            UserError: none was given.
        """
        a = self.arguments
        if self.source is None:
            raise UserError(
                f"pretrained={a.pretrained!r} needs memory_encoder= to encode items; give its folder or Hub id"
            )
        if not self.is_reference:
            return MemoryEncoder.load(self.source, self.reader)
        if self.compat == "reference":
            return self._of_reference[0]
        return reference.load_encoder(
            reference.Checkpoint(self.source),
            a.pretrained,
            FrozenVLM,
            a.dtype,
            self.device,
            a.attn_implementation,
            (a.min_pixels, a.max_pixels),
            a.revision,
        )

    @cached_property
    def _of_reference(self) -> tuple[MemoryEncoder, FrozenVLM]:
        a = self.arguments
        assert self.source is not None
        placement = {
            "dtype": a.dtype,
            "device": self.device,
            "attention": a.attn_implementation,
            "revision": a.revision,
        }
        if not a.reader and reference.Checkpoint(self.source).reader_names:
            logger.info(
                f"model_inf of {self.source!r} answers; how far it is from the base VLM (quirk 3) is measured by "
                f"`comem-lmms convert {self.source} OUT --base {a.pretrained}`"
            )
        return reference.load(self.source, a.pretrained, a.reader, **placement)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Of each part that a memory depends on; without an encoder, as the bank has it."""
        a = self.arguments
        if self.source is None:
            assert self.bank is not None
            return self.bank.info.encoder
        processor = load_processor(a.pretrained, a.min_pixels, a.max_pixels, a.revision)
        return {
            "memory_encoder": (reference if self.is_reference else encoder).fingerprint(self.source),
            "vlm": checkpoint_fingerprint(a.pretrained, a.revision),
            "preprocessing": encoder.layout_fingerprint(processor, backbone(self._config.model_type)),
            "dtype": self._dtype(),
            "compat": self.compat,
        }

    @property
    def n_vectors(self) -> int:
        """Vectors an item becomes."""
        return self.bank.info.n_vectors if self.bank else self.encoder.n_vectors

    def memories(self, dtype: str | None = None) -> Memories:
        """The bank, made if it is not there (by another process perhaps), or memories that end with this process.

        Args:
            dtype: what a new bank stores; by default the encoder's.
        """
        if self.bank is None and self.arguments.memory_bank:
            self.bank = MemoryBank.create(self.arguments.memory_bank, self._info(dtype or self._dtype()))
        return ProcessMemories() if self.bank is None else self.bank

    def _info(self, dtype: str) -> BankInfo:
        made_for = self.encoder.vlm
        return BankInfo(
            encoder=self.fingerprint,
            vlm=self.arguments.pretrained,
            vlm_embeddings=made_for.embeddings_fingerprint,
            n_vectors=self.encoder.n_vectors,
            hidden_size=made_for.hidden_size,
            dtype=dtype,
        )

    def _dtype(self) -> str:
        """What the encoder computes in."""
        if self.arguments.dtype != "auto":
            return self.arguments.dtype
        if self.is_reference:
            return "bfloat16"
        return str(self._config.dtype or self.encoder.vlm.model.dtype).removeprefix("torch.")

    def _check(self) -> None:
        a = self.arguments
        made: tuple[Any, ...] = (a.pretrained, self._config.model_type, hidden_size(self._config))
        if self.is_reference:
            assert self.source is not None
            reference.check(self.source, *made)
            if self.compat == "reference":
                self._refuse(
                    "has no effect with compat=reference, which has limits of its own", "min_pixels", "max_pixels"
                )
            elif a.reader:
                raise UserError(f"reader={a.reader!r} is known in compat=reference only; leave one of them out")
            if a.reader:
                reference.check_reader(a.reader, hidden_size(self._config))
            return
        if self.source is not None:
            encoder.check(self.source, *made)
        if self.compat == "reference" or a.reader:
            given = f"memory_encoder={self.source!r} is not" if self.source else "no memory_encoder= is"
            raise UserError(
                f"{given} a checkpoint in the reference's layout, which compat=reference and reader= need; give one, "
                "or leave them out"
            )

    def _refuse(self, why: str, *names: str) -> None:
        for name in names:
            if (value := getattr(self.arguments, name)) is not None:
                raise UserError(f"{name}={value!r} {why}; leave it out")

    def _open_bank(self) -> MemoryBank | None:
        folder = self.arguments.memory_bank
        if not folder or (self.source is not None and not (Path(folder) / MANIFEST).is_file()):
            return None  # or to be made
        bank = MemoryBank.open(folder)
        if (width := hidden_size(self._config)) != bank.info.hidden_size:
            raise UserError(
                f"memory bank {folder} holds vectors of width {bank.info.hidden_size}, for {bank.info.vlm!r}, but "
                f"pretrained={self.arguments.pretrained!r} is {width} wide; give that VLM or another memory_bank"
            )
        if self.source is not None:
            bank.check_encoder(self.fingerprint)
        elif bank.info.encoder.get("compat", "clean") != "clean":
            raise UserError(
                f"memory bank {folder} was made with compat=reference, whose reader is part of the checkpoint; give "
                "memory_encoder= too"
            )
        return bank
