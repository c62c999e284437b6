import ast
import inspect
import io
import keyword
import tokenize
import warnings

import numpy as np
import pytest

from skdict.datasets import label_python_spans, load_python_corpus, python_token_labels

SOURCE = '''\
#!/usr/bin/env python
"""Módulo."""
import os.path as p, sys; MAX_1 = 0x1F
from .a import (b,  # why
    c)

@dec.orate(
    1)
@dec
class Ünï(Base, metaclass=M):
    'class' "doc"

    async def méth(self, a: int = 3, *args, k=None, **kw) -> "str":
        """Doc
        string."""
        s = f'é{self.a!r:>{w}} {{}} {print(1)}' 'z' + "plain"
        for i in range(10):
            if not i: return len(s.foo(bar=ValueError("é" + s)), )
        # comment

        y: list[int] = lambda q: \\
            q.z ** 2
    other = ... if x @ y else len
A = [e for e in Ω if e != 1.5j]
'''

EXPECTED = {  # a str stands for its words
    "documentation": [],
    "comment": ["#!/usr/bin/env python", "# why", "# comment"],
    "docstring": ['"""Módulo."""', "'class'", '"doc"', '"""Doc\n        string."""'],
    "string": ['"str"', "f'é{self.a!r:>{w}} {{}} {print(1)}'", "'z'", '"plain"', '"é"'],
    "number": ["0x1F", "1", "3", "10", "2", "1.5j"],
    "keyword": (
        "import as from import class async def None for in if not return lambda if else for in if"
    ),
    "keyword_class": ["class"],
    "keyword_def": ["def"],
    "keyword_for": ["for", "for"],
    "keyword_if": ["if", "if", "if"],
    "keyword_import": ["import", "import"],
    "keyword_return": ["return"],
    "operator": "= @ @ = = * = ** = + = + = ** = @ = !=",
    "assignment": "= = = = = = = = =",
    "delimiter": (
        ". , ; . ( , ) . ( ) ( , ) : ( , : , , , ) -> : ( ) : : ( . ( ( ) ) , ) : [ ] : . [ ]"
    ),
    "opening_bracket": "( ( ( ( ( ( ( ( [ [",
    "closing_bracket": ") ) ) ) ) ) ) ) ] ]",
    "name": (
        "os path p sys MAX_1 a b c dec orate dec Ünï Base metaclass M méth self a int args k kw "
        "s i range i len s foo bar ValueError s y list int q q z other x y len A e e Ω e"
    ),
    "self": ["self"],
    "upper_case_name": ["MAX_1"],
    "attribute": ["orate", "foo", "z"],
    "function_name": ["méth"],
    "class_name": ["Ünï"],
    "parameter": ["self", "a", "args", "k", "kw", "q"],
    "keyword_argument": ["metaclass", "bar"],
    "call": ["orate", "range", "len", "foo", "ValueError"],
    "builtin": ["int", "range", "len", "list", "int", "len"],
    "exception": ["ValueError"],
    "import_line": ["import os.path as p, sys", "from .a import (b,  # why\n    c)"],
    "decorator": ["@dec.orate(\n    1)", "@dec"],
    "annotation": ["int", '"str"', "list[int]"],
    "newline": [
        "\n" * n_breaks + " " * n_spaces
        for n_breaks, n_spaces in [
            *[(1, 0), (1, 0), (1, 0), (1, 4), (2, 0), (1, 4), (1, 0), (1, 0), (1, 4), (2, 4)],
            *[(1, 8), (1, 8), (1, 8), (1, 12), (1, 8), (2, 8), (1, 12), (1, 4), (1, 0), (1, 0)],
        ]
    ],
    "indent": ["\n    ", "\n        ", "\n            "],
    "dedent": ["\n\n        ", "\n    ", "\n"],
}
EXPECTED = {
    label: found.split() if isinstance(found, str) else found for label, found in EXPECTED.items()
}


def substrings(text):
    spans = label_python_spans(text)
    return {label: [text[start:end] for start, end in found] for label, found in spans.items()}


