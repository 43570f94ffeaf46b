"""A data set of ours on the hub."""

from __future__ import annotations

from pathlib import Path

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.records import fetch


def push(data: Path, name: str, card: str, repository: str, *, private: bool) -> str:
    """Put a file of dialogues on the hub as `name`, and its card; returns the data set's URL."""
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra("data push", "huggingface_hub", "hub") from error
    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.create_commit(
            repository,
            [CommitOperationAdd("README.md", card.encode()), CommitOperationAdd(name, str(data))],
            repo_type="dataset", commit_message="Upload by ultrachat",
        )  # fmt: skip
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = fetch.first_line(error)
        raise UltraError(
            f"{repository}: could not be pushed: {reason}",
            "check the name and the network; HF_TOKEN needs the right to write",
        ) from error
    return str(url)
