"""Results on the Hugging Face Hub, and as a `datasets.Dataset`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from knowcusbench.errors import BundleError
from knowcusbench.share.pack import write_folder

if TYPE_CHECKING:
    import datasets

HTTP_ERROR: Any = HfHubHTTPError.__bases__[0]
"""The hub client's error if nobody answers. It comes from the client's HTTP library, which changes with its version."""

CARD = """\
---
tags: [knowcusbench]
configs:
- config_name: scores
  data_files: "**/scores.parquet"
---
Results of [knowcusbench](https://pypi.org/project/knowcusbench/), a folder for each run: `scores.parquet` has one row
per method, sample and metric. `knowcusbench leaderboard FOLDER...` checks them and shows them in one table.
"""


def push(parts: Mapping[str, bytes], repo: str, folder: str, *, private: bool = True, api: HfApi | None = None) -> str:
    """Upload a bundle's parts to `folder` of a data set repository on the hub, and return the commit's URL.

    The repository is created if it does not exist. Raises BundleError if the hub can't be reached or refuses.
    """
    api = api or HfApi()
    if constants.HF_HUB_OFFLINE:
        raise BundleError(f"--push {repo}: HF_HUB_OFFLINE is set; unset it to reach the hub")
    if not (api.token or get_token()):
        raise BundleError(f"--push {repo}: no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            write_folder(root / folder, parts)
            if not api.file_exists(repo, "README.md", repo_type="dataset"):
                (root / "README.md").write_text(CARD, encoding="utf-8")
            done = api.upload_folder(
                repo_id=repo, repo_type="dataset", folder_path=root, commit_message=f"Results of {folder}"
            )
    except (OSError, ValueError, HTTP_ERROR) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"--push {repo}: the hub refused: {reason}") from error
    return str(done.commit_url)


def scores_dataset(scores: pd.DataFrame) -> "datasets.Dataset":
    """Return a bundle's scores, one row per method, sample and metric, as a `datasets.Dataset`.

    It has `save_to_disk`, `to_json` and filters, and can be plotted.
    """
    import datasets

    return datasets.Dataset.from_pandas(scores, preserve_index=False)
