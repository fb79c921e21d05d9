"""Commands that read a finished run or bundles import nothing that computes, by `sys.modules` of a fresh process."""

from fresh_process import COMPUTING, in_fresh_process

NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""The variable that a notebook sets for its commands; its module is not installed here."""


def where_of(run_words):
    return [word for word in run_words if word.startswith("run.")]


def test_report_and_its_figures_need_no_model_and_no_back_end(run_words):
    ended = in_fresh_process("report", *run_words, **NOTEBOOK)
    assert ended.code == 0, ended.error
    assert "matplotlib" in ended.loaded
    assert ended.loaded & COMPUTING == set()


def test_export_and_leaderboard_need_no_model(run_words, tmp_path):
    bundle = tmp_path / "bundle.zip"
    for words in (("export", bundle, "--group", "us", *run_words), ("leaderboard", bundle)):
        ended = in_fresh_process(*words)
        assert ended.code == 0, ended.error
        assert ended.loaded & COMPUTING == set()