def labels_of(text, pieces, **params):
    """Cut `text` into `pieces`, which join to it, and return the labels of each."""
    assert "".join(pieces) == text
    end = np.cumsum([len(piece) for piece in pieces])
    tokens = {"document": np.zeros(len(end), int), "start": end - [len(p) for p in pieces]}
    result = python_token_labels([text], {**tokens, "end": end}, **params)
    return [{result.target_names[j] for j in np.flatnonzero(row)} for row in result.data]


# Spans


def test_every_class_on_a_source_by_hand():
    assert substrings(SOURCE) == EXPECTED


def test_every_label_is_documented_and_every_documented_label_exists():
    table = inspect.getdoc(label_python_spans).split("=\n")[2]
    documented = [line.split()[0] for line in table.splitlines() if line[0] not in " ="]
    assert documented == list(label_python_spans(""))


def test_spans_are_sorted_integer_arrays():
    for found in label_python_spans(SOURCE).values():
        assert found.dtype == np.int64 and found.ndim == 2 and found.shape[1] == 2
        assert (np.diff(found[:, 0]) > 0).all()
        assert (found[:, 0] < found[:, 1]).all()


@pytest.mark.parametrize("line_break", ["\r\n", "\r"])
def test_line_breaks_of_any_kind(line_break):
    text = SOURCE.replace("\n", line_break)
    found = substrings(text)
    for label, expected in EXPECTED.items():
        assert found[label] == [part.replace("\n", line_break) for part in expected], label


