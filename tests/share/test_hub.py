"""Pushing to a hub, with the real client against a small server that speaks the needed part of the hub's protocol."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
from huggingface_hub import HfApi, constants

from knowcusbench.errors import BundleError
from knowcusbench.share.bundle import read_bundle
from knowcusbench.share.hub import push, scores_dataset


class Hub(BaseHTTPRequestHandler):
    """A server that keeps the files of every commit in `server.files`."""

    def log_message(self, *_):
        pass

    def answer(self, document, status=200):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.answer({}, 404)

    def do_GET(self):
        self.answer({"id": "lab/results", "sha": "0" * 40, "siblings": [], "tags": [], "private": False})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.calls.append((self.path, self.headers["Authorization"]))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/datasets/lab/results"}, self.server.status)
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]},
                self.server.status,
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/datasets/lab/results/commit/1"
            self.answer({"success": True, "commitOid": "1", "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({"errors": [], "warnings": []})


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.calls, server.created, server.files, server.status = [], [], {}, 200
    # The value that HF_ENDPOINT sets when the client is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_gets_every_part_and_a_card(hub, parts, tmp_path):
    api = HfApi(endpoint=hub.address, token="hf_secret")
    address = push(parts, "lab/results", "lab a/small", private=True, api=api)
    assert address.endswith("/commit/1")
    assert {hub.files.pop("README.md")[:9]} == {b"---\ntags:"}
    assert hub.files == {f"lab a/small/{name}": data for name, data in parts.items()}
    (created,) = hub.created
    assert (created["name"], created["organization"], created["type"]) == ("results", "lab", "dataset")
    # Versions of the client word it in two ways.
    assert created.get("private") or created.get("visibility") == "private"
    assert {token for _, token in hub.calls} == {"Bearer hf_secret"}
    for name, data in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert read_bundle(tmp_path / "lab a" / "small").group == "lab a"


def test_the_card_finds_the_scores_of_every_folder(hub, parts, tmp_path):
    push(parts, "lab/results", "one", api=HfApi(endpoint=hub.address, token="t"))
    pattern = re.search(r'data_files: "(.*)"', hub.files["README.md"].decode())[1]
    for name, data in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern)] == ["one/scores.parquet"]


def test_what_the_hub_refuses_is_one_line(hub, parts):
    hub.status = 403
    with pytest.raises(BundleError, match=r"--push lab/results: the hub refused: .*403") as error:
        push(parts, "lab/results", "one", api=HfApi(endpoint=hub.address, token="t"))
    assert "\n" not in str(error.value)
    with pytest.raises(BundleError, match="--push no/good/name"):
        push(parts, "no/good/name", "one", api=HfApi(endpoint=hub.address, token="t"))


def test_a_hub_that_does_not_answer_is_one_line(hub, parts):
    nobody = HfApi(endpoint="http://127.0.0.1:9", token="t")
    with pytest.raises(BundleError, match="the hub refused"):
        push(parts, "lab/results", "one", api=nobody)


def test_offline_and_without_a_token_nothing_is_tried(hub, parts, monkeypatch):
    monkeypatch.setattr("knowcusbench.share.hub.get_token", lambda: None)
    with pytest.raises(BundleError, match="no token for the hub; log in with `hf auth login`, or set HF_TOKEN"):
        push(parts, "lab/results", "one", api=HfApi(endpoint=hub.address))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BundleError, match="HF_HUB_OFFLINE is set"):
        push(parts, "lab/results", "one", api=HfApi(endpoint=hub.address, token="t"))
    assert not hub.calls


def test_the_scores_are_a_data_set_that_is_saved_and_loaded(bundle, tmp_path):
    scores = read_bundle(bundle).scores
    scores_dataset(scores).save_to_disk(tmp_path / "ds")
    loaded = datasets.load_from_disk(tmp_path / "ds")
    assert loaded.to_pandas().equals(scores)
    assert loaded.filter(lambda row: row["method"] == "anchor").num_rows == (scores["method"] == "anchor").sum()
