"""from_pretrained by Hub name: the real client in a process of its own, against a loopback server."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from hub_server import HubServer

from kronos.model import Kronos, digest, save_model
from kronos.model.hub import download, is_hub_name
from kronos.utils.errors import UserError

LOAD = """
import json, sys
from kronos.utils.errors import UserError
from kronos.model import Kronos, KronosTokenizer, digest
answers = []
for kind, name, revision in json.loads(sys.argv[1]):
    try:
        model = {"predictor": Kronos, "tokenizer": KronosTokenizer}[kind].from_pretrained(name, revision)
        answers.append(digest(model))
    except UserError as error:
        answers.append(f"UserError: {error}")
print("ANSWERS" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub(nano, tmp_path_factory):
    """Two revisions of a predictor, a tokenizer, and a repository without weights: server and digests."""
    folder = tmp_path_factory.mktemp("repos")
    tokenizer, first = nano
    second = Kronos(**first.config)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.norm.weight.mul_(2)

    def files(model, name):
        save_model(model, folder / name)
        return {path.name: path.read_bytes() for path in (folder / name).iterdir()}

    new, old, bits = files(second, "new"), files(first, "old"), files(tokenizer, "tokenizer")
    repos = {
        "someone/kronos": {"main": ("a" * 40, new), "v1": ("b" * 40, old)},
        "someone/tokenizer": {"main": ("c" * 40, bits)},
        "someone/empty": {"main": ("d" * 40, {"config.json": new["config.json"]})},
    }
    with HubServer(repos) as server:
        yield server, {"new": digest(second), "old": digest(first), "tokenizer": digest(tokenizer)}


def load(asked, home, endpoint, offline="0"):
    """What a fresh process answers: digests, or errors as text."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)], env=environment, capture_output=True, text=True
    )
    assert "ANSWERS" in done.stdout, done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


def test_names_load_by_revision_and_every_failure_is_one_clear_line(hub, tmp_path):
    server, digests = hub
    asked = [
        ("predictor", "someone/kronos", None),
        ("predictor", "someone/kronos", "v1"),
        ("predictor", "someone/kronos", "b" * 40),
        ("tokenizer", "someone/tokenizer", None),
        ("predictor", "someone/kronos", "v9"),
        ("predictor", "someone/nothing", None),
        ("predictor", "someone/gated", None),
        ("predictor", "someone/empty", None),
        ("tokenizer", "someone/kronos", None),
    ]
    answers = load(asked, tmp_path / "home", server.url)
    assert answers[:4] == [digests["new"], digests["old"], digests["old"], digests["tokenizer"]]
    for answer, expected in zip(
        answers[4:],
        [
            "someone/kronos has no revision v9: give one of its branches, tags or commits",
            f"there is no folder someone/nothing here, and no someone/nothing on {server.url}: check the spelling",
            "someone/gated asks for its terms to be accepted",
            "someone/empty has no model.safetensors: it is not a Kronos checkpoint",
            "lacks d_in, n_enc_layers",
        ],
        strict=True,
    ):
        assert answer.startswith("UserError: ") and expected in answer and "\n" not in answer, answer
    both = [path for method, path in server.requests if method == "HEAD" and "/someone/kronos/" in path]
    assert both[:2] == [
        "/someone/kronos/resolve/main/config.json",
        f"/someone/kronos/resolve/{'a' * 40}/model.safetensors",
    ], "the weights come from the commit of the configuration"

    known, unknown = ("predictor", "someone/kronos", None), ("predictor", "someone/other", None)
    answers = load([known, unknown], tmp_path / "home", server.url, offline="1")
    assert answers[0] == digests["new"], "what is in the cache loads offline"
    assert "someone/other is not in the local cache" in answers[1] and "HF_HUB_OFFLINE is set" in answers[1]


@pytest.mark.slow  # the client tries again for 20 seconds
def test_a_hub_that_cannot_be_reached_is_said_in_one_line(tmp_path):
    (answer,) = load([("predictor", "someone/kronos", "v1")], tmp_path, "http://127.0.0.1:9")
    assert answer.startswith(
        "UserError: there is no folder someone/kronos here, someone/kronos at revision v1 is"
    )
    assert "http://127.0.0.1:9 cannot be asked (" in answer and "\n" not in answer
    assert answer.endswith("give a folder, or run once with a connection")


def test_retry_warnings_of_the_client_are_not_logged(monkeypatch, caplog):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*given, **more):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    before = logging.getLogger("huggingface_hub").level
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="cannot be asked"):
        download("someone/kronos", ("config.json",))
    assert not caplog.records
    assert logging.getLogger("huggingface_hub").level == before


def test_what_reads_as_a_hub_name():
    assert is_hub_name("NeoQuasar/Kronos-small") and is_hub_name("a/b.c_d")
    for path in ("./a/b", "/a/b", "a", "a/b/c", "~/a", "a/", "", "../b", "a b/c"):
        assert not is_hub_name(path), path