def test_mixed_line_breaks():
    text = "a = 1  \r\n\r\n\rif a:\r    b  # c\r\nd"
    found = substrings(text)
    assert found["name"] == ["a", "a", "b", "d"]
    assert found["comment"] == ["# c"]
    assert found["newline"] == ["  \r\n\r\n\r", "\r    ", "\r\n"]
    assert found["indent"] == ["\r    "]
    assert found["dedent"] == ["\r\n"]


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("x = 1", "number", ["1"]),  # no line break at the end
        ("# only", "comment", ["# only"]),
        ("if x:\n    y", "indent", ["\n    "]),
        ("if x:\n    y", "dedent", []),  # no line follows
        ("if x:\n    y\n\n", "dedent", []),
        ("if x:\n\ty\nz", "indent", ["\n\t"]),
        ("if x:\n\tif y:\n\t\tpass\nelse:\n\tpass", "dedent", ["\n"]),  # two blocks at once
        ("def f():\n  x\n # c\ny", "dedent", ["\n"]),  # before the line, not the comment
        ("\x0cdef f():\n\tpass\n\x0c\ny = 1\n", "function_name", ["f"]),
        ("\x0cdef f():\n\tpass\n\x0c\ny = 1\n", "number", ["1"]),
        ("\x0cdef f():\n\tpass\n\x0c\ny = 1\n", "dedent", ["\n\x0c\n"]),
        ("\ufeffx = 'é' + y", "name", ["x", "y"]),  # byte order mark
        ("x = 'ü\u2028\x85' + y.ß", "attribute", ["ß"]),  # no line breaks for Python
        ("'ß'; f(a.ß, ö=é)", "call", ["f"]),
        ("'ß'; f(a.ß, ö=é)", "keyword_argument", ["ö"]),
        ("日本.語(本=1)", "call", ["語"]),
        ("x = '😀'; print(y)", "builtin", ["print"]),
        ("x = (1 +\\\n  len)", "builtin", ["len"]),
        ("x = 'a\\\n b'\ny", "newline", ["\n"]),  # none inside a string
        ('("""doc""")\nx', "docstring", ['"""doc"""']),
        ("b'no doc'", "docstring", []),
        ("f'no doc'", "docstring", []),
        ("f'no doc'", "string", ["f'no doc'"]),
        ("def f(): 'doc'; 'no doc'", "docstring", ["'doc'"]),
        ("x = f'{f\"{a}\"}{b:{c}}' + d", "string", ["f'{f\"{a}\"}{b:{c}}'"]),
        ("x = f'{f\"{a}\"}{b:{c}}' + d", "name", ["x", "d"]),
        ("x = f'''{\na}\n''' + len", "string", ["f'''{\na}\n'''"]),
        ("x = f'{len(y)}'", "call", []),
        ("x = rb'a' 'b'", "string", ["rb'a'", "'b'"]),
        ("x += 1; y: int; (z := 2)", "assignment", ["+=", ":="]),
        ("def f(a, /, b=1, *, c: int = 2): pass", "parameter", ["a", "b", "c"]),
        ("def f(a, /, b=1, *, c: int = 2): pass", "operator", ["/", "=", "*", "="]),
        ("def f(*a: int, **k: str) -> dict: pass", "annotation", ["int", "str", "dict"]),
        ("lambda x, *y: x", "parameter", ["x", "y"]),
        ("f()(1); g[0](2); a.b(3)", "call", ["f", "b"]),
        ("(a\n .b)()", "call", ["b"]),
        ("x.len; len = 1; print(len)", "builtin", ["print", "len"]),
        ("exit(); copyright; None; __import__('x'); __loader__", "builtin", []),
        ("try: pass\nexcept (OSError, E): raise KeyError", "exception", ["OSError", "KeyError"]),
        ("a @ b\n@c\ndef f(): pass", "decorator", ["@c"]),
        ("x = (1\n@ y)\n", "decorator", []),
        ("@c  # why\ndef f(): pass", "decorator", ["@c"]),
        (
            "if x: import a; from b import c as d",
            "import_line",
            ["import a", "from b import c as d"],
        ),
        ("def f():\n yield from g\n raise X from y", "import_line", []),
        ("import a.b\nfrom .. import c", "attribute", []),
        ("match x:\n    case y.Z(): pass", "name", ["match", "x", "case", "y", "Z"]),
        ("match x:\n    case y.Z(): pass", "attribute", ["Z"]),
        ("T, _X, __A1, A = 1, 2, 3, 4", "upper_case_name", ["_X", "__A1"]),
        ("x = ...", "operator", ["="]),
        ("True, None", "keyword", ["True", "None"]),
        ("", "name", []),
        (" \n\n", "newline", [" \n\n"]),
    ],
)
def test_particular_spans(text, label, expected):
    assert substrings(text)[label] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Python 2: the tokens are fine, the tree is not
        (
            "def f(a):\n    'doc'\n    print 'x', len(a)  # why\n",
            {"string": ["'doc'", "'x'"], "comment": ["# why"], "function_name": ["f"]},
        ),
        ("x = (1,\n  y\n", {"number": ["1"], "name": ["x", "y"]}),
        ("a = 1\nb = '''open\nc = 2\n", {"name": ["a", "b"], "number": ["1"], "newline": ["\n"]}),
        ("a = 1\nb = 'open\nc = 2\n", {"name": ["a", "b"], "number": ["1"], "newline": ["\n"]}),
        ("a = 1 $ b = 2\n", {"name": ["a"], "number": ["1"], "newline": []}),
        ("a = ?\n", {"name": ["a"], "operator": ["="], "newline": []}),
        ("if x:\n    y\n  z\n", {"name": ["x", "y"], "keyword_if": ["if"]}),
        ("import a\nx = = 1\n", {"keyword_import": ["import"], "number": ["1"]}),
    ],
)
def test_text_that_is_not_python_gives_partial_labels(text, expected):
    found = substrings(text)
    assert {label: found[label] for label in expected} == expected
    needs_tree = ["docstring", "attribute", "parameter", "keyword_argument", "call", "builtin"]
    needs_tree += ["exception", "import_line", "annotation"]
    assert all(found[label] == [] for label in needs_tree)
    tokens = {"document": [0], "start": [0], "end": [1]}
    assert not python_token_labels([text], tokens).parsed[0]


@pytest.mark.parametrize("text", ["\0", "x = 1\0\n", "'\ud800'\n", "(" * 5000, "\r", "\ufeff"])
def test_strange_texts_do_not_raise(text):
    for found in label_python_spans(text).values():
        assert (found <= len(text)).all()


def test_parsing_warns_about_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert substrings("print('\\d')\n")["builtin"] == ["print"]


def test_documentation_has_one_label():
    spans = label_python_spans(SOURCE, documentation=True)
    assert spans.pop("documentation").tolist() == [[0, len(SOURCE)]]
    assert all(len(found) == 0 for found in spans.values())


