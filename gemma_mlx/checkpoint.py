"""Where a checkpoint's files are, and what they say without MLX: config, fingerprint, damage."""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gemma_mlx.adapters import Adapter
from gemma_mlx.config import GemmaConfig, token_ids
from gemma_mlx.errors import CheckpointError
from gemma_mlx.system.files import read_json, read_text, sha256
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
class Template:
    """A chat template in Jinja, and the file that it stands in."""

    text: str
    source: Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder in Hugging Face format, of which each file is read when it is needed.

    Attributes:
        adapter: what was trained on top of it, if anything.
        given_template: a chat template to use in place of the adapter's or the checkpoint's own.
    """

    path: Path
    adapter: Adapter | None = None
    given_template: Template | None = None

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

    @cached_property
    def chat_template(self) -> Template | None:
        """The template that prompts are put into; None where there is none."""
        return self.given_template or self._unchanged_template

    @property
    def chat_template_fingerprint(self) -> str | None:
        """sha256 over the chat template, wherever it stands; None without one."""
        template = self.chat_template
        return None if template is None else hashlib.sha256(template.text.encode()).hexdigest()

    @property
    def has_foreign_template(self) -> bool:
        """Whether the template isn't the checkpoint's own."""
        template, own = self.chat_template, self._own_template()
        return template is not None and (own is None or own.text != template.text)

    @property
    def _unchanged_template(self) -> Template | None:
        """The template without `given_template`."""
        return (self.adapter and read_template(self.adapter.path)) or self._own_template()

    def _own_template(self) -> Template | None:
        return read_template(self.path)

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
        """sha256 over config, generation config, weights, tokenizer files and chat template, and
        over the adapter's files and a given template that says something else."""
        own = self._own_fingerprint()
        more = [] if self.adapter is None else [self.adapter.fingerprint]
        given = self.given_template
        if given is not None and given.text != getattr(self._unchanged_template, "text", None):
            more.append(given.text)
        return hashlib.sha256("\0".join([own, *more]).encode()).hexdigest() if more else own

    def _own_fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in [self.path / name for name in _FINGERPRINTED] + self.weight_files():
            if file.exists():
                digest.update(f"{file.name}\0{sha256(file)}\n".encode())
        return digest.hexdigest()


def read_template(folder: Path) -> Template | None:
    """The chat template that a folder keeps, as transformers looks for it; None without one."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return Template(read_text(file, error=CheckpointError), file)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        template = _read_object(path).get("chat_template") if path.exists() else None
        if isinstance(template, list):
            # Several, by name; a plain conversation takes this one.
            named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
            template = named[0].get("template") if named else None
        if isinstance(template, str):
            return Template(template, path)
    return None


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path, error=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def find_checkpoint(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    chat_template: str | os.PathLike[str] | None = None,
    config_only: bool = False,
) -> Checkpoint:
    """The checkpoint in a local folder or `.gguf` file, or of a Hugging Face repository:
    `owner/name`, or `owner/name/file.gguf` for a GGUF file there.

    A repository's files come from the hub's local cache or are downloaded into it
    (`HF_HUB_OFFLINE`, `HF_HOME` and the user's token are honoured).

    Args:
        revision: branch, tag or commit of a repository.
        adapter: an adapter's folder or its repository on the hub, in the form of mlx-lm or PEFT.
        chat_template: a Jinja file to use in place of the adapter's or the checkpoint's own.
        config_only: of a repository, download config.json alone; a GGUF file, which holds its
            config, is downloaded whole. No adapter or template is looked for.

    Raises:
        CheckpointError: no such folder, file or repository, no access to it, or no network.
    """
    found = _find(os.fspath(path_or_repo), revision, config_only)
    if config_only:
        return found
    template = None
    if chat_template is not None:
        file = Path(chat_template)
        template = Template(read_text(file, error=CheckpointError), file)
    trained = None if adapter is None else find_adapter(os.fspath(adapter))
    return replace(found, adapter=trained, given_template=template)


def find_adapter(path_or_repo: str) -> Adapter:
    """The adapter in a local folder or of a hub repository; raises as `find_checkpoint`."""
    try:
        path = Path(path_or_repo).expanduser()
        if path.is_dir():
            return Adapter(path.resolve())
        if path.exists():
            raise CheckpointError(
                f"{path_or_repo}: an adapter is a folder with adapter_config.json"
            )
    except (OSError, RuntimeError) as error:
        # A name that is too long for a file, or the home of nobody.
        raise CheckpointError(f"{path_or_repo}: no such folder ({error})") from None
    if path.is_absolute() or path_or_repo.startswith((".", "~")) or path_or_repo.count("/") != 1:
        raise CheckpointError(
            f"{path_or_repo}: no such folder, and not a Hugging Face repository (owner/name) either"
        )
    return Adapter(_download(path_or_repo, None, needed="adapter_config.json"))


def _find(name: str, revision: str | None, config_only: bool) -> Checkpoint:
    from gemma_mlx.gguf import GgufCheckpoint
    from gemma_mlx.gguf_file import starts_as_gguf

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


def _download(
    repo: str, revision: str | None, file: str | None = None, *, needed: str = "config.json"
) -> Path:
    """A file of a repository, or the folder with all that a checkpoint or adapter is read from."""
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
        why = f"the repository has no {file or needed}"
    except Exception as error:
        # Besides its own errors the client lets through those of its HTTP library, which changes.
        why = (
            "not a local folder, not in the local hub cache, and the Hugging Face hub can't be "
            f"reached ({type(error).__name__}); check the spelling, the network and HF_HUB_OFFLINE"
        )
    raise CheckpointError(f"{at}: {why}")
