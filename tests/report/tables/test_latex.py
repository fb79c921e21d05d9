import re
import subprocess

import pytest
from matplotlib.figure import Figure

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.report.tables.latex import escape_latex, render_document, render_latex

ASCII = "".join(map(chr, range(33, 127)))
LABELS = {
    r"100%_of {a} \section & $x^2$ #1 ~": {"clip_i": 0.5, "clip_t": -0.25},
    '[1] <a|b> "c" `d\' --- ?` “e”': {"clip_i": 0.25, "clip_t": 0.5},
    "two\nlines": {"clip_i": 0.125},
    "base": {"clip_i": 0.75, "clip_t": 0.75, "pickscore": 20.0},
}


@pytest.fixture
def source(report_input):
    inputs = report_input(LABELS, run="100% night\n\\input{x}", published=load_published(PublishedTable.MAIN))
    return render_latex(build_leaderboard(inputs))


def body(source):
    """Return the cells of the lines between the head and the bottom of the table."""
    lines = source.partition("Method")[2].partition(r"\bottomrule")[0].splitlines()[1:]
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines if line != r"\midrule"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("naive_db & 5%", r"naive\_db \& 5\%"),
        ("a\\b", r"a\textbackslash{}b"),
        ("{$x^2$}", r"\{\$x\textasciicircum{}2\$\}"),
        ("~#", r"\textasciitilde{}\#"),
        ("a---b-c", "a-{}-{}-b-c"),
        ("[0] *", "{[}0{]} {*}"),
        ("two\n lines", "two lines"),
        ("η=0.1 ± µ", r"$\eta$=0.1 $\pm$ $\mu$"),
        ("Cafe\u0301 an\u0303o", r"Caf\'{e} a\~{n}o"),
        ("5 €", r"5 \texteuro{}"),
        ("naïve Łódź", r"na\"{i}ve \L{}\'{o}d\'{z}"),
        ("猫 ą\x07", "U+732B U+0105U+0007"),
    ],
)
def test_special_characters_are_escaped(text, escaped):
    assert escape_latex(text) == escaped


def test_no_character_is_left_that_latex_would_act_upon():
    """With all known escapes taken out, only plain letters and marks remain."""
    known = r"\\text[a-z]+\{\}|\\[{}$&#%_]|\{[`'\[\]*]\}"
    assert not re.findall(r"[\\{}$&#%_^~<>|\"`\[\]*]", re.sub(known, "", escape_latex(ASCII)))


def test_rows_have_as_many_cells_as_the_head_has_columns(source):
    columns = int(re.search(r"\\begin\{tabular\}\{l\*\{(\d+)\}\{r\}\}", source)[1])
    rows = body(source)
    assert {len(row) for row in rows} == {columns + 1}
    assert [row[0].strip() for row in rows] == [
        "base (control)",
        r"100\%\_of \{a\} \textbackslash{}section \& \$x\textasciicircum{}2\$ \#1 \textasciitilde{}",
        r"{[}1{]} \textless{}a\textbar{}b\textgreater{} ''c'' {`}d{'} -{}-{}- ?{`} ``e''",
        "two lines",
        "real images (ceiling)",
        "Naive-DB (published)",
        "Enc-FT (published)",
        "MoKus (published)",
    ]


def test_best_is_bold_second_underlined_and_gaps_have_a_dagger(source):
    _, first, second, third, *_ = body(source)
    assert [cell.strip() for cell in first[1:4]] == [
        r"\textbf{0.500}",
        r"\underline{$-$0.250}",
        r"\textendash{}$^{\dagger}$",
    ]
    assert [cell.strip() for cell in second[1:3]] == [r"\underline{0.250}", r"\textbf{0.500}"]
    assert third[1].strip() == "0.125"


def test_controls_ceilings_and_published_rows_are_never_bold(source):
    control, *_, ceiling, naive_db, enc_ft, mokus = body(source)
    for row in (control, ceiling, naive_db, enc_ft, mokus):
        assert not re.search(r"textbf|underline", "".join(row))


def test_the_head_comment_names_run_and_protocols_and_stays_a_comment(source):
    head = source.partition(r"\begin{tabular}")[0].splitlines()
    assert all(line.startswith("%") for line in head)
    assert "run 100% night \\input{x}" in head[0]
    assert "% protocol of clip_i: abc" in head


def test_braces_and_environments_are_balanced(source):
    code = re.sub(r"(?m)^%.*$", "", source).replace(r"\\", "")
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", code):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert re.findall(r"\\(begin|end)\{(\w+)\}", code) == [("begin", "tabular"), ("end", "tabular")]


def compiled(directory, name):
    """Return the log of pdflatex in `directory`, which must end without an error."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.latex
def test_the_table_compiles_in_a_document_with_booktabs(source, tmp_path):
    (tmp_path / "leaderboard.tex").write_text(source)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{leaderboard}\end{document}"
    (tmp_path / "main.tex").write_text(document)
    compiled(tmp_path, "main.tex")


@pytest.mark.latex
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
def test_any_label_compiles_in_any_encoding(report_input, tmp_path, encoding):
    blocks = [
        *map(chr, range(1, 0x250)),
        *map(chr, range(0x370, 0x400)),
        *map(chr, range(0x2000, 0x2100)),
        "猫🐱\ud7ff",
    ]
    labels = {f"{n} {''.join(blocks[n : n + 40])} {n}": {"clip_i": 0.5} for n in range(0, len(blocks), 40)}
    source = render_latex(build_leaderboard(report_input(labels | LABELS)))
    head = rf"\documentclass{{article}}\usepackage[{encoding}]{{fontenc}}\usepackage{{booktabs}}\begin{{document}}"
    (tmp_path / "main.tex").write_text(rf"{head}{source}\end{{document}}", encoding="utf-8")
    assert "Missing character" not in compiled(tmp_path, "main.tex")


@pytest.mark.latex
def test_the_document_shows_its_tables_and_figures(source, tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table.tex").write_text(source)
    Figure(figsize=(2, 1)).savefig(tmp_path / "paper" / "pareto.pdf")
    (tmp_path / "document.tex").write_text(render_document(["paper/table"], ["paper/pareto.pdf"]))
    assert "(2 pages" in compiled(tmp_path, "document.tex")
