"""Where a checkpoint's files are, and what they say without MLX: config, fingerprint, damage."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gemma_mlx.config import GemmaConfig, token_ids
from gemma_mlx.errors import CheckpointError
from gemma_mlx.system.files import read_json
from gemma_mlx.system.interrupts import held

_FILES = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")
_INDEX = "model.safetensors.index.json"
# Besides the weights, whatever decides what comes out.
_FINGERPRINTED = (
    "config.json",
    "generation_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder in Hugging Face format, of which each file is read when it is needed."""

    path: Path

    @cached_property
    def config(self) -> GemmaConfig:
        path = self.path / "config.json"
        return GemmaConfig.from_dict(_read_object(path), source=str(path))

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """End tokens of config.json and generation_config.json together: published
        instruction-tuned checkpoints name the end of a turn in only one of them."""
        ids = set(self.config.eos_token_ids)
        path = self.path / "generation_config.json"
        if path.exists():
            ids.update(token_ids(_read_object(path).get("eos_token_id"), f"{path}: eos_token_id"))
        return frozenset(ids)

    @property
    def has_tokenizer(self) -> bool:
        return (self.path / "tokenizer.json").exists() or (self.path / "tokenizer.model").exists()

    @property
    def chat_template_fingerprint(self) -> str | None:
        """sha256 over the chat template, wherever the checkpoint keeps it; None without one."""
        file = self.path / "chat_template.jinja"
        if file.exists():
            return sha256(file)
        for name in ("chat_template.json", "tokenizer_config.json"):
            path = self.path / name
            template = _read_object(path).get("chat_template") if path.exists() else None
            if template is not None:
                # Several templates are a list of objects.
                text = template if isinstance(template, str) else json.dumps(template)
                return hashlib.sha256(text.encode()).hexdigest()
        return None

    def read_tokenizer(self) -> Any:
        """The tokenizer as `transformers` reads it; raises whatever its parsers raise."""
        with held():
            from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            str(self.path), trust_remote_code=False, local_files_only=True
        )

    def weight_files(self) -> list[Path]:
        """Paths of the safetensors files, each of the size that its header says.

        Raises:
            CheckpointError: no weights, a file named by the index that isn't there, or a file
                that is truncated or not safetensors.
        """
        index = self.path / _INDEX
        if index.exists():
            weight_map = _read_object(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{index}: no weight_map")
            names = sorted({*map(str, weight_map.values())})
            for name in names:
                if Path(name).name != name or not name.endswith(".safetensors"):
                    raise CheckpointError(f"{index}: {name!r} is not a file of this folder")
                if not (self.path / name).exists():
                    raise CheckpointError(f"{index}: names {name}, which is missing")
        else:
            names = sorted(path.name for path in self.path.glob("*.safetensors"))
            if not names:
                raise CheckpointError(
                    f"{self.path}: no *.safetensors file; PyTorch .bin checkpoints are not read, "
                    "of a GGUF checkpoint give the .gguf file itself"
                )
        files = [self.path / name for name in names]
        for file in files:
            try:
                with safe_open(file, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file}: damaged or truncated ({error})") from None
        return files

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over config, generation config, weights, tokenizer files and chat template."""
        digest = hashlib.sha256()
        for file in [self.path / name for name in _FINGERPRINTED] + self.weight_files():
            if file.exists():
                digest.update(f"{file.name}\0{sha256(file)}\n".encode())
        return digest.hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path, error=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_checkpoint(
    path_or_repo: str | os.PathLike[str], *, revision: str | None = None, config_only: bool = False
) -> Checkpoint:
    """The checkpoint in a local folder or `.gguf` file, or of a Hugging Face repository:
    `owner/name`, or `owner/name/file.gguf` for a GGUF file there.

    A repository's files come from the hub's local cache or are downloaded into it
    (`HF_HUB_OFFLINE`, `HF_HOME` and the user's token are honoured).

    Args:
        revision: branch, tag or commit of a repository.
        config_only: of a repository, download config.json alone; a GGUF file, which holds its
            config, is downloaded whole.

    Raises:
        CheckpointError: no such folder, file or repository, no access to it, or no network.
    """
    from gemma_mlx.gguf import GgufCheckpoint, starts_as_gguf

    name = os.fspath(path_or_repo)
    gguf = name.lower().endswith(".gguf")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return Checkpoint(path.resolve())
        if path.is_file() and (gguf or starts_as_gguf(path)):
            return GgufCheckpoint(path.absolute())
        if path.exists():
            raise CheckpointError(
                f"{name}: a checkpoint is a folder with config.json, or a GGUF file"
            )
    except (OSError, RuntimeError) as error:
        # A name that is too long for a file, or the home of nobody.
        raise CheckpointError(f"{name}: no such folder ({error})") from None
    owner, repo, file = (*name.split("/", 2), "", "")[:3]
    outside = path.is_absolute() or name.startswith((".", "~")) or not owner or not repo
    if outside or bool(file) != gguf:
        raise CheckpointError(
            f"{name}: no such {'file' if gguf else 'folder'}, and not a Hugging Face repository "
            f"({'owner/name/file.gguf' if gguf else 'owner/name'}) either"
        )
    if gguf:
        return GgufCheckpoint(_download(f"{owner}/{repo}", revision, file))
    if config_only:
        return Checkpoint(_download(name, revision, "config.json").parent)
    return Checkpoint(_download(name, revision))


def _download(repo: str, revision: str | None, file: str | None = None) -> Path:
    """A file of a repository, or the folder with all that a checkpoint is read from."""
    # Imported here: a local checkpoint needs no hub client, and it is slow to import.
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download, snapshot_download

    at = f"{repo} at revision {revision}" if revision else repo
    try:
        if file:
            return Path(hf_hub_download(repo, file, revision=revision))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_FILES)))
    except hub.GatedRepoError:
        why = (
            "a gated repository; accept its licence on its page at the hub, then log in with "
            "`hf auth login`"
        )
    except hub.RevisionNotFoundError:
        why = f"the repository has no revision {revision!r}"
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        why = "neither a local folder nor a repository on the Hugging Face hub"
    except hub.RemoteEntryNotFoundError:
        why = f"the repository has no {file or 'config.json'}"
    except Exception as error:
        # Besides its own errors the client lets through those of its HTTP library, which changes.
        why = (
            "not a local folder, not in the local hub cache, and the Hugging Face hub can't be "
            f"reached ({type(error).__name__}); check the spelling, the network and HF_HUB_OFFLINE"
        )
    raise CheckpointError(f"{at}: {why}")