@pytest.mark.slow
def test_held_out_sources_agree_with_other_ways_to_find_the_same_thing():
    """Independent truths: ast.get_source_segment, untokenised tokens, and plain counts."""
    corpus = load_python_corpus(subset="test")
    n_checked = 0
    for text, target in zip(corpus.data, corpus.target, strict=True):
        if target == 1 or len(text) > 20_000:
            continue
        found, tree = substrings(text), ast.parse(text)
        nodes = list(ast.walk(tree))
        imports = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        imports.sort(key=lambda node: (node.lineno, node.col_offset))
        assert found["import_line"] == [ast.get_source_segment(text, n) for n in imports]
        functions = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        assert sorted(found["function_name"]) == sorted(n.name for n in functions)
        classes = [n.name for n in nodes if isinstance(n, ast.ClassDef)]
        assert sorted(found["class_name"]) == sorted(classes)
        assert all(ast.literal_eval(part) is not None for part in found["number"])
        assert all(isinstance(ast.literal_eval(part), str) for part in found["docstring"])
        assert all(keyword.iskeyword(part) for part in found["keyword"])
        assert all(part.isidentifier() for part in found["name"])
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        assert found["comment"] == [t.string for t in tokens if t.type == tokenize.COMMENT]
        assert {part.strip() for part in found["newline"]} <= {""}
        n_checked += 1
    assert n_checked > 20


# Tokens


def test_a_token_is_inside_if_its_visible_characters_are():
    text = "return x.foo(a)  # say it\n"
    pieces = ["return", " x", ".", "foo", "(", "a)", " ", " #", " ", "say", " it", "\n"]
    assert labels_of(text, pieces) == [
        {"keyword", "keyword_return"},
        {"name"},
        {"delimiter"},
        {"name", "attribute", "call"},
        {"delimiter", "opening_bracket"},
        set(),  # a name and a bracket
        set(),  # white space between code and comment
        {"comment"},
        {"comment"},
        {"comment"},
        {"comment"},
        {"newline"},
    ]


def test_adjacent_spans_of_a_label_make_one_region():
    assert labels_of("f()[0]", ["f", "()[", "0", "]"]) == [
        {"name", "call"},
        {"delimiter"},
        {"number"},
        {"delimiter", "closing_bracket"},
    ]
    assert labels_of("x = 'a' 'b'", ["x", " =", " 'a' 'b'"])[2] == {"string"}


def test_white_space_tokens():
    text = 'def f():\n    """One\n\n    two"""\n    return 1\n'
    pieces = ["def", " f", "():", "\n   ", ' """', "One", "\n\n   ", " two", '"""']
    pieces += ["\n   ", " return", " ", "1", "\n"]
    assert labels_of(text, pieces) == [
        {"keyword", "keyword_def"},
        {"name", "function_name"},
        {"delimiter"},
        {"newline", "indent"},
        {"docstring"},
        {"docstring"},
        {"docstring"},  # wholly inside
        {"docstring"},
        {"docstring"},
        {"newline"},
        {"keyword", "keyword_return"},
        set(),
        {"number"},
        {"newline"},
    ]


def test_white_space_partly_inside_is_outside():
    assert labels_of("# a \n\nb", ["# a", " \n", "\nb"]) == [{"comment"}, {"newline"}, {"name"}]
    assert labels_of("a #  \nb", ["a", " #", "  ", "\n", "b"])[2] == {"comment", "newline"}


def test_tokens_without_characters_have_no_label():
    tokens = {"document": [0, 0, 0], "start": [0, 0, 3], "end": [0, 3, 3]}
    labels = python_token_labels(["abc"], tokens)
    assert labels.data.any(axis=1).tolist() == [False, True, False]


