"""The calls that trackers get from a real command, and how the three shipped trackers pass them on."""

import json
import re
import sys

import pytest
import yaml
from tracking.recording import Recorder

from knowcusbench.cli.main import main

pytestmark = pytest.mark.command

GRID = (
    "method=anchor",
    "backbone.steps=2",
    "grid.concepts=[reef_fish,rally_car]",
    "grid.knowledge_items=1",
    "grid.prompts=1",
    "grid.seeds=[0]",
    "metrics=[clip_i]",
    "effects.enabled=false",
    "recipe.dreambooth.steps=1",
    "recipe.dreambooth.prior_images=0",
)
RECORDER = "+tracker._target_=tracking.recording.Recorder"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """The root of a run that was made with a tracker, and the calls that the tracker recorded."""
    root = tmp_path_factory.mktemp("runs")
    words = (f"run.root={root}", "run.name=tracked", f"cache_dir={root}/cache")
    main(["bench", *words, *GRID, RECORDER])
    heard = list(Recorder.heard)
    return root, words, heard


@pytest.fixture
def call(where, capsys, tmp_path, monkeypatch):
    """Run a command; it must leave nothing in the working directory, where MLflow by itself writes `mlruns/`."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            main([words[0], *where[1], "run.label=anchor", *words[1:]])
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    yield run
    assert list(tmp_path.iterdir()) == []


def numbers(root):
    board = json.loads((root / "tracked" / "report" / "leaderboard.json").read_text())
    row = next(row for row in board["rows"] if row["label"] == "anchor")
    return {f"leaderboard/{key}": cell["value"] for key, cell in row["cells"].items() if cell["value"] is not None}


def test_a_tracker_hears_the_configuration_seconds_losses_and_the_leaderboard(where):
    root, _, heard = where
    assert (heard[0][:2], heard[-1]) == (("start", "tracked/anchor"), ("finish",))
    recorded = yaml.safe_load((root / "tracked" / "configs" / "anchor.yaml").read_text())
    # What the run remembers of the method is no part of the configuration.
    assert recorded.pop("record")["role"] == "ceiling"
    assert heard[0][2] == recorded
    logged = {}
    for kind, *rest in heard:
        if kind == "log":
            logged |= rest[0]
    (record,) = (root / "tracked" / "provenance").glob("*.json")
    seconds = json.loads(record.read_text())["seconds"]
    assert {f"seconds/{stage}": value for stage, value in seconds.items()}.items() <= logged.items()
    for concept in ("reef_fish", "rally_car"):
        adaptation = json.loads((root / "tracked/adaptations/anchor" / concept / "adaptation.json").read_text())
        assert logged[f"loss/{concept}/dreambooth_loss"] == adaptation["details"]["dreambooth_loss"]
    assert numbers(root).items() <= logged.items()
    assert len(numbers(root)) >= 4
    assert [name for kind, name, *_ in (entry for entry in heard if len(entry) > 1) if kind == "artifact"] == [
        *("leaderboard.csv", "leaderboard.md", "pictures.png"),
    ]


def test_a_tracker_that_breaks_does_not_stop_the_command(call):
    Recorder.heard.clear()
    code, error = call("report", RECORDER, "+tracker.breaks=true")
    assert code == 0
    (line,) = [line for line in error.splitlines() if "tracker" in line]
    assert line == "knowcusbench: tracker: ConnectionError: nobody; this command continues without it"
    assert [kind for kind, *_ in Recorder.heard] == ["start"]


def test_without_a_tracker_nothing_is_written_beside_the_run(where, call):
    assert call("report")[0] == 0
    assert {path.name for path in where[0].iterdir()} <= {
        "tracked",
        "cache",
        "tensorboard",
        "wandb",
        "mlflow.db",
        "mlflow",
    }


def test_tensorboard_has_the_same_numbers(where, call):
    pytest.importorskip("tensorboard", reason="needs tensorboard (pip install tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call("report", "tracker=tensorboard")[0] == 0
    events = EventAccumulator(str(where[0] / "tensorboard" / "tracked" / "anchor"))
    events.Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found.pop("seconds/report") > 0
    assert found == pytest.approx(numbers(where[0]))
    assert events.Tags()["images"] == ["pictures"]
    (text,) = events.Tensors("config/text_summary")
    assert "_target_: knowcusbench.baselines.Anchor" in text.tensor_proto.string_val[0].decode()


def test_mlflow_has_the_same_numbers(where, call):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (pip install mlflow)")
    assert call("report", "tracker=mlflow")[0] == 0
    client = mlflow.MlflowClient(f"sqlite:///{where[0]}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("knowcusbench").experiment_id])
    assert numbers(where[0]).items() <= run.data.metrics.items()
    assert run.data.params["method._target_"] == "knowcusbench.baselines.Anchor"
    assert (run.info.run_name, run.info.status) == ("tracked/anchor", "FINISHED")


def test_wandb_has_the_same_numbers_offline(where, call):
    pytest.importorskip("wandb", reason="needs wandb (pip install wandb)")
    assert call("report", "tracker=wandb", "tracker.mode=offline")[0] == 0
    (log,) = (where[0] / "wandb").glob("offline-run-*/run-*.wandb")
    written = log.read_bytes()
    for name, value in numbers(where[0]).items():
        assert name.encode() in written
        assert re.search(rb"%s.{0,4}%s" % (re.escape(name.encode()), str(value)[:12].encode()), written, re.DOTALL)


@pytest.mark.parametrize(
    ("tracker", "module"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "tensorboard")]
)
def test_a_missing_package_is_one_line_that_names_the_command(call, monkeypatch, tracker, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, error = call("report", f"tracker={tracker}")
    assert code == 2
    assert re.search(rf"knowcusbench: tracker: needs {module} \(.*\); pip install {module}\n", error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tracker=tensorbord",), "tracker=tensorbord: no such option; did you mean 'tensorboard'"),
        (("tracker=wandb", "tracker.mode=ofline"), "tracker.mode: .*'ofline'"),
        (("tracker=tensorboard", "tracker.dir=x"), "tracker.dir: unknown key"),
        (("tracker=tensorboard", "+tracker.directry=x"), "tracker.directry: unknown key; did you mean 'directory'"),
    ],
)
def test_a_wrong_word_is_one_line(call, words, said):
    code, error = call("report", *words)
    assert code == 2
    assert re.search(said, error)
