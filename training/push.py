"""Uploads a memory encoder to the Hugging Face Hub: a folder in, a commit with the encoder and its card out.

Nothing but the encoder's own files and the card goes there: no checkpoint, log or path of this machine.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.training.card import make_card
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from comem_lmms import micro
from comem_lmms.encoder import CONFIG, FILES, MERGED_FILES, MERGED_PATTERNS, is_merged, locate
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import is_hub_id, read_json

ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"


class Pushed(NamedTuple):
    """Where an encoder is: the commit, and the page that shows it."""

    commit: str
    url: str


class Parcel:
    """What is uploaded of a memory encoder.

    Attributes:
        folder: of the encoder.
        files: by name, as they are on the Hub: a file of the folder, or other content.

    Raises:
        UserError: the folder holds no trained encoder, or one for a VLM that others do not have.
    """

    def __init__(self, source: str, base: str | None = None) -> None:
        self.folder = locate(source)
        if not (self.folder / CONFIG).is_file():
            begun = (self.folder / "checkpoints").is_dir()
            raise UserError(
                f"no trained memory encoder at {source!r}: {CONFIG} is missing; "
                + ("its training has not ended: go on with it" if begun else "give the out= of a training")
            )
        self.about = read_json(self.folder / CONFIG, "vlm", "hidden_size", "resampler")
        merged = is_merged(self.about)
        self.adapter = None if merged else read_json(self.folder / ADAPTER_CONFIG, "r", "lora_alpha")
        self.about["vlm"] = _name_of_vlm(source, self.about["vlm"], base)
        self.files: dict[str, Path | bytes] = {}
        for name in _names(source, self.folder, merged):
            self.files[name] = self.folder / name
        self.files[CONFIG] = _json(self.about)
        if self.adapter is not None:
            self.adapter["base_model_name_or_path"] = self.about["vlm"]
            self.files[ADAPTER_CONFIG] = _json(self.adapter)

    def add_card(self, repository: str, licence: str | None, results: Path | None) -> str:
        """Puts the card in, and returns it."""
        card = make_card(self.folder, self.about, self.adapter, repository, licence, results)
        self.files[CARD] = card.encode()
        return card


def push(parcel: Parcel, repository: str, private: bool = False, revision: str | None = None) -> Pushed:
    """Uploads an encoder in one commit, so that whoever loads it gets all of one encoder.

    Args:
        repository: ``owner/name``; made if need be.
        private: a repository that is made, or must be there already, is not public.
        revision: the branch; made if need be.

    Raises:
        UserError: nobody is logged in, the Hub cannot be reached or refuses, or the repository holds other weights or
            is public where it must not be.
    """
    if get_token() is None:
        raise UserError(
            "nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token that may write"
        )
    try:
        return _push(HfApi(), parcel, repository, private, revision)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"the Hub does not let this token write to {repository} ({status}, {_said(error)}); run "
                "`hf auth login` with one that may, or name another repository"
            ) from error
        raise UserError(
            f"the Hub refuses {repository} ({status}, {_said(error)}); put that right and push again"
        ) from error
    except UserError:
        raise
    except Exception as error:  # huggingface_hub, httpx and hf_xet raise a dozen kinds
        raise UserError(
            f"cannot upload to {repository} at {constants.ENDPOINT} ({one_line(error)}); check the network and push "
            "again, or write the card alone with --card-only FILE"
        ) from error


def check_name(repository: str) -> None:
    """Raises UserError unless it is ``owner/name``."""
    if not is_hub_id(repository) or "@" in repository:
        raise UserError(f"{repository!r} is no repository of the Hub; give OWNER/NAME")


def _push(api: HfApi, parcel: Parcel, repository: str, private: bool, revision: str | None) -> Pushed:
    api.create_repo(repository, private=private or None, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise UserError(f"{repository} is there already and public; make it private on the Hub, or leave --private out")
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    there = api.list_repo_files(repository, revision=revision)
    if other := [name for name in there if ".safetensors" in name and name not in parcel.files]:
        raise UserError(
            f"{repository} holds weights that are not this encoder's, e.g. {other[0]}; remove them there, or push to "
            "another repository"
        )
    operations = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
    info = api.create_commit(repository, operations, commit_message="Upload memory encoder", revision=revision)
    return Pushed(info.oid, f"{api.endpoint}/{repository}/tree/{info.oid}")


def _name_of_vlm(source: str, vlm: str, base: str | None) -> str:
    """As others call it."""
    if base is not None:
        if not is_hub_id(base):
            raise UserError(f"--base {base!r} is no repository of the Hub; give OWNER/NAME")
        return base
    if vlm == micro.NAME or (is_hub_id(vlm) and not Path(vlm).is_dir()):
        return vlm
    raise UserError(
        f"memory encoder {source!r} was made for {vlm!r}, a folder that others do not have; give --base OWNER/NAME, "
        "the VLM's name on the Hub"
    )


def _names(source: str, folder: Path, merged: bool) -> list[str]:
    needed = MERGED_FILES if merged else FILES
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise UserError(f"no trained memory encoder at {source!r}: {missing[0]} is missing; copy or merge it again")
    if not merged:
        return list(FILES)
    return sorted({path.name for pattern in MERGED_PATTERNS for path in folder.glob(pattern)})


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _said(error: HfHubHTTPError) -> str:
    return " ".join((error.server_message or one_line(error)).split())[:200]