def test_documents_in_any_order():
    texts = ["import a", "x = 'é'", "not Python", "", "if 1: pass"]
    order = [(4, 0, 2), (0, 0, 6), (1, 4, 7), (2, 0, 3), (0, 7, 8), (1, 0, 1)]
    document, start, end = np.transpose(order)
    labels = python_token_labels(
        texts,
        {"document": document, "start": start, "end": end, "token": None},
        documentation=[False, False, True, False, False],
    )
    expected = [
        {"keyword", "keyword_if"},
        {"keyword", "keyword_import", "import_line"},
        {"string"},
        {"documentation"},
        {"name", "import_line"},
        {"name"},
    ]
    assert labels.data.dtype == bool and labels.data.shape == (6, len(labels.target_names))
    for row, names in zip(labels.data, expected, strict=True):
        assert {labels.target_names[j] for j in np.flatnonzero(row)} == names
    assert labels.parsed.tolist() == [True] * 5


def test_token_labels_equal_the_definition_character_by_character():
    """The vectorised code against the sentence that defines it, on random cuts."""
    rng = np.random.default_rng(0)
    text = SOURCE.replace("\n", "\r\n", 7)
    spans = label_python_spans(text)
    inside = {
        label: {i for start, end in found for i in range(start, end)}
        for label, found in spans.items()
    }
    cuts = np.sort(rng.integers(0, len(text) + 1, size=400))
    tokens = {"document": np.zeros(399, int), "start": cuts[:-1], "end": cuts[1:]}
    labels = python_token_labels([text], tokens)
    for row, start, end in zip(labels.data, cuts[:-1], cuts[1:], strict=True):
        visible = [i for i in range(start, end) if not text[i].isspace()]
        needed = visible or list(range(start, end))
        for label, value in zip(labels.target_names, row, strict=True):
            assert value == (bool(needed) and all(i in inside[label] for i in needed))


def test_no_tokens():
    nothing = {"document": [], "start": [], "end": []}
    labels = python_token_labels([], nothing)
    assert labels.data.shape == (0, len(labels.target_names))
    labels = python_token_labels(["x = 1", "x = = 1"], nothing)
    assert labels.data.shape == (0, len(labels.target_names))
    assert labels.parsed.tolist() == [True, False]


def test_data_frame_of_tokens():
    pd = pytest.importorskip("pandas")
    tokens = pd.DataFrame({"document": [0], "start": [0], "end": [1]}, index=[7])
    labels = python_token_labels(pd.Series(["1"], index=[3]), tokens)
    assert labels.data[0, labels.target_names.index("number")]


# Bad input


@pytest.mark.parametrize("text", [b"x", None, ["x"]])
def test_text_must_be_a_string(text):
    with pytest.raises(TypeError, match=f"text must be a str, got {type(text).__name__}"):
        label_python_spans(text)


TOKENS = {"document": [0], "start": [0], "end": [1]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [("x = 1", "single str"), (["x", b"y"], "bytes at index 1"), ([None], "NoneType at index 0")],
)
def test_texts_must_be_strings(texts, message):
    with pytest.raises(TypeError, match=message):
        python_token_labels(texts, TOKENS)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"document": [0], "start": [0]}, "no entry 'end'"),
        ([0, 0, 1], "no entry 'document'"),
        ({**TOKENS, "start": [[0]]}, r"'start'\] must be a 1-D array of integers.*\(1, 1\)"),
        ({**TOKENS, "end": [1.0]}, r"'end'\] must be a 1-D array of integers.*float64"),
        ({**TOKENS, "end": [1, 1]}, "one length, got 1, 1 and 2"),
        ({**TOKENS, "document": [1]}, r"'document'\]\[0\] is 1, but there are 1 texts"),
        ({**TOKENS, "document": [-1]}, r"'document'\]\[0\] is -1"),
        ({**TOKENS, "end": [9]}, "characters 0 to 9 of document 0, which has 5"),
        ({**TOKENS, "start": [2]}, "characters 2 to 1"),
        ({**TOKENS, "start": [-1]}, "characters -1 to 1"),
    ],
)
def test_bad_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        python_token_labels(["x = 1"], tokens)


@pytest.mark.parametrize("documentation", [[True, False], [1], True, [[True]]])
def test_bad_documentation_mask(documentation):
    with pytest.raises(ValueError, match=r"documentation must be a boolean array of shape \(1,\)"):
        python_token_labels(["x = 1"], TOKENS, documentation=documentation)
